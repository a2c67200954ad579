"""Left and right of paired anatomies: told rightly or not at all, on bodies put together from a few ellipsoids."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Reason
from ct.anatomy import Sides, UInt8Array
from ct.examine import Examined, examine
from ct.midline import find_midline
from ct.sides import LEFT, RIGHT
from ct.totalsegmentator import own_sides
from ct.volume import Grid, Volume

SPACING, SHAPE = (8.0, 6.0, 5.0), (48, 44, 72)
NAMES = ("lung", "heart", "liver", "spleen", "kidney", "esophagus", "sacrum", "adrenal_gland")
HU = {"lung": -800, "heart": 40, "liver": 60, "spleen": 50, "kidney": 35, "esophagus": 30, "sacrum": 250}
Blob = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Middle and radii (x, y, z), mm from the middle of the body: x to the Left, y to Posterior, z to Superior."""

LUNGS: list[Blob] = [((80, 0, 110), (55, 70, 70)), ((-80, 0, 110), (60, 70, 70))]
KIDNEYS: list[Blob] = [((65, 50, -60), (28, 26, 50)), ((-65, 50, -70), (28, 26, 50))]
WHOLE: dict[str, list[Blob]] = {
    "lung": LUNGS,
    "heart": [((18, -30, 90), (40, 40, 45))],
    "liver": [((-60, 0, -20), (55, 60, 45))],
    "spleen": [((80, 30, -10), (25, 30, 40))],
    "kidney": KIDNEYS,
    "esophagus": [((5, 30, 90), (7, 7, 80))],
}


