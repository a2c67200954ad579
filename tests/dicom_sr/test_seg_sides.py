"""Left and right in the SEG for every paired anatomy of each anatomy map, from TotalSegmentator's classes on."""

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.sr.coding import Code
from sr_synthetic import ct_headers

import dicom_sr
from config import Reason, load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap, UInt8Array
from ct.examine import Examined, examine
from ct.totalsegmentator import findable, merge_classes, own_sides
from ct.volume import Grid, Volume
from dicom_sr import codes
from fvlm.reading import AnatomyReading, NotAssessed, Reading

pytest.importorskip("totalsegmentator")
from totalsegmentator.map_to_binary import class_map

SHAPE, SPACING = (62, 60, 90), (5.0, 4.0, 4.0)
NUMBERS = {name: number for number, name in class_map["total"].items()}
ALGORITHM = AlgorithmIdentity("TotalSegmentator", "2", "c" * 64)
PAIRED = {
    "ct-rate": {"lung"},
    "medvl-54": {"lung", "kidney", "adrenal_gland"},
    "radar": {
        "lung", "kidney", "adrenal_gland", "rib", "deep_back_muscle", "clavicle", "femur", "gluteal_muscle", "hip_bone",
        "humerus", "iliac_artery", "iliac_vein", "iliopsoas", "scapula",
    },
}  # fmt: skip


def classes() -> UInt8Array:
    """A body of blocks: each pair at its own height, the left one larger and farther out than the right one."""
    body = np.zeros(SHAPE, np.uint8)
    for place, name in enumerate(sorted(PAIRED["radar"])):
        levels = slice(2 + 4 * place, 5 + 4 * place)
        for side, columns, rows in (("left", slice(52, 74), (6, 36)), ("right", slice(22, 36), (8, 32))):
            its = [one for one in load_vocabulary().anatomy(name).totalsegmentator if side in one.split("_")]
            for part, one in zip(np.array_split(np.arange(*rows), len(its)), its, strict=True):
                body[levels, part[0] : part[-1] + 1, columns] = NUMBERS[one]
    for name, rows, columns in (
        ("liver", slice(40, 48), slice(20, 36)),
        ("spleen", slice(40, 48), slice(54, 66)),
        ("heart", slice(10, 20), slice(44, 49)),
        ("esophagus", slice(24, 28), slice(44, 47)),
        ("vertebrae_T8", slice(48, 58), slice(42, 49)),
    ):
        body[20:50, rows, columns] = NUMBERS[name]
    return body


def scan(body: UInt8Array) -> Volume:
    hu = np.where(body == NUMBERS["vertebrae_T8"], 400, 30).astype(np.int16)
    return Volume(hu, Grid.axis_aligned(SHAPE, SPACING, (-20.0, -25.0, -100.0)))


def examined(body: UInt8Array, preset: str) -> tuple[tuple[str, ...], UInt8Array, Examined]:
    names = findable(load_vocabulary().preset(preset).anatomies)
    labels = merge_classes(body, class_map["total"], names)
    return names, labels, examine(scan(body), labels, names, own_sides(body, class_map["total"]))


def segmented(body: UInt8Array, preset: str) -> tuple[list[tuple[Code, Code | None]], npt.NDArray[np.uint8]]:
    """Code and side of each segment of the SEG as it is read back, and its frames put together, [z, y, x]."""
    names, labels, found = examined(body, preset)
    anatomy_map = AnatomyMap(labels, scan(body).grid, names, ALGORITHM, found.measures, found.sides)
    read = tuple(AnatomyReading(n, m.volume_ml, m.mean_hu, ()) for n, m in found.measures.items() if m.voxels)
    missing = tuple(NotAssessed(n, Reason.ANATOMY_ABSENT) for n, m in found.measures.items() if not m.voxels)
    reading = Reading(ALGORITHM, ALGORITHM, read, missing, datetime(2026, 1, 1, tzinfo=UTC))
    seg = dicom_sr.write(reading, anatomy_map, ct_headers(*SHAPE, PixelSpacing=[4.0, 4.0]))[0]
    coded = []
    for item in seg.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence") or [None]
        coded.append((codes.code_of(kind), modifiers[0] and codes.code_of(modifiers[0])))
    pixels = np.zeros(SHAPE, np.uint8)
    for frame, place in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        z = round((float(place.PlanePositionSequence[0].ImagePositionPatient[2]) + 100.0) / SPACING[0])
        pixels[z][frame > 0] = place.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return coded, pixels


@pytest.mark.parametrize("preset", PAIRED)
def test_every_paired_anatomy_has_its_left_and_its_right(preset: str) -> None:
    body = classes()
    coded, pixels = segmented(body, preset)
    sided = {pair: number for number, pair in enumerate(coded, start=1) if pair[1] is not None}
    assert len(sided) == 2 * len(PAIRED[preset])
    for name in PAIRED[preset]:
        anatomy = load_vocabulary().anatomy(name)
        for side, code in codes.SIDES.items():
            its = [NUMBERS[one] for one in anatomy.totalsegmentator if side in one.split("_")]
            number = sided[codes.coded(anatomy.code), code]
            assert np.array_equal(pixels == number, np.isin(body, its)), (name, side)


def test_in_a_mirrored_image_no_paired_anatomy_is_assessed_and_no_side_is_said() -> None:
    """The patient position was entered wrongly: what the segmenter calls left lies on the right."""
    _, _, found = examined(np.ascontiguousarray(classes()[:, :, ::-1]), "radar")
    assert found.sides == {}
    assert {name for name, one in found.measures.items() if one.swapped} == PAIRED["radar"]
    whole = found.measures["deep_back_muscle"]
    assert whole.doubt is Reason.ANATOMY_SIDES_SWAPPED
