"""Tiny CT series in known patient space, written with pydicom: 24 slices of 36 x 40 pixels by default.

The pixels follow `patient_hu`, a ramp over patient coordinates with a different slope along each axis, so a voxel in
the wrong place or an axis in the wrong direction shows.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, HTJ2KLossless, generate_uid

HEAD_FIRST_SUPINE = (1, 0, 0, 0, 1, 0)
FEET_FIRST_SUPINE = (-1, 0, 0, 0, 1, 0)
HEAD_FIRST_PRONE = (-1, 0, 0, 0, -1, 0)
DECUBITUS_LEFT = (0, -1, 0, 1, 0, 0)
DECUBITUS_RIGHT = (0, 1, 0, -1, 0, 0)

SLICES, ROWS, COLUMNS = 24, 36, 40
SPACING = (2.5, 0.8, 0.7)
"""mm between slices, rows, columns."""
STUDY, SERIES, FRAME = (generate_uid(entropy_srcs=[name]) for name in ("study", "series", "frame"))

Change = Callable[[int, Dataset], None]


def patient_hu(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """HU at patient positions [..., 3] (x, y, z) mm: 2 per mm to the Left, 10 to Posterior, 4 to Superior."""
    return np.rint(points @ np.array([2.0, 10.0, 4.0])).astype(np.int16)


def pixel_positions(
    index: int, orientation: Sequence[float], origin: Sequence[float], step: Sequence[float] | None = None
) -> npt.NDArray[np.float64]:
    """[rows, columns, 3] patient positions of the pixels of slice `index`."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    stack = np.array(step, float) if step is not None else np.cross(row, column) * SPACING[0]
    at_rows = np.arange(ROWS)[:, None, None] * SPACING[1] * column
    at_columns = np.arange(COLUMNS)[None, :, None] * SPACING[2] * row
    return np.array(origin, float) + index * stack + at_rows + at_columns


def make_slice(
    index: int,
    orientation: Sequence[float] = HEAD_FIRST_SUPINE,
    origin: Sequence[float] = (-5.0, -7.0, 30.0),
    step: Sequence[float] | None = None,
) -> Dataset:
    """One CT image, signed 16 bits, slope 1, intercept 0; Instance Number runs against the anatomy."""
    points = pixel_positions(index, orientation, origin, step)
    data = Dataset()
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = generate_uid(entropy_srcs=[f"{SERIES}.{index}"])
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME
    data.PatientName, data.PatientID, data.Modality = "Planted^Name", "PLANTED-ID", "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.InstanceNumber = 1000 - index
    data.ImagePositionPatient = [float(value) for value in points[0, 0]]
    data.ImageOrientationPatient = list(orientation)
    data.PixelSpacing = [SPACING[1], SPACING[2]]
    data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLUMNS, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
    store(data, patient_hu(points))
    return data


def store(data: Dataset, pixels: npt.NDArray[np.generic], bits_stored: int | None = None) -> None:
    """Set the pixel data and its description from an array of int16, uint16 or uint8."""
    bits = pixels.dtype.itemsize * 8
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored = bits, bits_stored or bits
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW"


def write(data: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a Part 10 file, encoded in `syntax`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    if syntax == HTJ2KLossless:
        kind = np.int16 if data.PixelRepresentation else np.uint16
        pixels = np.frombuffer(data.PixelData, kind).reshape(data.Rows, data.Columns)
        data.PixelData = encapsulate([imagecodecs.htj2k_encode(pixels, reversible=True)])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        meta.TransferSyntaxUID = syntax
    elif syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = "OW"
        meta.TransferSyntaxUID = syntax
    elif meta.TransferSyntaxUID.__class__(syntax).is_encapsulated:
        data.compress(syntax, generate_instance_uid=False)
    else:
        meta.TransferSyntaxUID = syntax
    dcmwrite(path, data, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    change: Change | None = None,
    slices: int = SLICES,
    orientation: Sequence[float] = HEAD_FIRST_SUPINE,
    origin: Sequence[float] = (-5.0, -7.0, 30.0),
    step: Sequence[float] | None = None,
    syntax: str = ExplicitVRLittleEndian,
) -> Path:
    """A series in `folder`, under names that say nothing about the order; `change(index, dataset)` spoils it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(slices):
        data = make_slice(index, orientation, origin, step)
        if change is not None:
            change(index, data)
        write(data, folder / f"{(index * 7919) % 10007:05d}.dcm", syntax)
    return folder
