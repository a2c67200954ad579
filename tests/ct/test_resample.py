"""Resampling: no shift, no skipped structure, exact ramps, labels there and back."""

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from ct.resample import resample_hu, resample_labels, resampled_shape

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


def test_the_last_voxel_repeats_the_edge() -> None:
    """10 voxels of 1 mm become 4 of 3.2 mm: the last centre lies 0.6 mm beyond the last one of the source."""
    out = resample_hu(np.full((10, 3, 3), 50, np.int16), (1.0, 1.0, 1.0), (3.2, 1.0, 1.0))
    assert out.shape == (4, 3, 3)
    assert np.all(out == 50)


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
