"""Geometry truth: SEGs of one phantom in every position, read back, lie in the patient where the organs are.

Nothing is taken from the arrays' order. The masks that are written are the truth looked up at the patient position of
each voxel of the loaded volume; what is read back is looked up at the patient position of each voxel of the truth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread

import ct.phantom.dicom
from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap, UInt8Array
from ct.examine import examine
from ct.load import load_series
from ct.phantom import ANATOMIES, Orientation, PhantomPatient, Rendered, render, write_series
from ct.phantom.dicom import Lean, leaning
from ct.volume import Volume
from dicom_sr import segmentation
from dicom_sr.identity import Names, WriteContext
from dicom_sr.segmentation import side_of
from dicom_sr.sources import working_copies
from fvlm.reading import AnatomyReading, Reading

SPACING, SHAPE = (9.5, 4.1, 5.3), (65, 86, 84)
"""Pixels are not square, so that rows and columns cannot be confused unnoticed."""
PATIENT = PhantomPatient.draw(7, ())
SEGMENTER = AlgorithmIdentity("Truth", "1", "0" * 64)
STRAIGHT: Lean = (0.0, 0.0, 0.0)
SIDED = {"lung", "kidney", "adrenal_gland"}
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Acquisition:
    """One series of the phantom: its volume, and what was written of it."""

    truth: Rendered
    rotation: npt.NDArray[np.float64]
    volume: Volume
    anatomy_map: AnatomyMap
    objects: tuple[Path, Path]
    """SEG and label map."""

    def points(self) -> Points:
        """Where each voxel of the truth is in the patient, (x, y, z) mm [z, y, x, 3]."""
        ticks = [o + s * np.arange(n) for o, s, n in zip(self.truth.origin_mm, SPACING, SHAPE, strict=True)]
        z, y, x = np.meshgrid(*ticks, indexing="ij")
        return np.stack([x, y, z], axis=-1) @ self.rotation.T

    def is_left(self) -> npt.NDArray[np.bool_]:
        """Which voxels of the truth are left of the middle in which the phantom was built."""
        x = self.truth.origin_mm[2] + SPACING[2] * np.arange(SHAPE[2])
        return np.broadcast_to(x > PATIENT.body.offset_mm[0], SHAPE)

    def mask(self, anatomy: str, side: str | None) -> npt.NDArray[np.bool_]:
        mask = self.truth.labels == ANATOMIES.index(anatomy) + 1
        return mask if side is None else mask & (self.is_left() == (side == "left"))


def looked_up(values: npt.NDArray[np.generic], affine: Points, points: Points) -> npt.NDArray[np.generic]:
    """Values of the nearest voxels; `affine` takes indices of `values` to (x, y, z). Outside is 0."""
    index = np.rint((points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    inside = ((index >= 0) & (index < values.shape)).all(axis=-1)
    found = np.zeros(points.shape[:-1], values.dtype)
    found[inside] = values[tuple(index[inside].T)]
    return found


@pytest.fixture(scope="module")
def truth() -> Iterator[Rendered]:
    """The phantom, drawn once for all series."""
    drawn = render(PATIENT, SPACING, SHAPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ct.phantom.dicom, "render", lambda *_: drawn)
        yield drawn


def truth_on(volume: Volume, truth: Rendered, rotation: npt.NDArray[np.float64]) -> UInt8Array:
    """The true label at the patient position of each voxel of a volume."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.grid.shape), indexing="ij"), axis=-1)
    points = index @ volume.grid.affine[:3, :3].T + volume.grid.affine[:3, 3]
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(SPACING)[::-1]
    affine[:3, 3] = rotation @ truth.origin_mm[::-1]
    return looked_up(truth.labels, affine, points).astype(np.uint8)


