"""The viewers' rules on our own reports and on reports that break one rule each."""

from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from sr_synthetic import anatomy_map, ct_headers, empty_map, reading

import dicom_sr
from dicom_sr import ReadError, codes
from dicom_sr.viewer_check import CHECKS, SOURCE_SERIES, check_for
from dicom_sr.viewers import Viewer


@pytest.fixture(name="report")
def made() -> Dataset:
    """As a viewer has it: plain pydicom, out of a file."""
    written = next(d for d in dicom_sr.write(reading(), anatomy_map(), ct_headers()) if _is_result(d))
    file = BytesIO()
    written.save_as(file, enforce_file_format=True)
    file.seek(0)
    return dcmread(file)


def _is_result(dataset: Dataset) -> bool:
    return dataset.Modality == "SR" and codes.is_a(dataset, codes.IMAGING_MEASUREMENT_REPORT)


def _broken(report: Dataset) -> set[str]:
    return {result.check.name for viewer in Viewer for result in check_for(report, viewer) if not result.holds}


def test_our_reports_keep_every_rule_but_coordinates(report: Dataset) -> None:
    """A SEG says where; OHIF 3.12 shows nothing for such a report, which is why a text report goes with it."""
    assert _broken(report) == {"COORDINATES"}
    nothing = next(d for d in dicom_sr.write(reading(), empty_map(), ct_headers()) if _is_result(d))
    assert not {r.check.name for v in Viewer for r in check_for(nothing, v) if not r.holds and r.check.fatal}


def _items(parent: Dataset) -> Iterator[tuple[Dataset, Dataset]]:
    for item in parent.get("ContentSequence") or []:
        yield parent, item
        yield from _items(item)


def _drop(concept: codes.Code) -> Callable[[Dataset], None]:
    def change(report: Dataset) -> None:
        for parent, item in list(_items(report)):
            if codes.is_a(item, concept):
                parent.ContentSequence.remove(item)

    return change


def _each(kind: str, change: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    def apply(report: Dataset) -> None:
        for _, item in _items(report):
            if item.ValueType == kind:
                change(item)

    return apply


def _same_uid(item: Dataset) -> None:
    if codes.is_a(item, codes.TRACKING_UID):
        item.UID = "1.2.3"


def _last(report: Dataset) -> None:
    for _, item in list(_items(report)):
        if codes.is_a(item, codes.MEASUREMENT_GROUP):
            children = list(item.ContentSequence)
            item.ContentSequence = sorted(children, key=lambda child: codes.is_a(child, codes.TRACKING_UID))


def _label_map(report: Dataset) -> None:
    for _, item in _items(report):
        for reference in item.get("ReferencedSOPSequence") or []:
            reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"


BREAKS: dict[str, Callable[[Dataset], object]] = {
    "SOP_CLASS": lambda r: setattr(r, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.59"),
    "COMPREHENSIVE_3D": lambda r: setattr(r, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33"),
    "TITLE": lambda r: setattr(r.ConceptNameCodeSequence[0], "CodeValue", "126001"),
    "TEMPLATE": lambda r: delattr(r, "ContentTemplateSequence"),
    "IMAGE_LIBRARY": _drop(codes.Code("111028", "DCM", "Image Library")),
    "MEASUREMENTS": _drop(codes.IMAGING_MEASUREMENTS),
    "TRACKING": _drop(codes.TRACKING_IDENTIFIER),
    "TRACKING_UID_FIRST": _last,
    "TRACKING_ONCE": _each("UIDREF", _same_uid),
    "NUM_CHILD": _each("NUM", lambda item: setattr(item, "ContentSequence", [])),
    "NUM_VALUE": _each("NUM", lambda item: setattr(item, "MeasuredValueSequence", [])),
    "SOURCE_SERIES": _drop(SOURCE_SERIES),
    "NO_LABEL_MAP": _label_map,
    "SEPARATE": _each("CONTAINER", lambda item: setattr(item, "ContinuityOfContent", "CONTINUOUS")),
    "EVIDENCE": lambda r: delattr(r, "CurrentRequestedProcedureEvidenceSequence"),
    "DEVICE_OBSERVER": _drop(codes.Code("121005", "DCM", "Observer Type")),
    "ALGORITHM": _drop(codes.ALGORITHM_NAME),
    "EQUIPMENT": lambda r: delattr(r, "ContributingEquipmentSequence"),
    "PROCEDURE": _drop(codes.Code("121058", "DCM", "Procedure reported")),
    "NOT_VERIFIED": lambda r: setattr(r, "VerificationFlag", "VERIFIED"),
    "TIME_ZONE": lambda r: delattr(r, "TimezoneOffsetFromUTC"),
}


def test_every_rule_is_broken_by_a_test() -> None:
    assert BREAKS.keys() | {"COORDINATES"} == {check.name for check in CHECKS}


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_a_rule_is_found(name: str, report: Dataset) -> None:
    BREAKS[name](report)
    assert name in _broken(report)


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(ReadError):
        check_for(ct_headers(1)[0], Viewer.OHIF)


def test_damage_is_a_read_error(report: Dataset) -> None:
    del report.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning
    with pytest.raises(ReadError):
        check_for(report, Viewer.AIR)
