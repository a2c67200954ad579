"""What a performer writes into a workitem: progress, the performed procedure with its outputs, why it was discontinued.

PS3.4 table CC.2.5-3 (final state requirements), PS3.3 C.30.3 and C.30.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PublicCode

from config import Reason
from dicom_sr.codes import LOCAL_SCHEME
from node.worklist.workitem import Code

_LONGEST_TEXT = 1000
_INTERPRETATION = codes.DCM.Interpretation
_BY_REQUEST = codes.DCM.DoctorCanceledProcedure
_BY_FAILURE = codes.DCM.EquipmentFailure
_BY_ENTRY = codes.DCM.IncorrectWorklistEntrySelected
_OTHER = codes.DCM.DiscontinuedForUnspecifiedReason
_PUBLIC = {
    Reason.CANCELLED: _BY_REQUEST,
    Reason.WORKITEM_UNUSABLE: _BY_ENTRY,
    **dict.fromkeys(
        (
            Reason.OUT_OF_MEMORY, Reason.DEVICE_ERROR, Reason.TIME_LIMIT, Reason.MODEL_UNAVAILABLE, Reason.INTERNAL,
            Reason.ATTEMPTS_EXHAUSTED, Reason.INVALID_OBJECT,
        ),
        _BY_FAILURE,
    ),
}  # fmt: skip
"""A reason of the node in the words of CID 9300, Procedure Discontinuation Reasons; others: unspecified."""


@dataclass(frozen=True)
class OutputObject:
    """A result that a destination has."""

    study: str
    series: str
    sop_class: str
    sop_instance: str
    retrieve_ae: str = ""
    """AE title from which it can be retrieved, or"""
    retrieve_url: str = ""
    """the DICOMweb service that has it."""


@dataclass(frozen=True)
class Ending:
    """How the work ended: with a reason it was discontinued."""

    reason: Reason | None = None
    detail: str = ""
    outputs: tuple[OutputObject, ...] = ()


def progress(percent: int, text: str) -> Dataset:
    """Procedure Step Progress Information; `percent` 0..100."""
    item = Dataset()
    item.ProcedureStepProgress, item.ProcedureStepProgressDescription = str(percent), text
    return _with("ProcedureStepProgressInformationSequence", item)


def ended(ending: Ending, station: Code, procedure: Code | None, began: datetime, at: datetime) -> Dataset:
    """Everything that a final state asks for. `began`, `at`: aware."""
    update = progress(100, "finished") if ending.reason is None else _discontinued(ending, at)
    item: Any = Dataset()
    item.PerformedStationNameCodeSequence = [station.dataset()]
    item.PerformedWorkitemCodeSequence = [procedure.dataset() if procedure else _item(_INTERPRETATION)]
    item.PerformedProcedureStepStartDateTime = _time(began)
    item.PerformedProcedureStepEndDateTime = _time(at)
    item.OutputInformationSequence = list(_outputs(ending.outputs))
    update.UnifiedProcedureStepPerformedProcedureSequence = [item]
    return update


def discontinuation(reason: Reason) -> tuple[Dataset, Dataset]:
    """The reason in a public code, and the node's own."""
    own = Code(reason if len(reason) <= 16 else "", LOCAL_SCHEME, reason.meaning[:64]).dataset()
    if len(reason) > 16:
        del own.CodeValue
        own.LongCodeValue = str(reason)
    return _item(_PUBLIC.get(reason, _OTHER)), own


def _discontinued(ending: Ending, at: datetime) -> Dataset:
    assert ending.reason is not None
    item: Any = Dataset()
    item.ProcedureStepCancellationDateTime = _time(at)
    item.ReasonForCancellation = f"{ending.reason}: {ending.detail or ending.reason.meaning}"[:_LONGEST_TEXT]
    item.ProcedureStepDiscontinuationReasonCodeSequence = list(discontinuation(ending.reason))
    return _with("ProcedureStepProgressInformationSequence", item)


def _outputs(outputs: Iterable[OutputObject]) -> Iterable[Dataset]:
    """An item for each series of results."""
    by_series: dict[tuple[str, ...], list[OutputObject]] = {}
    for one in outputs:
        by_series.setdefault((one.study, one.series, one.retrieve_ae, one.retrieve_url), []).append(one)
    for (study, series, title, url), objects in by_series.items():
        item: Any = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID, item.SeriesInstanceUID = study, series
        item.ReferencedSOPSequence = [_reference(one) for one in objects]
        where: Any = Dataset()
        if title:
            where.RetrieveAETitle = title
            item.DICOMRetrievalSequence = [where]
        elif url:
            where.RetrieveURL = f"{url}/studies/{study}/series/{series}"
            item.WADORSRetrievalSequence = [where]
        yield item


def _reference(one: OutputObject) -> Dataset:
    item: Any = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class, one.sop_instance
    return item  # type: ignore[no-any-return]


def _item(code: PublicCode) -> Dataset:
    return Code(code.value, code.scheme_designator, code.meaning).dataset()


def _with(keyword: str, item: Dataset) -> Dataset:
    dataset = Dataset()
    setattr(dataset, keyword, [item])
    return dataset


def _time(at: datetime) -> str:
    return f"{at:%Y%m%d%H%M%S%z}"