@dataclass
class Body:
    """A body and its scan; `midline_mm` is where its middle lies in the scan, `lean` how far per mm upwards."""

    organs: dict[str, list[Blob]] = field(default_factory=lambda: dict(WHOLE))
    midline_mm: float = 0.0
    lean: float = 0.0
    bones: list[Blob] = field(default_factory=lambda: [((0, 60, 0), (18, 22, 400)), ((0, -90, 110), (15, 6, 90))])

    def __post_init__(self) -> None:
        z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)),
                              indexing="ij")  # fmt: skip
        self.x, self.y, self.z = x - self.midline_mm - self.lean * z, y, z
        hu = np.where((self.x / 150) ** 2 + (y / 115) ** 2 < 1, 20, -1000).astype(np.int16)
        for bone in self.bones:
            hu[self._inside(bone)] = 400
        self.labels: UInt8Array = np.zeros(SHAPE, np.uint8)
        for name, blobs in self.organs.items():
            for blob in blobs:
                inside = self._inside(blob)
                self.labels[inside] = NAMES.index(name) + 1
                hu[inside] = HU.get(name, 30)
        self.volume = Volume(hu, Grid.axis_aligned(SHAPE, SPACING, (0.0, 0.0, 0.0)))

    def _inside(self, blob: Blob) -> np.ndarray:
        (cx, cy, cz), (rx, ry, rz) = blob
        return ((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 + ((self.z - cz) / rz) ** 2 < 1

    def mask(self, name: str) -> np.ndarray:
        return self.labels == NAMES.index(name) + 1

    def tell(self, own: UInt8Array | None = None) -> dict[str, Sides]:
        return self.examine(own).sides

    def examine(self, own: UInt8Array | None = None) -> Examined:
        return examine(self.volume, self.labels, NAMES, None if own is None else lambda box: own[box])

    def left(self, name: str, told: dict[str, Sides]) -> np.ndarray:
        """The left part on the whole grid."""
        whole = np.zeros(SHAPE, bool)
        whole[told[name].box] = told[name].left
        assert not (whole & ~self.mask(name)).any()
        return whole


def with_organs(**organs: list[Blob]) -> Body:
    return Body({**WHOLE, **organs})


@pytest.mark.parametrize(("midline", "lean"), [(0, 0), (25, 0), (-30, 0.1), (10, -0.15)])
def test_pairs_are_told_wherever_the_body_lies(midline: float, lean: float) -> None:
    body = Body(midline_mm=midline, lean=lean)
    told = body.tell()
    for name in ("lung", "kidney"):
        assert np.array_equal(body.left(name, told), body.mask(name) & (body.x > 0)), name
        left, right = (told[name].measures[side] for side in ("left", "right"))  # type: ignore[index]
        assert left.voxels == np.count_nonzero(body.mask(name) & (body.x > 0))
        assert left.voxels + right.voxels == np.count_nonzero(body.mask(name))
        assert left.volume_ml == pytest.approx(left.voxels * np.prod(SPACING) / 1000)
        assert left.mean_hu == HU[name]
    assert set(told) == {"lung", "kidney"}


@pytest.mark.parametrize(("kept", "side"), [(0, "left"), (1, "right")])
def test_one_kidney_alone_has_its_side(kept: int, side: str) -> None:
    told = with_organs(kidney=[KIDNEYS[kept]]).tell()
    assert list(told["kidney"].measures) == [side]
    assert bool(told["kidney"].left.any()) == (side == "left")


@pytest.mark.parametrize(
    "kidneys",
    [
        pytest.param([*KIDNEYS, ((0, 40, -105), (70, 12, 14))], id="horseshoe"),
        pytest.param([((5, 20, -120), (28, 26, 40))], id="in the pelvis, on the midline"),
        pytest.param([((75, 55, -40), (24, 22, 40)), ((55, 45, -140), (24, 22, 40))], id="two on one side"),
        pytest.param([KIDNEYS[0], ((-60, 50, -60), (7, 7, 9))], id="one, and a stray on the other side"),
    ],
)
def test_kidneys_of_which_no_side_can_be_told(kidneys: list[Blob]) -> None:
    told = with_organs(kidney=kidneys).tell()
    assert "kidney" not in told
    assert "lung" in told


def test_touching_lungs_are_cut_where_they_touch() -> None:
    body = with_organs(lung=[*LUNGS, ((0, -45, 120), (40, 9, 30))])
    told = body.tell()
    left = body.left("lung", told)
    for part, (middle, radii) in ((left, LUNGS[0]), (body.mask("lung") & ~left, LUNGS[1])):
        inside = body._inside((middle, radii))
        assert np.count_nonzero(part & inside) > 0.99 * np.count_nonzero(inside & body.mask("lung"))


@pytest.mark.parametrize(
    "lungs",
    [
        pytest.param([((-50, 0, 110), (90, 70, 70))], id="bulges"),
        pytest.param([LUNGS[1], ((-10, -50, 120), (60, 20, 40)), ((55, -50, 120), (30, 30, 50))], id="has a waist"),
    ],
)
def test_a_lone_lung_that_bulges_over_the_midline_is_not_told(lungs: list[Blob]) -> None:
    told = with_organs(lung=lungs, heart=[], esophagus=WHOLE["esophagus"]).tell()
    assert "lung" not in told


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"liver": [((60, 0, -20), (55, 60, 45))], "spleen": []}, id="liver on the left"),
        pytest.param({"spleen": [((-80, 30, -10), (25, 30, 40))], "liver": []}, id="spleen on the right"),
        pytest.param({"heart": [((-20, -30, 90), (40, 40, 45))]}, id="heart on the right"),
    ],
)
def test_in_a_mirrored_body_or_image_no_side_is_told(changed: dict[str, list[Blob]]) -> None:
    assert with_organs(**changed).tell() == {}


def test_without_a_spine_no_side_is_told() -> None:
    assert Body(bones=[]).tell() == {}


def test_a_spine_that_does_not_agree_with_the_organs_is_none() -> None:
    """What was taken for the spine is the arm at the border of the field of view."""
    body = Body(bones=[((130, 0, 0), (20, 20, 400))])
    assert find_midline(body.volume, body.labels, ()) is not None
    assert body.tell() == {}


def test_a_lone_kidney_needs_something_else_to_confirm_the_midline() -> None:
    lone = {"kidney": [KIDNEYS[0]]}
    assert Body(lone).tell() == {}
    assert "kidney" in Body({**lone, "esophagus": WHOLE["esophagus"]}).tell()
    assert "kidney" in Body({**lone, "liver": WHOLE["liver"], "spleen": WHOLE["spleen"]}).tell()


