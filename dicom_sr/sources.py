"""Working copies of the source headers: one character set, nothing missing that the encoders need, nothing shared."""

import re
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DA, DT, STR_VR, TM

from config import Reason
from ct.anatomy import AnatomyMap
from dicom_sr.errors import WriteError

UTF8 = "ISO_IR 192"

_BULK = frozenset({"OB", "OW", "OB or OW", "OD", "OF", "OL", "OV", "UN"})
_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Patient and Study attributes that must be there, if only empty (PS3.3 C.7.1.1, C.7.2.1)."""
_TYPE_1 = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
_COMMON = {
    "PatientID": Reason.MIXED_PATIENT,
    "StudyInstanceUID": Reason.MIXED_STUDY,
    "SeriesInstanceUID": Reason.INTERNAL,
    "FrameOfReferenceUID": Reason.MIXED_FRAME_OF_REFERENCE,
}
"""What all instances of a series have in common, and the reason to write nothing where they do not."""
_UNDECODABLE = (
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    OSError,
    NotImplementedError,
    BytesLengthException,
)
"""What pydicom raises for values, character sets and VRs that are none."""
_OLD_DATE = re.compile(r"(\d{4})\.(\d{2})\.(\d{2})")
"""A date as before DICOM 3.0 (PS3.5 section 6.2, DA, note): the same date without the full stops."""
_AGE = re.compile(r"\d{3}[DWMY]")
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")


def working_copies(sources: Sequence[Dataset], anatomy_map: AnatomyMap) -> list[Dataset]:
    """Copies of the headers in the same order, without pixels and private elements, in ISO_IR 192.

    Values that the standard does not allow and that an encoder or a validator would stumble over (dates that are no
    dates, an unknown sex) become empty; identity is otherwise copied as it is. The caller's data sets stay as they
    are. Raises WriteError if the headers do not belong to the anatomy map or to one patient, study, series and frame of
    reference, or lack what a reference needs.
    """
    planes = anatomy_map.grid.source_axes.to_source(anatomy_map.labels).shape
    if len(sources) != planes[0]:
        raise WriteError(Reason.INTERNAL, f"{len(sources)} source headers for {planes[0]} slices of the anatomy map")
    order, spacing = anatomy_map.grid.source_axes.order, anatomy_map.grid.spacing
    thickness = spacing[order.index(0)]
    copies = [utf8_copy(source, with_sequences=index == 0) for index, source in enumerate(sources)]
    for copy in copies:
        _check(copy, planes)
        for keyword in _TYPE_2:
            if keyword not in copy:
                setattr(copy, keyword, None)
        if not float(copy.get("SliceThickness") or 0) > 0:
            copy.SliceThickness = round(thickness, 6)
    for keyword, reason in _COMMON.items():
        if len({str(copy[keyword].value or "").strip() for copy in copies}) > 1:
            raise WriteError(reason, f"the source headers differ in {keyword}")
    return copies


def utf8_copy(source: Dataset, with_sequences: bool = True) -> Dataset:
    """Copy of a data set in ISO_IR 192, without bulk data, private and unusable values; nothing is shared with it."""
    copy = _copy(source, with_sequences)
    copy.SpecificCharacterSet = UTF8
    return copy


def requested_procedures(source: Dataset) -> list[Dataset]:
    """Items of the Referenced Request Sequence (PS3.3 C.17.2) from the source's Request Attributes Sequence."""
    requests = []
    for attributes in source.get("RequestAttributesSequence") or []:
        request = Dataset()
        request.StudyInstanceUID = attributes.get("StudyInstanceUID") or source.StudyInstanceUID
        request.ReferencedStudySequence = []
        request.AccessionNumber = attributes.get("AccessionNumber") or source.get("AccessionNumber")
        request.PlacerOrderNumberImagingServiceRequest = attributes.get("PlacerOrderNumberImagingServiceRequest")
        request.FillerOrderNumberImagingServiceRequest = attributes.get("FillerOrderNumberImagingServiceRequest")
        request.RequestedProcedureID = attributes.get("RequestedProcedureID")
        request.RequestedProcedureDescription = attributes.get("RequestedProcedureDescription")
        request.RequestedProcedureCodeSequence = list(attributes.get("RequestedProcedureCodeSequence") or [])
        requests.append(request)
    return requests


def _check(copy: Dataset, planes: tuple[int, ...]) -> None:
    for keyword in _TYPE_1:
        if copy.get(keyword) in (None, ""):
            reason = Reason.BAD_UID if keyword.endswith("UID") else Reason.NO_GEOMETRY
            raise WriteError(reason, f"a source header has no {keyword}")
    if copy.get("SOPClassUID") != CTImageStorage:
        raise WriteError(Reason.NOT_CT, "a source header is not of CT Image Storage")
    if (copy.Rows, copy.Columns) != planes[1:]:
        raise WriteError(
            Reason.MIXED_SIZE, f"a source slice is {copy.Rows} x {copy.Columns}, the anatomy map {planes[1:]}"
        )


def _copy(source: Dataset, with_sequences: bool) -> Dataset:
    copy = Dataset()
    for tag in source.keys():  # noqa: SIM118 - iterating the data set itself converts every element, bulk data too
        if tag.is_private or tag.group >= 0x6000 or tag.group == 0x0002:
            continue
        try:
            element = _copied(source[tag], with_sequences)
        except _UNDECODABLE:
            continue  # a value that its VR cannot hold, such as a weight of "70,5": as good as absent
        if element is not None:
            copy.add(element)
    if "SpecificCharacterSet" in copy:
        del copy.SpecificCharacterSet
    return copy


def _copied(element: DataElement, with_sequences: bool) -> DataElement | None:
    """The element under the VR that the dictionary has for it; None if it is not taken, or cannot be read as that."""
    vr = _vr(element)
    if element.VR in _BULK or (element.VR == "SQ" and not with_sequences) or (vr == "SQ") != (element.VR == "SQ"):
        return None
    if vr == "SQ":
        value: Any = [_copy(item, with_sequences=True) for item in element.value]
    elif isinstance(element.value, MultiValue | list):
        value = [_plain(vr, one) for one in element.value]
    else:
        value = _plain(vr, element.value)
    usable = value if _acceptable(element.tag, vr, value) else None
    return DataElement(element.tag, vr, usable, validation_mode=IGNORE)


def _vr(element: DataElement) -> str:
    """The dictionary's, but where it leaves a choice or does not know the element: then its own."""
    try:
        vr = dictionary_VR(element.tag)
    except KeyError:
        return element.VR
    return element.VR if " or " in vr else vr


def _plain(vr: str, value: Any) -> Any:
    """Texts as such, numbers as numbers. Raises ValueError or TypeError for a value that is neither."""
    if vr == "DA" and isinstance(value, str):
        return _OLD_DATE.sub(r"\1\2\3", value)
    if vr in STR_VR and (value is None or isinstance(value, str)):
        return value
    if vr in STR_VR:
        return str(value)
    return value if value is None or isinstance(value, int | float | bytes) else int(value)


def _acceptable(tag: BaseTag, vr: str, value: Any) -> bool:
    if value in (None, ""):
        return True
    if keyword_for_tag(tag) == "PatientSex":
        return value in ("M", "F", "O")
    if keyword_for_tag(tag) == "BodyPartExamined":
        return _CODE_STRING.fullmatch(str(value)) is not None
    if vr == "AS":
        return _AGE.fullmatch(str(value)) is not None
    parse = {"DA": DA, "TM": TM, "DT": DT}.get(vr)
    if parse is None or isinstance(value, list):
        return True
    try:
        parse(str(value))
    except ValueError:
        return False
    return True
