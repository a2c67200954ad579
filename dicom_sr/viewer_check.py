"""What each viewer and profile asks of a Structured Report, as named checks with the cure. For any vendor's SR.

The rules were read off the viewers' own behaviour: OHIF 3.12 (run in the tests), Weasis 4, 3D Slicer with
QuantitativeReporting, and the encoding rules of IHE AI Results (AIR). A viewer may be kinder in another version.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    SegmentationStorage,
)

from dicom_sr import codes
from dicom_sr.errors import ReadError, reading_foreign
from dicom_sr.outputs import LABEL_MAP_STORAGE
from dicom_sr.viewers import Viewer

IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
DEVICE_OBSERVER_UID = Code("121012", "DCM", "Device Observer UID")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
SOURCE_SERIES = Code("121232", "DCM", "Source series for segmentation")
BASIC_TEXT_SR = UID("1.2.840.10008.5.1.4.1.1.88.11")
_TREES = (BASIC_TEXT_SR, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage)
_SEGMENTATIONS = (SegmentationStorage, LABEL_MAP_STORAGE)


class Report:
    """An SR as the checks look at it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.items = tuple(_walk(dataset))
        """Every content item below the root, parents first."""

    @property
    def is_measurements(self) -> bool:
        return codes.is_a(self.dataset, codes.IMAGING_MEASUREMENT_REPORT)

    @property
    def groups(self) -> list[Dataset]:
        """Measurement groups (TID 1410, 1411, 1501)."""
        return self.called(codes.MEASUREMENT_GROUP)

    @property
    def measurements(self) -> list[Dataset]:
        """The NUM items of the groups; those of the Image Library describe images."""
        return [item for group in self.groups for item in _walk(group) if item.get("ValueType") == "NUM"]

    def called(self, concept: Code) -> list[Dataset]:
        return [item for item in self.items if codes.is_a(item, concept)]

    def of_type(self, *types: str) -> list[Dataset]:
        return [item for item in self.items if item.get("ValueType") in types]

    def referenced(self) -> list[Dataset]:
        """The SOP instance references of the content tree."""
        sequences = (item.get("ReferencedSOPSequence") or [] for item in self.items)
        return [reference for sequence in sequences for reference in sequence]

    def evidence(self) -> set[str]:
        """SOP Instance UIDs of the evidence sequences (PS3.3 C.17.2)."""
        found = set()
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
            for study in self.dataset.get(name) or []:
                for series in study.get("ReferencedSeriesSequence") or []:
                    found |= {
                        str(item.get("ReferencedSOPInstanceUID")) for item in series.get("ReferencedSOPSequence") or []
                    }
        return found


@dataclass(frozen=True)
class Check:
    """One rule."""

    name: str
    viewers: tuple[Viewer, ...]
    why: str
    """What happens where it does not hold."""
    cure: str
    holds: Callable[[Report], bool]
    fatal: bool = True
    """False: the report opens all the same, and shows less."""


@dataclass(frozen=True)
class Result:
    """A check on one report."""

    check: Check
    holds: bool


def check_for(dataset: Dataset, viewer: Viewer) -> list[Result]:
    """Every check of a viewer on an SR, in the order in which the viewer would stumble.

    Raises ReadError if the data set is no SR or is damaged.
    """
    with reading_foreign("damaged"):
        if "ValueType" not in dataset:
            raise ReadError("not a structured report")
        report = Report(dataset)
        return [Result(check, check.holds(report)) for check in CHECKS if viewer in check.viewers]


def _walk(parent: Dataset) -> Iterator[Dataset]:
    for item in parent.get("ContentSequence") or []:
        yield item
        yield from _walk(item)


def _has(parent: Dataset, concept: Code) -> bool:
    return any(codes.is_a(item, concept) for item in parent.get("ContentSequence") or [])


def _has_library(report: Report) -> bool:
    return not report.is_measurements or any(_has(item, IMAGE_LIBRARY_GROUP) for item in report.called(IMAGE_LIBRARY))


def _is_tracked(report: Report) -> bool:
    pair = (codes.TRACKING_IDENTIFIER, codes.TRACKING_UID)
    return all(_has(group, concept) for group in report.groups for concept in pair)


def _tracking_uid_is_first(report: Report) -> bool:
    for group in report.groups:
        uids = [item for item in group.get("ContentSequence") or [] if item.get("ValueType") == "UIDREF"]
        if uids and not codes.is_a(uids[0], codes.TRACKING_UID):
            return False
    return True


