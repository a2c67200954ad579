"""What makes an anatomy not assessed beyond its place, size and attenuation: pieces, and sides the wrong way round."""

import itertools

import numpy as np
import pytest

from config import Reason, load_vocabulary
from ct.anatomy import AnatomyMeasure, UInt8Array
from ct.measure import measure
from ct.quality import describe, judge
from ct.volume import Grid, Volume

HU = {"liver": 60, "kidney": 40, "portal_vein": 150, "rib": 300}


def _measured(name: str, mask: UInt8Array, step: float = 5.0) -> AnatomyMeasure:
    volume = Volume(np.full(mask.shape, HU[name], np.int16), Grid.axis_aligned(mask.shape, (step,) * 3, (0, 0, 0)))
    return measure(volume, mask, (name,))[name]


def _blocks(number: int, edge: int, main: int = 0) -> UInt8Array:
    """`number` cubes of `edge` voxels, apart from each other and from the border, and perhaps one of `main`."""
    mask = np.zeros((64, 64, 64), np.uint8)
    places = itertools.product(range(2, 62 - edge, edge + 2), repeat=3)
    for z, y, x in itertools.islice((at for at in places if at[0] >= main + 3 or not main), number):
        mask[z : z + edge, y : y + edge, x : x + edge] = 1
    mask[1 : 1 + main, 1 : 1 + main, 1 : 1 + main] = 1
    return mask


@pytest.mark.parametrize(
    ("name", "pieces", "edge", "main", "doubt"),
    [
        pytest.param("liver", 8, 10, 0, Reason.ANATOMY_FRAGMENTED, id="no liver"),
        pytest.param("liver", 30, 6, 24, None, id="a liver among strays"),
        pytest.param("kidney", 2, 10, 0, None, id="two kidneys"),
        pytest.param("kidney", 5, 8, 0, Reason.ANATOMY_FRAGMENTED, id="no kidneys"),
        pytest.param("rib", 24, 5, 0, None, id="24 ribs"),
        pytest.param("rib", 60, 4, 0, Reason.ANATOMY_FRAGMENTED, id="bone everywhere"),
    ],
)
def test_a_mask_in_too_many_pieces(name: str, pieces: int, edge: int, main: int, doubt: Reason | None) -> None:
    assert _measured(name, _blocks(pieces, edge, main)).doubt is doubt


def test_what_touches_by_its_corners_is_one_piece() -> None:
    """A vessel that runs obliquely through thick slices."""
    mask = np.zeros((40, 40, 40), np.uint8)
    for z in range(2, 30):
        mask[z, z : z + 2, z : z + 2] = 1
        mask[z, 3 + z : 5 + z, z] = 0
    mask[2:30:2] = np.roll(mask[2:30:2], 1, axis=2)
    assert _measured("portal_vein", mask).main_share == 1.0


def test_a_large_anatomy_is_thinned_and_still_in_its_pieces() -> None:
    """Bars of 4 voxels across 130 x 130 x 130: their box has more voxels than are looked at."""
    mask = np.zeros((134, 134, 134), np.uint8)
    for y, x in itertools.product((2, 44, 86, 128), repeat=2):
        mask[2:132, y : y + 4, x : x + 4] = 1
    found = _measured("liver", mask, step=2.0)
    assert found.main_share == pytest.approx(1 / 16)


def test_a_cut_organ_is_cut_before_it_is_in_pieces_and_a_tube_may_be_cut() -> None:
    mask = np.roll(_blocks(8, 10), -2, axis=0)
    assert _measured("liver", mask).doubt is Reason.ANATOMY_CUT_OFF
    tube = np.zeros((40, 40, 40), np.uint8)
    tube[:20, 18:22, 18:22] = 1
    found = _measured("portal_vein", tube)
    assert (found.cut, found.doubt) == (True, None)


def test_each_check_alone_and_in_their_order() -> None:
    """From a measure that fails them all, mended check by check."""
    liver = load_vocabulary().anatomy("liver")
    failing = {"voxels": 0, "cut": True, "volume_ml": 1.0, "mean_hu": -900.0, "main_share": 0.1, "swapped": True}
    mended = [
        ("voxels", 1000, Reason.ANATOMY_ABSENT),
        ("cut", False, Reason.ANATOMY_CUT_OFF),
        ("volume_ml", 9000.0, Reason.ANATOMY_TOO_SMALL),
        ("volume_ml", 1500.0, Reason.ANATOMY_TOO_LARGE),
        ("mean_hu", 60.0, Reason.ANATOMY_IMPLAUSIBLE_HU),
        ("main_share", 0.9, Reason.ANATOMY_FRAGMENTED),
        ("swapped", False, Reason.ANATOMY_SIDES_SWAPPED),
    ]
    for field, good, reason in mended:
        assert judge(liver, AnatomyMeasure(**failing)) is reason  # type: ignore[arg-type]
        failing[field] = good
    assert judge(liver, AnatomyMeasure(**failing)) is None  # type: ignore[arg-type]


def test_what_was_measured_stands_beside_the_reason() -> None:
    assert describe(AnatomyMeasure(0, 0.0, float("nan"), Reason.ANATOMY_ABSENT)) == ""
    assert describe(AnatomyMeasure(9, 600.4, 40.2, Reason.ANATOMY_CUT_OFF)) == "600 ml, mean 40 HU"
    scattered = AnatomyMeasure(9, 600.4, 40.2, Reason.ANATOMY_FRAGMENTED, main_share=0.31)
    assert describe(scattered) == "600 ml, mean 40 HU, 31 % of it in its main pieces"
