"""Tiny CT series headers, anatomy maps with asymmetric masks, and readings over them."""

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from config import Reason
from ct.anatomy import AlgorithmIdentity, AnatomyMap, AnatomyMeasure, Sides
from ct.volume import Grid, SourceAxes, Volume
from fvlm.heat import Heat
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict

SHAPE = (24, 64, 64)
SPACING = (5.0, 0.8, 0.7)
STUDY = "1.2.826.0.1.3680043.8.498.1"
SERIES = "1.2.826.0.1.3680043.8.498.1.2"
FRAME = "1.2.826.0.1.3680043.8.498.1.3"
MODEL = AlgorithmIdentity("fVLM", "1.0", "a" * 64)
SEGMENTER = AlgorithmIdentity("Anatomy UNet", "2.1", "b" * 64)
NAMES = ("lung", "heart", "liver", "kidney", "spleen")
MOMENT = datetime(2026, 3, 1, 9, 30, 15, 250000, timezone(timedelta(hours=1)))


def ct_headers(count: int = SHAPE[0], rows: int = SHAPE[1], columns: int = SHAPE[2], **changes: Any) -> list[Dataset]:
    """CT headers without pixels, head first supine, feet to head; `changes` by keyword, None deletes."""
    headers = []
    for index in range(count):
        header = Dataset()
        header.SpecificCharacterSet = "ISO_IR 100"
        header.SOPClassUID = CTImageStorage
        header.SOPInstanceUID = f"{SERIES}.{index + 1}"
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = STUDY, SERIES, FRAME
        header.Modality = "CT"
        header.PatientID, header.PatientName = "P-17", "Müller^Jörg"
        header.PatientBirthDate, header.PatientSex = "19500230"[:6] + "20", "M"
        header.StudyDate, header.StudyTime, header.StudyID = "20260301", "081500", "17"
        header.AccessionNumber, header.ReferringPhysicianName = "A-17", "Doe^Jane"
        header.SeriesNumber, header.InstanceNumber, header.AcquisitionNumber = 3, index + 1, 1
        header.Manufacturer, header.ManufacturerModelName = "Scanner Works", "CT 1"
        header.InstitutionName, header.BodyPartExamined = "General Hospital", "CHEST"
        header.Rows, header.Columns = rows, columns
        header.PixelSpacing = [SPACING[1], SPACING[2]]
        header.SliceThickness = SPACING[0]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.ImagePositionPatient = [-20.0, -25.0, round(-100.0 + index * SPACING[0], 3)]
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.ensure_file_meta()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for keyword, value in changes.items():
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value)
        headers.append(header)
    return headers


def oblique_headers(degrees: float = 20.0) -> list[Dataset]:
    """The same stack turned about the x axis."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    headers = ct_headers()
    for index, header in enumerate(headers):
        header.ImageOrientationPatient = [1, 0, 0, 0, round(cosine, 10), round(sine, 10)]
        along = index * SPACING[0]
        header.ImagePositionPatient = [-20.0, round(-25.0 - along * sine, 6), round(-100.0 + along * cosine, 6)]
    return headers


def feet_first_headers() -> list[Dataset]:
    """The same patient space stored feet first: columns run to the patient's right, slices from head to feet."""
    headers = ct_headers()
    for index, header in enumerate(headers):
        header.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        left_most = round(-20.0 + (SHAPE[2] - 1) * SPACING[2], 3)
        top = -100.0 + (SHAPE[0] - 1) * SPACING[0]
        header.ImagePositionPatient = [left_most, -25.0, round(top - index * SPACING[0], 3)]
    return headers


def through_file(headers: list[Dataset]) -> list[Dataset]:
    """The headers as they come from files: undecoded bytes in their own character set."""
    read = []
    for header in headers:
        stream = BytesIO()
        header.save_as(stream, enforce_file_format=True)
        stream.seek(0)
        read.append(dcmread(stream, stop_before_pixels=True))
    return read


FEET_FIRST = SourceAxes(flipped=(True, False, True))


def grid(source_axes: SourceAxes | None = None) -> Grid:
    aligned = Grid.axis_aligned(SHAPE, SPACING, (-20.0, -25.0, -100.0))
    return replace(aligned, source_axes=source_axes or SourceAxes())


def labels() -> np.ndarray:
    """Boxes of different size at different places: no flip or swap of axes maps them onto themselves."""
    volume = np.zeros(SHAPE, np.uint8)
    volume[12:22, 10:40, 6:24] = 1
    volume[12:21, 12:38, 40:60] = 1
    volume[12:16, 20:33, 26:39] = 2
    volume[4:11, 12:40, 4:30] = 3
    volume[2:9, 42:50, 12:19] = 4
    volume[3:8, 42:52, 44:50] = 4
    volume[6:10, 16:30, 50:60] = 5
    return volume


def anatomy_map(
    names: tuple[str, ...] = NAMES, source_axes: SourceAxes | None = None, segmenter: AlgorithmIdentity = SEGMENTER
) -> AnatomyMap:
    here, where = labels(), grid(source_axes)
    measures = {}
    for label, name in enumerate(names, start=1):
        voxels = int((here == label).sum())
        measures[name] = AnatomyMeasure(voxels, voxels * where.voxel_ml, 40.0 + label if voxels else 0.0)
    return AnatomyMap(here, where, names, segmenter, measures)


