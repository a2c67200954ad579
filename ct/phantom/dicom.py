"""A synthetic patient as a classic CT series: files that a PACS takes for a scanner's."""

import hashlib
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from ct.phantom.patient import PhantomPatient, dice
from ct.phantom.rendering import Rendered, Size, Spacing, render

Orientation = Literal["HFS", "FFS", "HFP", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"]
Lean = tuple[float, float, float]
Int16Array = npt.NDArray[np.int16]
FloatArray = npt.NDArray[np.float64]

AXES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "FFS": ((-1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFP": ((1, 0, 0), (0, -1, 0)),
    "HFDR": ((0, 1, 0), (-1, 0, 0)),
    "HFDL": ((0, -1, 0), (1, 0, 0)),
    "FFDR": ((0, -1, 0), (-1, 0, 0)),
    "FFDL": ((0, 1, 0), (1, 0, 0)),
}
"""Patient position (DICOM PS3.3 C.7.3.1.1.2) -> directions of an image's row and column in patient space (LPS)."""

_IMPLEMENTATION = UID("2.25.262071356139346227937426873157303317291")


def write_series(
    patient: PhantomPatient,
    folder: Path | str,
    *,
    spacing: Spacing = (5.0, 0.78, 0.78),
    shape: Size = (124, 512, 512),
    orientation: Orientation = "HFS",
    lean_deg: Lean = (0.0, 0.0, 0.0),
    description: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a patient as a series of CT Image Storage instances (DICOM PS3.3 A.3), Explicit VR Little Endian.

    Parameters
    ----------
    patient
        Whom to write.
    folder
        Made if it is not there. File names are hashed: they do not sort in slice order.
    spacing, shape
        As in `render`: mm and voxels along z, y, x of the patient.
    orientation
        How the patient lies. Pixels are flipped or rotated as the scanner would, and the geometry says so; the
        patient in patient space stays the same (fluid does not flow with gravity).
    lean_deg
        Degrees by which the patient, and the images with him, are turned in patient space about its x, y and z axis,
        in this order: an oblique series. Pixels stay as they are; see `leaning`.
    description
        Series description; by the contrast phase if None.
    progress
        Called with (files written, files in all) after each file.

    Returns
    -------
    list of Path
        The files, from the lowest slice to the highest. The same arguments give the same bytes.

    Raises
    ------
    ValueError
        The orientation is not one of `AXES`.
    """
    if orientation not in AXES:
        raise ValueError(f"orientation must be one of {', '.join(AXES)}, is {orientation!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rendered = render(patient, spacing, shape)
    common = _common(patient, spacing, shape, orientation, lean_deg, description)
    images = turned(rendered.hu, orientation)
    rng = dice(patient.seed, "series")
    upwards = bool(rng.random() < 0.5)
    bits = 12 if rng.random() < 0.7 else 16
    paths = []
    for index in range(shape[0]):
        number = index + 1 if upwards else shape[0] - index
        dataset = _instance(common, images[index], rendered, orientation, leaning(lean_deg), index, number, bits)
        path = folder / f"{hashlib.sha256(dataset.SOPInstanceUID.encode()).hexdigest()[:16]}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
        if progress is not None:
            progress(index + 1, shape[0])
    return paths


def uid_for(*parts: object) -> UID:
    """A UID under 2.25 (DICOM PS3.5 B.2) that depends on nothing but its parts."""
    digest = hashlib.sha256("|".join(str(part) for part in ("fvlm-node phantom", *parts)).encode()).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | (0x8 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return UID(f"2.25.{number}")


def turned(hu: Int16Array, orientation: Orientation) -> Int16Array:
    """View of [z, y, x] as [slice, row, column] of an orientation."""
    row, column = AXES[orientation]
    images = hu if row[0] else hu.transpose(0, 2, 1)
    return images[:, :: sum(column), :: sum(row)]


def leaning(lean_deg: Lean) -> FloatArray:
    """The rotation [3, 3] that takes the (x, y, z) of a patient who lies straight to where they are."""
    rotation = np.eye(3)
    for axis, degrees in enumerate(lean_deg):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        turn, angle = np.eye(3), np.radians(degrees)
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    return rotation


def _common(
    patient: PhantomPatient,
    spacing: Spacing,
    shape: Size,
    orientation: Orientation,
    lean_deg: Lean,
    description: str | None,
) -> Dataset:
    """What all instances of the series share."""
    who: tuple[object, ...] = (patient.seed, ",".join(sorted(patient.keys)), patient.arms)
    if any(lean_deg):
        who = (*who, lean_deg)
    series = (*who, spacing, shape, orientation, description)
    rng = dice(patient.seed, "study")
    day = date(2023, 1, 2) + timedelta(days=int(rng.integers(0, 900)))
    born = date(day.year - patient.age, int(rng.integers(1, 13)), int(rng.integers(1, 28)))
    if (born.month, born.day) > (day.month, day.day):
        born = born.replace(year=born.year - 1)
    time = f"{int(rng.integers(7, 19)):02d}{int(rng.integers(0, 60)):02d}{int(rng.integers(0, 60)):02d}"
    enhanced = patient.body.phase != "none"
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber = f"PH{patient.seed:06d}"[:16]
    ds.Modality = "CT"
    ds.Manufacturer = "fVLM Node project"
    ds.ManufacturerModelName = "Phantom"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.InstitutionName = "Synthetic Hospital"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "CT Chest Abdomen Pelvis"
    ds.SeriesDescription = (description or _DESCRIPTIONS[patient.body.phase])[:64]
    ds.PatientName = f"Phantom^Seed{patient.seed}"
    ds.PatientID = f"PHANTOM-{patient.seed:04d}"
    ds.PatientBirthDate = born.strftime("%Y%m%d")
    ds.PatientSex = patient.sex
    ds.PatientAge = f"{patient.age:03d}Y"
    ds.PatientComments = "Synthetic patient"
    if enhanced:
        ds.ContrastBolusAgent = "Iodinated contrast"
    ds.BodyPartExamined = "CHESTABDPELVIS"
    ds.SliceThickness = f"{spacing[0]:g}"
    ds.SpacingBetweenSlices = f"{spacing[0]:g}"
    ds.KVP = "120"
    ds.DataCollectionDiameter = "500"
    ds.ReconstructionDiameter = f"{shape[2] * spacing[2]:.4g}"
    ds.GantryDetectorTilt = "0"
    ds.ExposureTime = "500"
    ds.XRayTubeCurrent = str(int(rng.integers(120, 420)))
    ds.ConvolutionKernel = "B30f"
    ds.PatientPosition = orientation
    ds.StudyInstanceUID = uid_for("study", *who)
    ds.SeriesInstanceUID = uid_for("series", *series)
    ds.StudyID = str(patient.seed)[:16]
    ds.SeriesNumber = "2"
    ds.AcquisitionNumber = "1"
    ds.FrameOfReferenceUID = uid_for("frame", *who)
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BurnedInAnnotation = "NO"
    ds.WindowCenter, ds.WindowWidth = "40", "400"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    ds.LossyImageCompression = "00"
    return ds


_DESCRIPTIONS = {
    "none": "Thorax Abdomen native 5.0",
    "arterial": "Thorax Abdomen arterial 5.0",
    "portal": "Thorax Abdomen portal venous 5.0",
    "delayed": "Thorax Abdomen delayed 5.0",
}


def _instance(
    common: Dataset,
    image: Int16Array,
    rendered: Rendered,
    orientation: Orientation,
    rotation: FloatArray,
    index: int,
    number: int,
    bits: int,
) -> Dataset:
    """One slice: the shared attributes and its own position and pixels."""
    ds = Dataset()
    ds.update(common)
    ds.SOPInstanceUID = uid_for("instance", common.SeriesInstanceUID, index)
    ds.InstanceNumber = str(number)
    row, column = AXES[orientation]
    z0, y0, x0 = rendered.origin_mm
    sz, sy, sx = rendered.spacing
    _, ny, nx = rendered.hu.shape
    x = x0 if row[0] + column[0] > 0 else x0 + (nx - 1) * sx
    y = y0 if row[1] + column[1] > 0 else y0 + (ny - 1) * sy
    z = z0 + index * sz
    ds.ImagePositionPatient = [_decimal(value) for value in rotation @ (x, y, z)]
    ds.ImageOrientationPatient = [_decimal(value, 10) for axis in (row, column) for value in rotation @ axis]
    ds.SliceLocation = _decimal(z)
    ds.PixelSpacing = [_decimal(sy), _decimal(sx)] if row[0] else [_decimal(sx), _decimal(sy)]
    ds.Rows, ds.Columns = image.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    stored = np.clip(image.astype(np.int32) + 1024, 0, 4095).astype("<u2")
    ds.PixelData = np.ascontiguousarray(stored).tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = _IMPLEMENTATION
    ds.file_meta.ImplementationVersionName = "FVLMNODE_PHANTOM"
    return ds


def _decimal(value: float, digits: int = 6) -> str:
    """A decimal string of at most 16 characters (DICOM PS3.5 section 6.2)."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
