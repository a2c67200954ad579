"""Measures, the physiologic guard, and labels carried to the scanner's grid."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from config import Reason
from ct.anatomy import SegmenterWeightsError
from ct.bundled import BundledSegmenter, build_network, upsample_labels
from ct.measure import measure
from ct.volume import Grid, Volume
from training.segmenter import save_segmenter


def _volume(shape: tuple[int, int, int] = (20, 40, 40), hu: int = 60) -> Volume:
    return Volume(np.full(shape, hu, dtype=np.int16), Grid.axis_aligned(shape, (5.0, 5.0, 5.0), (0, 0, 0)))


def _liver(volume: Volume, where: tuple[slice, slice, slice]) -> Reason | None:
    labels = np.zeros(volume.grid.shape, dtype=np.uint8)
    labels[where] = 1
    return measure(volume, labels, ("liver",))["liver"].doubt


def test_plausible_anatomy_has_no_doubt_and_right_measures() -> None:
    volume = _volume()
    labels = np.zeros(volume.grid.shape, dtype=np.uint8)
    labels[2:18, 5:30, 5:30] = 1
    found = measure(volume, labels, ("liver",))["liver"]
    assert found.voxels == 16 * 25 * 25
    assert found.volume_ml == pytest.approx(16 * 25 * 25 * 0.125)
    assert found.mean_hu == 60.0
    assert found.doubt is None


def test_each_doubt() -> None:
    inside = (slice(2, 18), slice(5, 30), slice(5, 30))
    assert _liver(_volume(), (slice(0, 0),) * 3) is Reason.ANATOMY_ABSENT
    assert _liver(_volume(), (slice(0, 18), *inside[1:])) is Reason.ANATOMY_CUT_OFF
    assert _liver(_volume(), (slice(5, 8), slice(5, 9), slice(5, 9))) is Reason.ANATOMY_TOO_SMALL
    assert _liver(_volume((60, 40, 40)), (slice(1, 59), slice(1, 39), slice(1, 39))) is Reason.ANATOMY_TOO_LARGE
    assert _liver(_volume(hu=-900), inside) is Reason.ANATOMY_IMPLAUSIBLE_HU


def _ball(step: float, cut_mm: float) -> Reason | None:
    """Doubt about an ellipsoid of 60 x 50 x 45 mm half axes (0.6 l), whose upper `cut_mm` lie above the scan."""
    half, spacing = np.array([60.0, 50.0, 45.0]), np.array([step, 2.0, 2.0])
    shape = (round((2 * half[0] - cut_mm) / step) + 3, 54, 49)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    top = shape[0] - 0.5 - (0 if cut_mm else 1)
    inside = (
        ((z - top) * step + half[0] - cut_mm) ** 2 / half[0] ** 2
        + ((y - 26.5) * spacing[1]) ** 2 / half[1] ** 2
        + ((x - 24) * spacing[2]) ** 2 / half[2] ** 2
    )
    labels = (inside <= 1).astype(np.uint8)
    stray = labels.copy()
    stray[0, 0, :3] = 1
    volume = Volume(np.full(shape, 60, np.int16), Grid.axis_aligned(shape, (step, 2.0, 2.0), (0, 0, 0)))
    doubts = {measure(volume, mask, ("liver",))["liver"].doubt for mask in (labels, stray)}
    assert len(doubts) == 1
    return doubts.pop()


@pytest.mark.parametrize("step", [0.6, 1.0, 5.0])
def test_cut_off_is_told_at_every_slice_thickness(step: float) -> None:
    assert _ball(step, 20.0) is Reason.ANATOMY_CUT_OFF
    assert _ball(step, 50.0) is Reason.ANATOMY_CUT_OFF
    assert _ball(step, 0.0) is None


@pytest.mark.parametrize(("depth", "doubt"), [(2, None), (14, Reason.ANATOMY_CUT_OFF)])
def test_a_stray_piece_at_the_border_does_not_make_the_anatomy_cut_off(depth: int, doubt: Reason | None) -> None:
    """A kidney in the middle, and 7 x 7 x `depth` voxels at the upper border: debris, or the other one."""
    shape = (40, 40, 40)
    labels = np.zeros(shape, np.uint8)
    labels[10:24, 8:18, 8:18] = 1
    labels[40 - depth :, 25:32, 25:32] = 1
    volume = Volume(np.full(shape, 40, np.int16), Grid.axis_aligned(shape, (4.0, 4.0, 4.0), (0, 0, 0)))
    assert measure(volume, labels, ("kidney",))["kidney"].doubt is doubt


def test_an_anatomy_the_network_does_not_know_is_not_in_the_map(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_segmenter(build_network(2), weights)
    weights.with_suffix(".json").write_text('{"anatomies": ["liver"]}')
    found = BundledSegmenter(weights).segment(_volume(), ("lung", "liver", "aorta"))
    assert found.names == ("liver",)
    assert set(found.measures) == {"liver"}
    assert found.labels.max() <= 1


def test_labels_keep_their_place_on_a_finer_grid() -> None:
    probabilities = torch.zeros(3, 10, 12, 14)
    probabilities[0] = 1.0
    probabilities[:, 3:6, 4:8, 2:5] = torch.tensor([0.0, 1.0, 0.0])[:, None, None, None]
    probabilities[:, 3:6, 4:8, 9:12] = torch.tensor([0.0, 0.0, 1.0])[:, None, None, None]
    fine = upsample_labels(probabilities, (4.0, 4.0, 4.0), [2, None, 1], (19, 45, 53), (2.0, 1.0, 1.0))
    assert set(np.unique(fine)) == {0, 1, 3}
    for label, first, last in ((3, 2, 5), (1, 9, 12)):
        z, y, x = (np.unique(axis) for axis in np.nonzero(fine == label))
        assert (z.min() * 2.0, z.max() * 2.0) == pytest.approx((3 * 4.0 - 1, 5 * 4.0 + 1), abs=1.1)
        assert (y.min(), y.max()) == pytest.approx((4 * 4.0 - 2, 7 * 4.0 + 2), abs=1.1)
        assert (x.min(), x.max()) == pytest.approx((first * 4.0 - 2, (last - 1) * 4.0 + 2), abs=1.1)


def test_same_grid_gives_the_most_probable_class() -> None:
    probabilities = torch.rand(4, 6, 7, 8, generator=torch.Generator().manual_seed(0)).softmax(0)
    labels = upsample_labels(probabilities, (3.0, 2.0, 2.0), [1, 2, 3], (6, 7, 8), (3.0, 2.0, 2.0))
    assert np.array_equal(labels, probabilities.argmax(0).numpy())


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(SegmenterWeightsError, match="missing"):
        BundledSegmenter(tmp_path / "none.safetensors")
    save_segmenter(build_network(16), tmp_path / "w.safetensors")
    save_file({"other": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(SegmenterWeightsError, match="not weights of the bundled network"):
        BundledSegmenter(tmp_path / "w.safetensors")