def sided_map(
    source_axes: SourceAxes | None = None, without: tuple[str, ...] = (), gone: str | None = None
) -> AnatomyMap:
    """The same with left and right of lungs and kidneys, which lie apart at x = 32; `without` leaves anatomies unsided.

    `gone` is the side of both that is not there.
    """
    whole = anatomy_map(source_axes=source_axes)
    here = whole.labels.copy()
    if gone is not None:
        half = here[:, :, 32:] if gone == "left" else here[:, :, :32]
        half[np.isin(half, [1, 4])] = 0
    sides = {}
    for label, name in ((1, "lung"), (4, "kidney")):
        box = (slice(2, 23), slice(8, 56), slice(4, 62))
        left = here[box] == label
        left[:, :, :28] = False
        counts = {"left": int(left.sum()), "right": int((here[box] == label).sum() - left.sum())}
        measures = {
            side: AnatomyMeasure(count, count * whole.grid.voxel_ml, 30.0 + len(side))
            for side, count in counts.items()
            if count
        }
        if name not in without:
            sides[name] = Sides(box, left, measures)  # type: ignore[arg-type]
    return replace(whole, labels=here, sides=sides)


def empty_map() -> AnatomyMap:
    measures = {name: AnatomyMeasure(0, 0.0, 0.0, Reason.ANATOMY_ABSENT) for name in NAMES}
    return AnatomyMap(np.zeros(SHAPE, np.uint8), grid(), NAMES, SEGMENTER, measures)


def reading(
    lung: tuple[Finding, ...] = (
        Finding("lung.nodule", 0.9134, Verdict.PRESENT, 0.5, True),
        Finding("lung.emphysema", 0.06, Verdict.ABSENT, 0.45, True, 0.2),
        Finding("lung.peribronchial_thickening", 0.31, Verdict.UNDETERMINED, 0.4, False),
    ),
    **changes: Any,
) -> Reading:
    """Lung, heart and liver read, kidney cut off, spleen implausible."""
    whole = Reading(
        model=MODEL,
        segmenter=SEGMENTER,
        anatomies=(
            AnatomyReading("lung", 5231.41, -801.26, lung),
            AnatomyReading("heart", 640.0, 41.0, (Finding("heart.cardiomegaly", 0.72, Verdict.PRESENT, 0.6),)),
            AnatomyReading(
                "liver",
                1500.2,
                57.33,
                (
                    Finding("liver.steatosis", 0.2, Verdict.ABSENT, 0.5),
                    Finding("liver.tumor", 0.12345, Verdict.NO_OPERATING_POINT),
                ),
            ),
        ),
        not_assessed=(
            NotAssessed("kidney", Reason.ANATOMY_CUT_OFF, "4 % of the surface lies on the border"),
            NotAssessed("spleen", Reason.ANATOMY_IMPLAUSIBLE_HU),
        ),
        analysed_at=MOMENT,
    )
    return replace(whole, **changes)


def nothing_present(complete: bool = False) -> Reading:
    """Everything asked is absent; `complete` leaves nothing out."""
    return reading(
        anatomies=(
            AnatomyReading("lung", 5231.41, -801.26, (Finding("lung.nodule", 0.01, Verdict.ABSENT, 0.5),)),
            AnatomyReading("heart", 640.0, 41.0, (Finding("heart.cardiomegaly", 0.2, Verdict.ABSENT, 0.6),)),
        ),
        not_assessed=()
        if complete
        else tuple(NotAssessed(name, Reason.ANATOMY_ABSENT) for name in ("liver", "kidney", "spleen")),
    )


def nothing_assessed() -> Reading:
    return reading(anatomies=(), not_assessed=tuple(NotAssessed(name, Reason.ANATOMY_ABSENT) for name in NAMES))


def as_test_model(of: Reading) -> Reading:
    return replace(of, model=replace(of.model, test_only=True))


def volume(source_axes: SourceAxes | None = None) -> Volume:
    """HU with the organs brighter than a body of soft tissue in air."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 6:58, 2:62] = 20
    for label, value in {1: -820, 2: 45, 3: 60, 4: 35, 5: 50}.items():
        hu[labels() == label] = value
    return Volume(hu, grid(source_axes), STUDY, SERIES)


def heat_at(z: int, y: int, x: int) -> Heat:
    """Heat on tokens of 2 x 8 x 8 voxels: at the token around voxel [z, y, x], a little less than nothing elsewhere."""
    count, (dz, dy, dx) = (12, 8, 8), (2.0, 8.0, 8.0)
    values = np.full(count, -0.05, np.float16)
    values[int(z // dz), int(y // dy), int(x // dx)] = 1.5
    to_scan = np.diag([dz, dy, dx, 1.0])
    to_scan[:3, 3] = (dz / 2 - 0.5, dy / 2 - 0.5, dx / 2 - 0.5)
    spacing = (dz * SPACING[0], dy * SPACING[1], dx * SPACING[2])
    return Heat(values, Grid(count, spacing, grid().affine @ to_scan))


def with_heat(of: Reading) -> Reading:
    """The reading's present findings with heat: of the lung high and in front in the left one, of the heart inside."""
    places = {"lung": (19, 16, 44), "heart": (14, 26, 32)}
    anatomies = tuple(
        replace(
            anatomy,
            findings=tuple(
                replace(f, heat=heat_at(*places[anatomy.anatomy])) if f.verdict is Verdict.PRESENT else f
                for f in anatomy.findings
            ),
        )
        for anatomy in of.anatomies
    )
    return replace(of, anatomies=anatomies)
