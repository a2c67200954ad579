"""What may stand in a rules file, key by key; `config.rules` loads and checks one."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from config.expressions import Expression
from config.outputs import ProfileName
from config.priority import PriorityName


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
"""One line."""
_PREFER = "soft_kernel"
"""What the best series of a study is like, if the rule does not say it."""


class Report(_Part):
    """What is reported of a series, and to whom."""

    destinations: tuple[str, ...] | None = None
    """Receivers by name; none named: `routing.destinations`; `[]`: results stay in the data folder."""
    preset: Annotated[str, Field(max_length=32)] = ""
    """A preset of the vocabulary: only its anatomies and findings are reported; empty: all that the release asks."""
    profile: ProfileName | None = None
    """Which objects each destination gets; None: what the settings say of it."""
    shadow: bool | None = None
    """Whether the release in shadow, if there is one, reads it too; None: it does."""

    def told(self) -> list[str]:
        """For a person."""
        parts = []
        if self.destinations is not None:
            parts.append(f"to {', '.join(self.destinations) or 'no destination'}")
        parts += [f"preset {self.preset}"] if self.preset else []
        parts += [f"profile {self.profile}"] if self.profile else []
        if self.shadow is not None:
            parts.append("in shadow too" if self.shadow else "not in shadow")
        return parts


class Read(Report):
    """How a series is read."""

    release: Annotated[str, Field(max_length=300)] = ""
    """Model release, as `model.release` names one; empty: the one in force."""
    priority: PriorityName | None = None
    """None: as the settings have it for the sender."""

    def told(self) -> list[str]:
        """For a person."""
        parts = [f"priority {self.priority}"] if self.priority else []
        return [*parts, *super().told(), *([f"release {self.release}"] if self.release else [])]


class Best(_Part):
    """Of the series of a study that the rule wants, only the best is read."""

    prefer: Annotated[str, Field(max_length=4000)] = _PREFER
    """An expression: series for which it is true come first; then the thinnest, then the one with most slices."""
    wait_s: Annotated[float, Field(ge=0, le=86400)] = 120.0
    """Seconds without a new image for any series of the study before it is chosen."""


class WrittenLater(_Part):
    """One rule for after the segmentation, as the file has it."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]*$")]
    when: str = ""
    read: Report | None = None
    skip: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """`read:` and `best_of_study:` without anything, or `best_of_study: true`, stand for their defaults."""
        if not isinstance(value, dict):
            return value
        forms = dict(value)
        if "read" in forms and forms["read"] is None:
            forms["read"] = {}
        if "best_of_study" in forms and forms["best_of_study"] in (None, True):
            forms["best_of_study"] = {}
        return forms

    @model_validator(mode="after")
    def _one_end(self) -> "WrittenLater":
        if (self.read is None) == (self.skip is None):
            raise ValueError("say `read:` or `skip: why not`, one of them")
        return self


class Written(WrittenLater):
    """One rule as the file has it."""

    read: Read | None = None
    best_of_study: Best | None = None

    @model_validator(mode="after")
    def _best_of_what(self) -> "Written":
        if self.best_of_study is not None and self.read is None:
            raise ValueError("`best_of_study` goes with `read`")
        return self


class WrittenFile(_Part):
    """The whole file."""

    version: Text
    rules: Annotated[tuple[Written, ...], Field(min_length=1, max_length=200)]
    after_segmentation: Annotated[tuple[WrittenLater, ...], Field(max_length=200)] = ()


@dataclass(frozen=True)
class Rule:
    """One checked rule."""

    name: str
    when: Expression | None
    """None: every series."""
    read: Report | None
    skip: str
    """Why not, if `read` is None."""
    best: Best | None = None
    prefer: Expression | None = None
    """Of `best`."""

    @property
    def order(self) -> Read:
        """`read`, with the defaults of what it does not say."""
        read = self.read or Report()
        return read if isinstance(read, Read) else Read(**read.model_dump())

    @property
    def action(self) -> str:
        """What it does with a series that it fits, for a person."""
        if self.read is None:
            return f"skip: {self.skip}"
        return ", ".join(["read", *self.read.told(), *(["best of study"] if self.best else [])])
