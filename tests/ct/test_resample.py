"""Resampling: no shift, no skipped structure, exact ramps, labels there and back."""

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from ct import Grid, Volume
from ct.resample import resample, resample_hu, resample_labels, resampled_shape, scores_to_grid, to_grid

Float32Array = npt.NDArray[np.float32]


def ramp(shape: tuple[int, ...], spacing: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """3 per mm along z, 5 along y, 7 along x, from the first voxel centre."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    return 3 * z + 5 * y + 7 * x


@pytest.mark.parametrize("new", [(3.0, 1.0, 1.0), (1.0, 0.7, 0.9), (0.5, 0.35, 2.0), (2.5, 0.8, 0.7)])
def test_a_ramp_stays_where_it_is(new: tuple[float, float, float]) -> None:
    old = (2.5, 0.8, 0.7)
    out = resample_hu(ramp((20, 30, 40), old), old, new, antialias=False)
    inner = tuple(slice(0, int((n - 1) * o / w) + 1) for n, o, w in zip((20, 30, 40), old, new, strict=True))
    assert out.dtype == np.float32
    assert out.shape == resampled_shape((20, 30, 40), old, new)
    assert np.allclose(out[inner], ramp(out.shape, new)[inner], atol=1e-3)


def test_antialiasing_does_not_shift_either() -> None:
    old, new = (1.0, 1.0, 1.0), (3.0, 2.0, 2.5)
    out = resample_hu(ramp((40, 40, 40), old), old, new)
    middle = (slice(2, -2),) * 3
    assert np.allclose(out[middle], ramp(out.shape, new)[middle], atol=1e-3)


def test_antialiasing_skips_nothing() -> None:
    """A single bright plane must be seen wherever it lies; its sum is kept."""
    for plane in range(6, 15):
        hu = np.zeros((21, 4, 4), np.int16)
        hu[plane] = 900
        column = resample_hu(hu, (1.0, 1.0, 1.0), (3.0, 1.0, 1.0))[:, 0, 0]
        assert column.sum() * 3 == pytest.approx(900, rel=0.01)
    hu = np.zeros((21, 4, 4), np.int16)
    hu[10] = 900
    assert resample_hu(hu, (1.0, 1.0, 1.0), (3.0, 1.0, 1.0), antialias=False).max() == 0


def test_values_stay_in_range_and_constants_constant() -> None:
    hu = np.random.default_rng(1).integers(-1024, 3071, (11, 13, 17)).astype(np.int16)
    for new in [(2.7, 1.3, 3.1), (0.4, 0.6, 0.9)]:
        out = resample_hu(hu, (1.0, 1.0, 1.0), new)
        assert out.min() >= -1024.01
        assert out.max() <= 3071.01
        assert np.allclose(resample_hu(np.full((9, 9, 9), -1000, np.int16), (1.0, 1.0, 1.0), new), -1000, atol=0.01)


def test_the_same_spacing_changes_nothing() -> None:
    hu = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert np.array_equal(resample_hu(hu, (5.0, 0.7, 0.7), (5.0, 0.7, 0.7)), hu)


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0)])
def test_spacing_must_be_positive(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        resample_hu(np.zeros((3, 3, 3), np.int16), (1.0, 1.0, 1.0), bad)


def patient_ramp(grid: Grid) -> npt.NDArray[np.float64]:
    """A ramp over patient coordinates at the voxel centres."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    points = np.stack([z, y, x, np.ones_like(z)], axis=-1) @ grid.affine.T
    return points[..., :3] @ np.array([7.0, 5.0, 3.0])


def volume() -> Volume:
    grid = Grid.axis_aligned((20, 30, 40), (2.5, 0.8, 0.7), (-10.0, -20.0, 30.0))
    return Volume(np.rint(patient_ramp(grid)).astype(np.int16), grid, "1.2", "1.2.3")


@pytest.mark.parametrize("antialias", [True, False])
def test_a_resampled_volume_lies_where_it_says(antialias: bool) -> None:
    out = resample(volume(), (3.0, 1.5, 1.0), antialias=antialias)
    inner = (slice(2, -2),) * 3
    tolerance = 2.0 if antialias else 1.01  # a triangle over whole voxels leans a little
    assert np.abs(out.hu - patient_ramp(out.grid))[inner].max() <= tolerance
    assert out.spacing == (3.0, 1.5, 1.0)
    assert (out.series_instance_uid, out.sources) == ("1.2.3", ())


def test_the_last_voxel_repeats_the_edge() -> None:
    """10 voxels of 1 mm become 4 of 3.2 mm: the last centre lies 0.6 mm beyond the last one of the source."""
    grid = Grid.axis_aligned((10, 3, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    out = resample(Volume(np.full((10, 3, 3), 50, np.int16), grid), (3.2, 1.0, 1.0))
    assert out.hu.shape == (4, 3, 3)
    assert np.all(out.hu == 50)


def test_a_fixed_shape_around_a_centre() -> None:
    old = volume()
    out = resample(old, (2.5, 0.8, 0.7), shape=(9, 9, 9), centre=(10, 15, 20))
    assert np.array_equal(out.hu, old.hu[6:15, 11:20, 16:25])
    assert np.allclose(out.grid.affine @ (4, 4, 4, 1), old.grid.affine @ (10, 15, 20, 1))


def test_a_fixed_shape_beyond_the_volume_is_air() -> None:
    old = volume()
    out = resample(old, (5.0, 1.6, 1.4), shape=(30, 30, 31), antialias=False)
    z, y, x = np.meshgrid(*(np.arange(n) for n in out.grid.shape), indexing="ij")
    at = np.stack([z, y, x, np.ones_like(z)], axis=-1) @ (np.linalg.inv(old.grid.affine) @ out.grid.affine).T
    inside = np.all((at[..., :3] > -0.51) & (at[..., :3] < np.array(old.grid.shape) - 0.49), axis=-1)
    core = np.all((at[..., :3] >= 0) & (at[..., :3] <= np.array(old.grid.shape) - 1), axis=-1)
    assert np.all(out.hu[~inside] == -1024)
    assert np.abs(out.hu - patient_ramp(out.grid))[core].max() <= 1.01


def balls(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """Two touching balls and one at the border, by position in mm."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    out = np.zeros(shape, np.uint8)
    for label, (cz, cy, cx, radius) in {3: (30, 30, 25, 14), 1: (30, 30, 48, 11), 7: (70, 60, 60, 20)}.items():
        out[(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2] = label
    return out


def dice(one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_]) -> float:
    return 2.0 * float((one & two).sum()) / float(one.sum() + two.sum())


def test_labels_go_to_the_fine_grid_smoothly() -> None:
    low_spacing, low = (3.0, 3.0, 3.0), balls((24, 21, 21), (3.0, 3.0, 3.0))
    spacing, shape = (1.0, 0.75, 0.75), (70, 81, 81)
    truth = balls(shape, spacing)
    smooth = to_grid(low, low_spacing, shape, spacing)
    stairs = resample_labels(low, low_spacing, spacing, shape)
    assert set(np.unique(smooth)) == {0, 1, 3, 7}
    for label in (1, 3, 7):
        assert dice(smooth == label, truth == label) > 0.92
        assert dice(smooth == label, truth == label) > dice(stairs == label, truth == label)


def test_labels_are_the_argmax_of_the_interpolated_indicators() -> None:
    """Against the plain way of doing it, on noise (every border there is), across slabs."""
    rng = np.random.default_rng(3)
    low = rng.integers(0, 4, (12, 6, 7)).astype(np.uint8)
    spacing, shape = (1.0, 0.9, 1.1), (50, 20, 22)
    shares = np.stack([_trilinear((low == label).astype(float), (4.0, 3.0, 3.3), shape, spacing) for label in range(4)])
    ordered = np.sort(shares, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    assert np.array_equal(to_grid(low, (4.0, 3.0, 3.3), shape, spacing)[clear], shares.argmax(axis=0)[clear])
    scores = rng.normal(size=(4, 12, 6, 7)).astype(np.float32)
    plain = np.stack([_trilinear(score, (4.0, 3.0, 3.3), shape, spacing) for score in scores])
    ordered = np.sort(plain, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    assert np.array_equal(scores_to_grid(scores, (4.0, 3.0, 3.3), shape, spacing)[clear], plain.argmax(axis=0)[clear])


def _trilinear(
    array: npt.NDArray[np.generic],
    old: tuple[float, ...],
    shape: tuple[int, int, int],
    new: tuple[float, ...],
) -> npt.NDArray[np.generic]:
    from scipy.ndimage import map_coordinates

    at = np.meshgrid(*(np.arange(n) * w / o for n, w, o in zip(shape, new, old, strict=True)), indexing="ij")
    return map_coordinates(array, at, order=1, mode="nearest")


def test_nearest_labels_keep_dtype_and_place() -> None:
    labels = np.arange(5 * 5 * 5, dtype=np.uint16).reshape(5, 5, 5)
    out = resample_labels(labels, (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    assert out.dtype == np.uint16
    assert np.array_equal(out, labels[::2, ::2, ::2])
    assert np.array_equal(resample_labels(out, (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))[::2, ::2, ::2], out)


def test_reading_a_series_needs_no_torch() -> None:
    """The receiver imports these."""
    code = "import sys, ct, ct.resample; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
