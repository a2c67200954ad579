"""How urgent a job is."""

from enum import IntEnum
from typing import Literal

PriorityName = Literal["stat", "urgent", "routine", "research"]


class Priority(IntEnum):
    """Lower is more urgent."""

    STAT = 0
    """Before everything else."""
    URGENT = 1
    """Before routine work."""
    ROUTINE = 2
    """What nothing else is said of."""
    RESEARCH = 3
    """When there is nothing else to do; now and then also else, once it has waited for long."""

    @property
    def label(self) -> str:
        """The name as settings and commands write it."""
        return self.name.lower()

    @classmethod
    def named(cls, name: PriorityName) -> "Priority":
        return cls[name.upper()]


REQUESTED = {
    "STAT": Priority.STAT,
    "HIGH": Priority.URGENT,
    "ROUTINE": Priority.ROUTINE,
    "MEDIUM": Priority.ROUTINE,
    "LOW": Priority.ROUTINE,
}
"""Requested Procedure Priority (0040,1003), DICOM PS3.3 C.4.11; a patient's examination is never research."""
