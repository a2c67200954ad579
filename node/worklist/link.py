"""What a worklist does for a performer, whichever the protocol (PS3.4 annex CC, PS3.18 section 11)."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, Self

from pydicom import Dataset

from config import Reason
from node.worklist.workitem import Code, StepState, Workitem

MOST_MATCHES = 200
"""Workitems taken from one answer to a search."""


class WorklistAwayError(ConnectionError):
    """The worklist does not answer, or not as a worklist. The text names no patient."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Fate(Enum):
    """What became of a request about one workitem."""

    DONE = auto()
    CONFLICT = auto()
    """The workitem is in another state, or somebody else holds it."""
    GONE = auto()
    """The worklist does not know it."""
    REFUSED = auto()
    """It does not take the request, whatever the workitem's state."""


@dataclass(frozen=True)
class Reply:
    """The answer to a request about one workitem."""

    fate: Fate
    detail: str = ""


class WorklistLink(Protocol):
    """A context manager; every method raises WorklistAwayError."""

    def search(self, station: Code, procedures: tuple[Code, ...]) -> tuple[list[Workitem], int]:
        """SCHEDULED workitems whose input is READY, for one of the procedures, or for the station if there are none;
        and how many others could not be read. What a search does not return of them is not filled in.
        """

    def retrieve(self, uid: str) -> Workitem | None:
        """None if there is none. Raises WorkitemError."""

    def change_state(self, uid: str, transaction: str, state: StepState) -> Reply:
        """To IN PROGRESS: claim it with a Transaction UID. To COMPLETED or CANCELED: end it, with the same one."""

    def update(self, uid: str, transaction: str, changes: Dataset) -> Reply:
        """Set attributes of a workitem that is held by this Transaction UID."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def state_change(transaction: str, state: StepState) -> Dataset:
    """Change UPS State - Action Information (PS3.4 table CC.2.1-1)."""
    information = Dataset()
    information.TransactionUID, information.ProcedureStepState = transaction, str(state)
    return information