def _tracks_once(report: Report) -> bool:
    uids = Counter(
        str(item.get("UID"))
        for group in report.groups
        for item in group.get("ContentSequence") or []
        if codes.is_a(item, codes.TRACKING_UID)
    )
    return all(count == 1 for count in uids.values())


def _has_template(report: Report, number: str) -> bool:
    return any(item.get("TemplateIdentifier") == number for item in report.dataset.get("ContentTemplateSequence") or [])


def _numbers_are_whole(report: Report) -> bool:
    for item in report.measurements:
        values = item.get("MeasuredValueSequence") or []
        if len(values) != 1 or not values[0].get("MeasurementUnitsCodeSequence"):
            return False
    return True


def _sources_are_named(report: Report) -> bool:
    for group in report.groups:
        items = group.get("ContentSequence") or []
        references = [reference for item in items for reference in item.get("ReferencedSOPSequence") or []]
        points_at_segment = any(reference.get("ReferencedSOPClassUID") in _SEGMENTATIONS for reference in references)
        named = _has(group, SOURCE_SERIES) or any(
            reference.get("ReferencedSOPClassUID") not in _SEGMENTATIONS for reference in references
        )
        if points_at_segment and not named:
            return False
    return True


def _evidence_is_complete(report: Report) -> bool:
    evidence = report.evidence()
    return all(str(item.get("ReferencedSOPInstanceUID")) in evidence for item in report.referenced())


def _equipment_is_named(report: Report) -> bool:
    return any(
        codes.code_of(purpose) == codes.PROCESSING_EQUIPMENT and "DeviceUID" in item and "SoftwareVersions" in item
        for item in report.dataset.get("ContributingEquipmentSequence") or []
        for purpose in item.get("PurposeOfReferenceCodeSequence") or []
    )


def _a_device_says_so(report: Report) -> bool:
    device = any(
        codes.code_of(value) == codes.DEVICE
        for item in report.called(OBSERVER_TYPE)
        for value in item.get("ConceptCodeSequence") or []
    )
    return device and bool(report.called(DEVICE_OBSERVER_UID))


def _containers_are_separate(report: Report) -> bool:
    return all(c.get("ContinuityOfContent") == "SEPARATE" for c in (report.dataset, *report.of_type("CONTAINER")))


