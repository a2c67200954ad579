"""What a report says: of one anatomy in words, of one finding in a word."""

from dataclasses import dataclass
from enum import StrEnum

_LOST_BY_THE_REFERENCE = str.maketrans("", "", "\"'()")


class Mention(StrEnum):
    """What a report says of a finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"
    UNMENTIONED = "unmentioned"


@dataclass(frozen=True)
class AnatomyText:
    """What a report says of one anatomy."""

    anatomy: str
    """Its name in the vocabulary."""
    findings: str
    """Sentences of the findings section, parted by a space; "" where it says nothing."""
    impression: str
    """Sentences of the impression; "" where it says nothing."""
    normal: bool
    """Nothing abnormal is said, in either section."""

    @property
    def mentioned(self) -> bool:
        return bool(self.findings or self.impression)

    @property
    def template(self) -> str:
        """The caption of an anatomy of which nothing is said."""
        return f"{self.anatomy.replace('_', ' ')} shows no significant abnormalities."

    def caption(self, *, as_reference: bool = False) -> str:
        """Impression, then findings; the template where neither says anything.

        `as_reference` builds the string as the public code does: the parts are joined without a space, quotation
        marks, apostrophes and brackets are dropped.
        """
        parts = [part if part.endswith(".") else f"{part}." for part in (self.impression, self.findings) if part]
        if as_reference:
            return ("".join(parts) or self.template).translate(_LOST_BY_THE_REFERENCE)
        return " ".join(parts) or self.template

    def counts_as_normal(self, *, as_reference: bool = False) -> bool:
        """Whether the normal-normal correction applies: to an anatomy that is `normal`.

        `as_reference`: to one that the impression does not mention, whatever the findings say.
        """
        return not self.impression if as_reference else self.normal