def test_contrast_in_vessels_and_metal_beside_do_not_move_the_midline() -> None:
    body = Body(
        {**WHOLE, "heart": [((30, -30, 60), (45, 45, 60))]},
        bones=[((0, 60, 0), (18, 22, 400)), ((-110, 0, -150), (18, 60, 30)), ((120, -40, 60), (12, 12, 90))],
    )
    body.volume.hu[body.mask("heart")] = 350
    midline = find_midline(body.volume, body.labels, ())
    assert midline is not None
    middle = (SHAPE[2] - 1) / 2 * SPACING[2]
    assert abs(midline.x_mm(np.array([190.0]))[0] - middle) < 8


def own_of(body: Body, name: str, left: np.ndarray) -> UInt8Array:
    said = np.zeros(SHAPE, np.uint8)
    said[body.mask(name)] = RIGHT
    said[body.mask(name) & left] = LEFT
    return said


def test_the_segmenters_own_sides_divide_what_lies_across() -> None:
    body = with_organs(kidney=[*KIDNEYS, ((0, 40, -105), (70, 12, 14))])
    boundary = body.x > 4
    told = body.tell(own_of(body, "kidney", boundary))
    assert np.array_equal(body.left("kidney", told), body.mask("kidney") & boundary)


def test_the_segmenters_own_sides_do_without_a_midline() -> None:
    body = Body(bones=[])
    told = body.tell(own_of(body, "kidney", body.x > 0))
    assert np.array_equal(body.left("kidney", told), body.mask("kidney") & (body.x > 0))


@pytest.mark.parametrize("bones", [[], [((0, 60, 0), (18, 22, 400))]], ids=["no spine", "spine"])
def test_sides_the_wrong_way_round_are_not_told(bones: list[Blob]) -> None:
    body = Body(bones=bones)
    found = body.examine(own_of(body, "kidney", body.x < 0))
    assert "kidney" not in found.sides
    assert found.measures["kidney"].doubt is Reason.ANATOMY_SIDES_SWAPPED
    assert not found.measures["lung"].swapped


def test_a_lone_kidney_that_is_called_otherwise_is_not_told() -> None:
    body = with_organs(kidney=[KIDNEYS[0]])
    assert "kidney" not in body.tell(own_of(body, "kidney", body.x > 500))
    assert "kidney" in body.tell(own_of(body, "kidney", body.x > 0))


def test_two_kidneys_on_one_side_are_not_swapped() -> None:
    body = with_organs(kidney=[((75, 55, -40), (24, 22, 40)), ((55, 45, -140), (24, 22, 40))])
    found = body.examine(own_of(body, "kidney", body.z > -90))
    assert "kidney" not in found.sides
    assert found.measures["kidney"].doubt is None


def test_a_blob_of_the_wrong_class_goes_to_the_side_on_which_it_lies() -> None:
    body = Body()
    said = own_of(body, "kidney", body.x > 0)
    said[body.mask("kidney") & (body.x > 85)] = RIGHT
    told = body.tell(said)
    assert np.array_equal(body.left("kidney", told), body.mask("kidney") & (body.x > 0))


def test_sides_of_totalsegmentator_are_in_the_names_of_its_classes() -> None:
    classes = np.array([[[0, 1, 2, 3]]], np.uint8)
    said = own_sides(classes, {1: "kidney_right", 2: "kidney_left", 3: "liver"})
    assert said((slice(0, 1), slice(0, 1), slice(1, 4))).tolist() == [[[RIGHT, LEFT, 0]]]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-120, 0), st.floats(14, 35)), min_size=1, max_size=3),
    st.floats(-30, 30),
    st.floats(-0.15, 0.15),
)
def test_never_the_wrong_side(kidneys: list[tuple[float, float, float]], midline: float, lean: float) -> None:
    """Wherever kidneys lie: what is called left is on the left, but for a small part."""
    body = Body({**WHOLE, "kidney": [((x, 45, z), (r, r, 1.6 * r)) for x, z, r in kidneys]}, midline, lean)
    told = body.tell()
    if "kidney" in told:
        left, whole = body.left("kidney", told), body.mask("kidney")
        for part, there in ((left, body.x > -5), (whole & ~left, body.x < 5)):
            assert np.count_nonzero(part & ~there) <= 0.25 * np.count_nonzero(part)
