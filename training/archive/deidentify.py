"""A vetted series as files that say nothing of whose it is (PS3.15 annex E, Basic Application Confidentiality Profile).

Nothing is taken out: a new series is written from the voxels in Hounsfield units and from the attributes named here. So
nothing goes along that nobody thought of: private tags, overlays, comments inside of compressed pixel data, bits above
the stored ones, text in sequences.

Options of the profile that are used: Retain Longitudinal Temporal Information with Modified Dates (113107; the date is
shifted per patient), Retain Patient Characteristics (113108; sex, and age up to 90), Clean Pixel Data is not claimed:
series that say that something is burned in are not taken.
"""

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, cast

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID

from ct.volume import Volume
from training.archive.entries import day_of, word
from training.archive.scrub import Scrubber
from training.archive.secret import Secret
from training.collection import Provenance

OLDEST = 90
"""Years; everybody older is said to be 90 (45 CFR 164.514)."""
_METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
_PATIENT_POSITIONS = frozenset({"HFS", "FFS", "HFP", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"})
_BODY_PART = re.compile(r"[A-Z ]{2,16}")


@dataclass(frozen=True)
class Subject:
    """Whose study it is, under the new names."""

    patient_id: str
    """As the archive has it; never written."""
    secret: Secret
    scrubber: Scrubber
    day: date | None
    """Of the study; None: it does not say."""


def provenance(header: Dataset, subject: Subject) -> Provenance:
    """What subgroups need, from the header of one image. Texts in which anything of a person stands become empty."""
    thickness = _number(header, "SliceThickness")
    shifted = subject.secret.shifted(subject.day, subject.patient_id) if subject.day else None
    return Provenance(
        manufacturer=_clean(header, "Manufacturer", subject),
        model=_clean(header, "ManufacturerModelName", subject),
        slice_thickness_mm=thickness if thickness is not None and 0 < thickness < 100 else None,
        kernel=_clean(header, "ConvolutionKernel", subject),
        contrast=_contrast(header),
        sex=_sex(header),
        age_years=_age(header, subject.day),
        study_year=shifted.year if shifted else None,
    )


def write(volume: Volume, header: Dataset, subject: Subject, folder: Path) -> int:
    """Write `0001.dcm` and so on, foot to head, JPEG-LS lossless; how many.

    Rows run to the Left and columns to Posterior, whatever way the patient lay; the HU are those of `volume`, so that
    `ct.load_series` of the folder gives the same volume again, on the same grid.
    """
    common = _common(volume, header, subject)
    lowest = int(volume.hu.min())
    common.RescaleIntercept, common.RescaleSlope, common.RescaleType = str(lowest), "1", "HU"
    affine = volume.grid.affine
    stored_top = int(volume.hu.max()) - lowest
    common.BitsStored = max(8, stored_top.bit_length())
    common.HighBit = common.BitsStored - 1
    for z in range(volume.hu.shape[0]):
        image = Dataset()
        image.update(common)
        image.SOPInstanceUID = subject.secret.uid(volume.sources[z].sop_instance_uid)
        image.InstanceNumber = str(z + 1)
        image.ImagePositionPatient = [_decimal(value) for value in (affine @ (z, 0, 0, 1))[:3]]
        image.PixelData = (volume.hu[z].astype("<i4") - lowest).astype("<u2").tobytes()
        image["PixelData"].VR = "OW"
        image.file_meta = _meta(image)
        image.compress(JPEGLSLossless, generate_instance_uid=False)
        dcmwrite(folder / f"{z + 1:04d}.dcm", image, enforce_file_format=True)
    return int(volume.hu.shape[0])


def _common(volume: Volume, header: Dataset, subject: Subject) -> Dataset:
    """What all images of the series share: CT Image IOD (PS3.3 A.3), what is of type 2 and not kept is empty."""
    secret, about = subject.secret, provenance(header, subject)
    day = secret.shifted(subject.day, subject.patient_id) if subject.day else None
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.AcquisitionDate = ds.ContentDate = f"{day:%Y%m%d}" if day else ""
    ds.StudyTime = ds.ContentTime = ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.Modality = "CT"
    ds.Manufacturer, ds.ManufacturerModelName = about.manufacturer, about.model
    ds.PatientName = ds.PatientID = secret.subject(subject.patient_id)
    ds.PatientBirthDate = ""
    ds.PatientSex = about.sex
    if about.age_years is not None:
        ds.PatientAge = f"{about.age_years:03d}Y"
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "fVLM Node: new series from voxels and named attributes"
    ds.DeidentificationMethodCodeSequence = Sequence(_code(value, meaning) for value, meaning in _METHODS)
    ds.LongitudinalTemporalInformationModified = "MODIFIED" if day else "REMOVED"
    ds.BurnedInAnnotation = "NO"
    part = word(header.get("BodyPartExamined")).upper()
    ds.BodyPartExamined = part if _BODY_PART.fullmatch(part) and subject.scrubber.scrub(part).text == part else ""
    if about.contrast:
        ds.ContrastBolusAgent = "CONTRAST"
    ds.SliceThickness = _decimal(about.slice_thickness_mm) if about.slice_thickness_mm is not None else ""
    for keyword in ("KVP", "XRayTubeCurrent", "ExposureTime", "ReconstructionDiameter", "DataCollectionDiameter"):
        if (number := _number(header, keyword)) is not None:
            setattr(
                ds, keyword, str(round(number)) if keyword in ("XRayTubeCurrent", "ExposureTime") else _decimal(number)
            )
    ds.KVP = ds.get("KVP", "")
    if about.kernel:
        ds.ConvolutionKernel = about.kernel
    position = word(header.get("PatientPosition"))
    ds.PatientPosition = position if position in _PATIENT_POSITIONS else ""
    ds.StudyInstanceUID = secret.uid(volume.study_instance_uid)
    ds.SeriesInstanceUID = secret.uid(volume.series_instance_uid)
    ds.FrameOfReferenceUID = secret.uid(word(header.get("FrameOfReferenceUID")) or volume.study_instance_uid)
    ds.SeriesNumber, ds.AcquisitionNumber, ds.PositionReferenceIndicator = "1", "1", ""
    ds.ImageOrientationPatient = _orientation(volume)
    ds.PixelSpacing = [_decimal(volume.spacing[1]), _decimal(volume.spacing[2])]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = volume.hu.shape[1:]
    ds.BitsAllocated, ds.PixelRepresentation = 16, 0
    ds.LossyImageCompression = "01" if word(header.get("LossyImageCompression")) == "01" else "00"
    return ds


def _orientation(volume: Volume) -> list[str]:
    """Directions along a row (x of the grid) and along a column (y), unit vectors."""
    _, along_y, along_x = volume.grid.affine[:3, :3].T
    return [_decimal(value, 10) for axis, mm in ((along_x, 2), (along_y, 1)) for value in axis / volume.spacing[mm]]


def _meta(image: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, PYNETDICOM_IMPLEMENTATION_UID
    return meta


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _clean(header: Dataset, keyword: str, subject: Subject) -> str:
    """A text as it is, if nothing of a person stands in it and it is printable; else empty."""
    value = header.get(keyword)
    text = word(value if isinstance(value, str) or value is None else next(iter(value), ""))[:64]
    printable = "".join(one for one in text if one.isprintable() and one != "\\")
    return (
        printable if subject.scrubber.scrub(printable).text == printable and not subject.scrubber.remains(text) else ""
    )


def _contrast(header: Dataset) -> bool | None:
    """Whether an agent is named; None if the header has neither the attribute nor the sequence."""
    if "ContrastBolusAgent" not in header and "ContrastBolusAgentSequence" not in header:
        return None
    agent = word(header.get("ContrastBolusAgent")).upper()
    return bool(header.get("ContrastBolusAgentSequence")) or agent not in ("", "NONE", "NO", "N", "WITHOUT", "NATIVE")


def _sex(header: Dataset) -> Literal["F", "M", "O", ""]:
    sex = word(header.get("PatientSex")).upper()
    return cast(Literal["F", "M", "O", ""], sex if sex in ("F", "M", "O") else "")


def _age(header: Dataset, day: date | None) -> int | None:
    """Whole years at the day of the study: from the birth date, else from Patient's Age."""
    born = day_of(header.get("PatientBirthDate"))
    if born is not None and day is not None and born <= day:
        return min(OLDEST, day.year - born.year - ((day.month, day.day) < (born.month, born.day)))
    found = re.fullmatch(r"(\d{3})([DWMY])", word(header.get("PatientAge")))
    if found is None:
        return None
    return min(OLDEST, int(found[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[found[2]])


def _number(header: Dataset, keyword: str) -> float | None:
    try:
        value = float(word(header.get(keyword)))
    except ValueError:
        return None
    return value if abs(value) < 1e6 else None


def _decimal(value: float, digits: int = 6) -> str:
    """A decimal string of at most 16 characters (PS3.5 section 6.2)."""
    text = f"{value:.{digits}f}"[:16].rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
