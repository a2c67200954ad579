"""What a rule may ask: the one table of facts, each with its type and meaning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from config.vocabulary import load_vocabulary

Value = bool | float | tuple[str, ...]
"""A yes or no, a number in the unit of its kind (mm, years, minutes of the day), or texts."""
Values = Mapping[str, Value | None]
"""Name of a fact -> its value for one series; None or absent: not known."""


class Kind(StrEnum):
    """The type of a fact, and of what it is compared with."""

    YES_NO = "yes or no"
    NUMBER = "number"
    LENGTH = "length"
    AGE = "age"
    TIME = "time of day"
    TEXT = "text"
    CHOICE = "choice"

    @property
    def example(self) -> str:
        """How a value of this type is written."""
        return _EXAMPLES[self]

    @property
    def ordered(self) -> bool:
        """Whether `<` and its like mean something."""
        return self in (Kind.NUMBER, Kind.LENGTH, Kind.AGE, Kind.TIME)


_EXAMPLES = {
    Kind.YES_NO: "no value: `contrast` or `not contrast`",
    Kind.NUMBER: "40",
    Kind.LENGTH: "3 mm",
    Kind.AGE: "18 years",
    Kind.TIME: "18:30",
    Kind.TEXT: '"CHEST"',
    Kind.CHOICE: '"mon"',
}
UNITS: dict[Kind, dict[str, float]] = {
    Kind.LENGTH: {"mm": 1.0, "cm": 10.0},
    Kind.AGE: {
        "years": 1.0, "year": 1.0, "months": 1 / 12, "month": 1 / 12, "weeks": 7 / 365.25, "days": 1 / 365.25
    },
}  # fmt: skip
"""Kind -> unit -> how much it is in the unit in which facts are kept."""


@dataclass(frozen=True)
class Fact:
    """Something that is known of a series."""

    name: str
    kind: Kind
    meaning: str
    listed: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    """All values of a CHOICE, or how to get them."""
    late: bool = False
    """Known only after segmentation."""

    @property
    def choices(self) -> tuple[str, ...]:
        """All values of a CHOICE."""
        return self.listed() if callable(self.listed) else self.listed

    @property
    def example(self) -> str:
        """A value that it may be compared with, as a rule writes it."""
        return f'"{self.choices[0]}"' if self.choices else self.kind.example

    def show(self, value: Value | None) -> str:
        """A value for a person."""
        if value is None:
            return "not known"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, tuple):
            return ", ".join(f'"{text}"' for text in value) or "none"
        if self.kind is Kind.TIME:
            return f"{int(value) // 60:02}:{int(value) % 60:02}"
        unit = {Kind.LENGTH: " mm", Kind.AGE: " years"}.get(self.kind, "")
        return f"{value:.4g}{unit}" if unit else f"{value:g}"


def _anatomies() -> tuple[str, ...]:
    return tuple(anatomy.name for anatomy in load_vocabulary().anatomies)


_ALL = (
    Fact("slices", Kind.NUMBER, "slices of the volume"),
    Fact("slice_thickness", Kind.LENGTH, "Slice Thickness (0018,0050), median over the slices"),
    Fact("spacing", Kind.LENGTH, "distance between the centres of neighbouring slices, measured"),
    Fact("kernel", Kind.TEXT, "Convolution Kernel (0018,1210)"),
    Fact("soft_kernel", Kind.YES_NO, "its name is one for soft tissue; not known where the name is not"),
    Fact("contrast", Kind.YES_NO, "Contrast/Bolus Agent (0018,0010) names one; empty, NO and NONE are no"),
    Fact("body_part", Kind.TEXT, "Body Part Examined (0018,0015): what somebody typed or the protocol says"),
    Fact("image_type", Kind.TEXT, "Image Type (0008,0008): each of its values"),
    Fact("series_description", Kind.TEXT, "Series Description (0008,103E)"),
    Fact("study_description", Kind.TEXT, "Study Description (0008,1030)"),
    Fact("protocol", Kind.TEXT, "Protocol Name (0018,1030)"),
    Fact("manufacturer", Kind.TEXT, "Manufacturer (0008,0070)"),
    Fact("model", Kind.TEXT, "Manufacturer's Model Name (0008,1090)"),
    Fact("station", Kind.TEXT, "Station Name (0008,1010)"),
    Fact("source_ae", Kind.TEXT, "calling AE title of the sender"),
    Fact("time", Kind.TIME, "when the last image came, local time of the node"),
    Fact("hour", Kind.NUMBER, "the hour of it, 0 to 23"),
    Fact(
        "weekday", Kind.CHOICE, "the day of it, local time", ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    ),
    Fact(
        "asked_priority",
        Kind.CHOICE,
        "Requested Procedure Priority (0040,1003): STAT is stat, HIGH urgent, ROUTINE, MEDIUM and LOW routine",
        ("stat", "urgent", "routine"),
    ),
    Fact("patient_age", Kind.AGE, "Patient's Age (0010,1010), else from the dates of birth and study"),
    Fact(
        "anatomies",
        Kind.CHOICE,
        "what the segmenter found whole and plausible of the release's anatomies; only under `after_segmentation`",
        _anatomies,
        late=True,
    ),
)  # fmt: skip
FACTS: dict[str, Fact] = {fact.name: fact for fact in _ALL}
"""Every fact by its name."""
