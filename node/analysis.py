"""What a run of the pipeline gives, or why it gives nothing. Plain data, no torch."""

from dataclasses import dataclass

from pydicom import Dataset

from config import Plan, Reason
from ct.anatomy import AnatomyMap
from ct.volume import Volume
from fvlm.reading import Reading

STAGES = ("load", "segment", "read", "encode", "validate")
"""Stages of a run, in order."""


class PipelineError(RuntimeError):
    """A series could not be analysed. Carries the stable reason code; the text holds no patient data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Wanted:
    """What is to be made of a series."""

    plan: Plan
    """The objects that are written."""
    preset: str = ""
    """Of the vocabulary: only what it asks is reported; empty: all that the release asks."""


@dataclass(frozen=True)
class Analysis:
    """Everything one run made."""

    volume: Volume
    anatomy_map: AnatomyMap
    reading: Reading
    objects: tuple[Dataset, ...]
    """Validated DICOM objects in the order in which they are to be sent: SEG, companions, SR."""
    seconds: dict[str, float]
    """Wall seconds per stage."""
