"""`Study`: one CT with its report, wherever it comes from. What shards are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from config import Reason
from ct.anatomy import AnatomyMap
from ct.volume import Volume

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class StudyError(ValueError):
    """A study cannot be used. Carries the stable reason; the text names the file and what is wrong, and no patient."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[type["StudyError"], tuple[Reason, str]]:
        """It comes back whole from another process."""
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class Study:
    """One study; light, picklable, its images unread. Nothing in it names a patient."""

    source: str
    """`collection`, `ct-rate`, `radgenome`, `merlin` or `phantom`."""
    key: str
    """Unique in its source."""
    scan: str
    """All reconstructions of a scan have the same; a reader draws one of them each time."""
    subject: str
    """A pseudonym: all studies of a patient have the same, and are in one split."""
    split: Split
    report: str
    """Plain text of the whole report, in English, with its headings."""
    load: Callable[[tuple[str, ...]], tuple[Volume, AnatomyMap]]
    """Reads the CT and finds those of the given anatomies (vocabulary names, in label order) that can be found, with
    their measures. Raises StudyError."""
    regions: Mapping[str, str] = field(default_factory=dict)
    """What the report says of an anatomy, where the source has taken it apart; else rules take `report` apart."""
    known: Mapping[str, bool] = field(default_factory=dict)
    """Findings whose truth the source knows; the others are read off the report."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """For tables by subgroup: `sex`, `age`, `manufacturer`, `kernel`, …; as far as the source tells."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where it comes from: file names, digests, versions."""
