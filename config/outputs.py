"""What is written for a series, and which of it a destination gets."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

ProfileName = Literal["air", "air+sc", "legacy"]


class Output(StrEnum):
    """A kind of result object, in the order in which they are sent: what is referred to goes first."""

    SEG = "SEG"
    """Segmentation of the anatomies."""
    LABEL_MAP = "LABELMAP"
    """Label Map Segmentation of the same; nothing refers to it (DCMTK and what is built on it cannot read that)."""
    PM = "PM"
    """Parametric Map of what the model looked at, one for each present finding."""
    SC = "SC"
    """Secondary Capture: the summary page."""
    KO = "KO"
    """Key Object Selection: the CT slices to look at."""
    PDF = "PDF"
    """Encapsulated PDF: the summary page, and everything else that is said."""
    TEXT = "TEXT"
    """Enhanced SR to be read as text (the family of TID 2000)."""
    SR = "SR"
    """Comprehensive 3D SR, TID 1500: the root, which refers to the others (IHE AI Results)."""


AIR = frozenset({Output.SEG, Output.SR})
"""What is always written: the results as IHE AI Results has them."""
_PROFILES: dict[ProfileName, frozenset[Output]] = {
    "air": AIR,
    "air+sc": AIR | {Output.SC, Output.TEXT},
    "legacy": frozenset({Output.SC, Output.PDF}),
}


def outputs_of(
    profile: ProfileName, parametric_maps: bool = False, key_objects: bool = False, label_map: bool = False
) -> frozenset[Output]:
    """The kinds of objects that a destination with these settings gets."""
    more = {Output.PM: parametric_maps, Output.KO: key_objects, Output.LABEL_MAP: label_map}
    return _PROFILES[profile] | {kind for kind, wanted in more.items() if wanted}


def essential(kinds: Collection[Output]) -> frozenset[Output]:
    """Of what one destination gets, what it has to take: SEG and SR, or else the summary page.

    The others are companions: a destination that refuses one has the result all the same.
    """
    return AIR.intersection(kinds) or frozenset({Output.SC}).intersection(kinds) or frozenset(kinds)


@dataclass(frozen=True)
class Plan:
    """What is written for a series: everything that any of its receivers gets, each kind once."""

    outputs: frozenset[Output] = AIR
    linked: frozenset[Output] = AIR
    """What the SR refers to: only what each receiver of the SR gets, so that no reference leads nowhere."""

    @classmethod
    def of(cls, receivers: Iterable[frozenset[Output]] = ()) -> "Plan":
        """The plan for the receivers, given as what each of them gets; without any, the default profile's."""
        wanted = list(receivers) or [outputs_of("air+sc")]
        every = AIR.union(*wanted)
        of_root = [kinds for kinds in wanted if Output.SR in kinds]
        return cls(every, every.intersection(*of_root) - {Output.LABEL_MAP})