CASES: dict[str, tuple[Orientation, Lean]] = {
    "supine": ("HFS", STRAIGHT),
    "feet first": ("FFS", STRAIGHT),
    "prone": ("HFP", STRAIGHT),
    "right decubitus": ("HFDR", STRAIGHT),
    "left decubitus": ("HFDL", STRAIGHT),
    "feet first, left decubitus": ("FFDL", STRAIGHT),
    "oblique": ("HFS", (6.0, -5.0, 4.0)),
    "oblique, feet first, left decubitus": ("FFDL", (-4.0, 6.0, -5.0)),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def acquisition(
    request: pytest.FixtureRequest, truth: Rendered, tmp_path_factory: pytest.TempPathFactory
) -> Acquisition:
    orientation, lean = request.param
    folder = tmp_path_factory.mktemp("series")
    write_series(PATIENT, folder / "ct", spacing=SPACING, shape=SHAPE, orientation=orientation, lean_deg=lean)
    (volume,) = load_series(folder / "ct")
    rotation = leaning(lean)
    labels = truth_on(volume, truth, rotation)
    examined = examine(volume, labels, ANATOMIES)
    anatomy_map = AnatomyMap(labels, volume.grid, ANATOMIES, SEGMENTER, examined.measures, examined.sides)
    anatomies = tuple(AnatomyReading(name, m.volume_ml, m.mean_hu, ()) for name, m in examined.measures.items())
    reading = Reading(SEGMENTER, SEGMENTER, anatomies, (), datetime(2026, 1, 1, tzinfo=UTC))
    headers = [dcmread(source.path, stop_before_pixels=True) for source in volume.sources]
    copies, moment = working_copies(headers, anatomy_map), reading.analysed_at
    names = Names.of(reading, [str(h.SOPInstanceUID) for h in headers], volume.series_instance_uid, moment)
    common = copies, names, WriteContext(), moment, load_vocabulary()
    segments = segmentation.build(reading, anatomy_map, *common)
    assert segments is not None
    label_map = segmentation.build_label_map(segments.rows, reading, anatomy_map, *common)
    paths = folder / "seg.dcm", folder / "label-map.dcm"
    for dataset, path in zip((segments.dataset, label_map), paths, strict=True):
        dataset.save_as(path, enforce_file_format=True)
    return Acquisition(truth, rotation, volume, anatomy_map, paths)


def read_back(path: Path, points: Points) -> tuple[UInt8Array, dict[int, tuple[str, str | None]]]:
    """Segment numbers at points of patient space, and what each is: anatomy and side."""
    read = hd.seg.segread(path)
    stack = read.get_volume(combine_segments=True)
    found = looked_up(stack.array, stack.affine, points).astype(np.uint8)
    shown = {int(item.SegmentNumber): item for item in read.SegmentSequence if int(item.SegmentNumber) > 0}
    return found, {number: (_anatomy(item), side_of(item)) for number, item in shown.items()}


def _anatomy(item: Dataset) -> str:
    code = str(item.SegmentedPropertyTypeCodeSequence[0].CodeValue)
    return next(a.name for a in load_vocabulary().anatomies if a.code.value == code)


def dice_of(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def test_the_volume_is_the_phantom_in_patient_space(acquisition: Acquisition) -> None:
    hu = looked_up(acquisition.volume.hu, acquisition.volume.grid.affine, acquisition.points())
    assert np.array_equal(hu, acquisition.truth.hu)


@pytest.mark.parametrize("kind", [0, 1], ids=["binary", "label map"])
def test_segments_lie_where_the_organs_are(acquisition: Acquisition, kind: int) -> None:
    points = acquisition.points()
    found, shown = read_back(acquisition.objects[kind], points)
    assert {anatomy for anatomy, _ in shown.values()} == set(ANATOMIES)
    assert {anatomy for anatomy, side in shown.values() if side is not None} == SIDED
    for number, (anatomy, side) in shown.items():
        # between touching lungs the phantom has no wall: where one ends is not known to a voxel
        least = 0.97 if anatomy == "lung" else 0.999
        assert dice_of(found == number, acquisition.mask(anatomy, side)) >= least, (anatomy, side)
    lungs = [number for number, (anatomy, _) in shown.items() if anatomy == "lung"]
    assert dice_of(np.isin(found, lungs), acquisition.mask("lung", None)) >= 0.999

    x = {entry: points[found == number, 0].mean() for number, entry in shown.items()}
    middle = (acquisition.rotation @ PATIENT.body.to_patient((0.0, 0.0, 0.0)))[0]
    for anatomy in SIDED:
        assert x[anatomy, "right"] < middle < x[anatomy, "left"], anatomy
    assert x["liver", None] < middle < x["heart", None]


def test_each_side_measures_what_it_holds(acquisition: Acquisition) -> None:
    for anatomy in SIDED - {"lung"}:
        for side, measured in acquisition.anatomy_map.sides[anatomy].measures.items():
            mask = acquisition.mask(anatomy, side)
            assert measured.voxels == np.count_nonzero(mask)
            assert measured.volume_ml == pytest.approx(measured.voxels * np.prod(SPACING) / 1000)
            assert measured.mean_hu == pytest.approx(float(acquisition.truth.hu[mask].mean()))
