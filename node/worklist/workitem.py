"""A workitem (Unified Procedure Step, PS3.3 C.30) as far as a performer needs it. No patient attribute is kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydicom import Dataset

from config import Priority, Reason
from ct.part10 import is_uid

_PRIORITIES = {"HIGH": Priority.STAT, "MEDIUM": Priority.ROUTINE, "LOW": Priority.ROUTINE}
"""Scheduled Procedure Step Priority (0074,1200): HIGH is 'equivalent to a STAT request' (PS3.3 C.30.1)."""
_MOST_INPUTS = 100
"""Series in one workitem; more is a mistake."""


class StepState(StrEnum):
    """Procedure Step State (0074,1000), PS3.4 CC.1.1."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class WorkitemError(ValueError):
    """No workitem, or one that cannot be read. The text names no patient."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = Reason.WORKITEM_UNUSABLE, detail


@dataclass(frozen=True)
class Code:
    """A coded entry (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `VALUE^SCHEME^MEANING`."""
        return cls(*text.split("^"))

    def is_same(self, other: "Code") -> bool:
        return (self.value, self.scheme) == (other.value, other.scheme)

    def dataset(self) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = self.value, self.scheme, self.meaning
        return item


@dataclass(frozen=True)
class InputSeries:
    """One series of the Input Information Sequence."""

    study: str
    series: str


@dataclass(frozen=True)
class Workitem:
    """What a worklist says of one step."""

    uid: str
    state: StepState
    ready: bool
    """Input Readiness State is READY."""
    priority: Priority
    stations: tuple[Code, ...]
    """Scheduled Station Name Code Sequence; empty: any station."""
    procedure: Code | None
    """Scheduled Workitem Code."""
    inputs: tuple[InputSeries, ...]
    problem: str = ""
    """Why it cannot be performed as it is; empty: it can."""

    def is_for(self, station: Code, procedures: Iterable[Code]) -> bool:
        """Whether a performer may take it: scheduled for its station or none, and one of its procedures. Without
        procedures, it has to be scheduled for the station.
        """
        wanted = list(procedures)
        here = any(station.is_same(code) for code in self.stations)
        if not wanted:
            return here
        known = self.procedure is not None and any(self.procedure.is_same(code) for code in wanted)
        return known and (here or not self.stations)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """From the DICOM JSON Model (PS3.18 annex F). Raises WorkitemError."""
        try:
            dataset = Dataset.from_json(value)
        except Exception as error:  # pydicom raises nearly any type on values that are none; each means the same
            raise WorkitemError(f"it cannot be read as DICOM JSON ({type(error).__name__})") from error
        return cls.from_dataset(dataset)

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Self:
        """From a data set, also of a search. What cannot be used stands in `problem`. Raises WorkitemError if it has no
        UID or no state: nobody can claim it then.
        """
        try:
            return cls._read(dataset)
        except WorkitemError:
            raise
        except Exception as error:  # values are decoded when they are read; pydicom raises nearly any type
            raise WorkitemError(f"an attribute cannot be read ({type(error).__name__})") from error

    @classmethod
    def _read(cls, dataset: Dataset) -> Self:
        uid = _text(dataset, "SOPInstanceUID")
        if not is_uid(uid):
            raise WorkitemError("its SOP Instance UID is no UID")
        state = _text(dataset, "ProcedureStepState")
        if state not in {str(one) for one in StepState}:
            raise WorkitemError("its Procedure Step State is none of the standard's")
        procedures = _codes(dataset, "ScheduledWorkitemCodeSequence")
        inputs, problem = _inputs(dataset)
        return cls(
            uid=uid,
            state=StepState(state),
            ready=_text(dataset, "InputReadinessState") == "READY",
            priority=_PRIORITIES.get(_text(dataset, "ScheduledProcedureStepPriority"), Priority.ROUTINE),
            stations=_codes(dataset, "ScheduledStationNameCodeSequence"),
            procedure=procedures[0] if procedures else None,
            inputs=inputs,
            problem=problem,
        )


def _inputs(dataset: Dataset) -> tuple[tuple[InputSeries, ...], str]:
    """The input series, and what is wrong with them."""
    found: dict[InputSeries, None] = {}
    for item in _items(dataset, "InputInformationSequence"):
        one = InputSeries(_text(item, "StudyInstanceUID"), _text(item, "SeriesInstanceUID"))
        if not is_uid(one.study) or not is_uid(one.series):
            return (), "an item of its Input Information Sequence names no study and series"
        found[one] = None
    if not found:
        return (), "its Input Information Sequence is empty"
    if len(found) > _MOST_INPUTS:
        return (), f"its Input Information Sequence names more than {_MOST_INPUTS} series"
    return tuple(found), ""


def _codes(dataset: Dataset, keyword: str) -> tuple[Code, ...]:
    items = _items(dataset, keyword)
    return tuple(
        Code(_text(i, "CodeValue"), _text(i, "CodingSchemeDesignator"), _text(i, "CodeMeaning")[:64]) for i in items
    )


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    if value is None:
        return []
    if any(not isinstance(item, Dataset) for item in value):
        raise WorkitemError(f"{keyword} is no sequence")
    return list(value)


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()