CHECKS = (
    Check(
        "SOP_CLASS", (Viewer.OHIF, Viewer.WEASIS, Viewer.SLICER),
        "only Basic Text, Enhanced, Comprehensive and Comprehensive 3D SR are opened",
        "write Comprehensive 3D SR for measurements, Enhanced SR for text",
        lambda report: report.dataset.get("SOPClassUID") in _TREES,
    ),
    Check(
        "COMPREHENSIVE_3D", (Viewer.AIR,),
        "AI Results are Comprehensive 3D SR (1.2.840.10008.5.1.4.1.1.88.34)",
        "write that class; other classes are companions, not the result root",
        lambda report: report.dataset.get("SOPClassUID") == Comprehensive3DSRStorage,
    ),
    Check(
        "TITLE", (Viewer.SLICER, Viewer.AIR),
        "the root concept is not (126000, DCM, Imaging Measurement Report): not taken as TID 1500",
        "title the document (126000, DCM)",
        lambda report: report.is_measurements,
    ),
    Check(
        "TEMPLATE", (Viewer.OHIF, Viewer.SLICER, Viewer.AIR),
        "without Content Template Sequence 1500 the measurements are not read",
        "write Mapping Resource DCMR and Template Identifier 1500 at the root",
        lambda report: not report.is_measurements or _has_template(report, "1500"),
    ),
    Check(
        "IMAGE_LIBRARY", (Viewer.OHIF,),
        "a measurement report without Image Library (111028) and group (126200) raises an exception, and stays closed",
        "write an Image Library with at least one entry",
        _has_library,
    ),
    Check(
        "MEASUREMENTS", (Viewer.OHIF, Viewer.SLICER),
        "a measurement report without Imaging Measurements (126010) and a Measurement Group takes the viewer down",
        "write at least one group, such as that of an organ",
        lambda report: not report.is_measurements or bool(report.called(codes.IMAGING_MEASUREMENTS) and report.groups),
    ),
    Check(
        "TRACKING", (Viewer.OHIF, Viewer.SLICER, Viewer.AIR),
        "groups without Tracking Identifier (112039) and Tracking Unique Identifier (112040) raise an exception",
        "write both in every group",
        _is_tracked,
    ),
    Check(
        "TRACKING_UID_FIRST", (Viewer.OHIF,),
        "the first UIDREF of a group is taken for its tracking UID",
        "write the tracking UID before the UID of the source series",
        _tracking_uid_is_first,
    ),
    Check(
        "TRACKING_ONCE", (Viewer.OHIF,),
        "groups that share a tracking UID are merged into one",
        "give each group a tracking UID of its own",
        _tracks_once,
    ),
    Check(
        "NUM_CHILD", (Viewer.OHIF,),
        "a NUM without child items raises an exception in OHIF before 3.12",
        "attach the algorithm (TID 4019) or the region to each NUM",
        lambda report: all(item.get("ContentSequence") for item in report.measurements),
    ),
    Check(
        "NUM_VALUE", (Viewer.OHIF, Viewer.SLICER, Viewer.AIR),
        "a NUM without exactly one measured value and its unit is not shown",
        "write one Measured Value with a UCUM unit",
        _numbers_are_whole,
    ),
    Check(
        "SOURCE_SERIES", (Viewer.SLICER, Viewer.AIR),
        "a referenced segment without its source images or source series cannot be placed",
        "write Source series for segmentation (121232) beside the referenced segment",
        _sources_are_named,
    ),
    Check(
        "NO_LABEL_MAP", (Viewer.SLICER, Viewer.WEASIS),
        "a report that points at a label map segmentation cannot be read by DCMTK and what is built on it",
        "point at a BINARY segmentation",
        lambda report: LABEL_MAP_STORAGE not in {i.get("ReferencedSOPClassUID") for i in report.referenced()},
    ),
    Check(
        "SEPARATE", (Viewer.OHIF, Viewer.WEASIS),
        "containers with CONTINUOUS content are printed as one sentence without names",
        "set Continuity Of Content to SEPARATE",
        _containers_are_separate, fatal=False,
    ),
    Check(
        "COORDINATES", (Viewer.OHIF,),
        "a measurement report without coordinates opens as a blank view in OHIF 3.12",
        "send a text SR (TID 2000 style) or a summary image beside it",
        lambda report: not report.is_measurements or bool(report.of_type("SCOORD", "SCOORD3D")), fatal=False,
    ),
    Check(
        "EVIDENCE", (Viewer.WEASIS, Viewer.AIR),
        "what is referenced but stands in no evidence sequence cannot be found by the viewer",
        "list every referenced instance in Current Requested Procedure Evidence or Pertinent Other Evidence",
        _evidence_is_complete,
    ),
    Check(
        "DEVICE_OBSERVER", (Viewer.AIR,),
        "nobody is said to have observed this: readers take it for a person's report",
        "write Observer Type Device and the Device Observer UID (TID 1004)",
        _a_device_says_so,
    ),
    Check(
        "ALGORITHM", (Viewer.AIR,),
        "numbers do not name the algorithm that made them",
        "write Algorithm Name and Version (TID 4019) at each NUM",
        lambda report: all(_has(item, codes.ALGORITHM_NAME) for item in report.measurements),
    ),
    Check(
        "EQUIPMENT", (Viewer.AIR,),
        "no Contributing Equipment with purpose Processing Equipment (109102), Device UID and software versions",
        "write one item for each algorithm; change its Device UID with the weights",
        _equipment_is_named,
    ),
    Check(
        "PROCEDURE", (Viewer.AIR,),
        "the imaging procedure is not named",
        "write Procedure reported (121058), such as (25045-6, LN, CT unspecified body region)",
        lambda report: bool(report.called(PROCEDURE_REPORTED)),
    ),
    Check(
        "NOT_VERIFIED", (Viewer.AIR,),
        "a device has no authority to verify",
        "set Verification Flag UNVERIFIED",
        lambda report: report.dataset.get("VerificationFlag") == "UNVERIFIED",
    ),
    Check(
        "TIME_ZONE", (Viewer.AIR,),
        "times cannot be compared between systems",
        "write Timezone Offset From UTC",
        lambda report: bool(report.dataset.get("TimezoneOffsetFromUTC")),
    ),
)  # fmt: skip
"""All rules."""
