"""Geometry of the model's windows, followed with shapes that have no symmetry to hide behind."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from config import Reason
from ct.anatomy import AnatomyMap
from ct.resample import resample_hu as centre_aligned
from ct.volume import Volume
from fvlm.config import ModelConfig, PreprocessConfig, ReleaseConfig
from fvlm.preprocess import Box, grid_size, prepare, resample_hu, resample_labels

Scan = Callable[..., tuple[Volume, AnatomyMap]]
LUNG = (slice(4, 12), slice(10, 34), slice(8, 20))
HEART = (slice(6, 10), slice(40, 52), slice(30, 54))


def release(settings: PreprocessConfig, anatomies: tuple[str, ...] = ("lung", "heart")) -> ReleaseConfig:
    model = ModelConfig(anatomies=anatomies, image_shape=(16, 32, 32), patch=(4, 8, 8))
    return ReleaseConfig(name="t", version="1", model=model, preprocess=settings)


def centroid(mask: torch.Tensor) -> list[float]:
    return [float(axis.double().mean()) for axis in torch.nonzero(mask, as_tuple=True)]


@pytest.mark.parametrize("windows", ["organ", "whole"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (2.0, 0.8, 1.3)])
def test_every_organ_lands_where_it_belongs(
    scan: Scan, windows: str, antialias: bool, spacing: tuple[float, float, float]
) -> None:
    """Image and labels agree, and the millimetres between the organs and their extents survive."""
    volume, anatomy_map = scan({"lung": LUNG, "heart": HEART}, spacing=spacing)
    settings = PreprocessConfig(
        spacing=(1.5, 0.7, 0.9),
        window=(64, 96, 128) if windows == "whole" else (16, 32, 32),
        windows=windows,
        antialias=antialias,
        hu_window=(-1000, 40),
    )
    prepared = prepare(volume, anatomy_map, release(settings))
    assert not prepared.lost
    names = ["lung", "heart"]
    assert [w.anatomies for w in prepared.windows] == (
        [("lung", "heart")] if windows == "whole" else [("lung",), ("heart",)]
    )
    for window in prepared.windows:
        image, labels = prepared.tensors(window)
        assert (image.dtype, labels.dtype) == (torch.float32, torch.uint8)
        assert tuple(image.shape[2:]) == tuple(labels.shape[1:]) == window.box.shape
        assert 0.0 <= image.min() <= image.max() <= 1.0
        for name in window.anatomies:
            mask = labels[0] == names.index(name) + 1
            box = {"lung": LUNG, "heart": HEART}[name]
            for axis, at in enumerate(centroid(mask)):
                new, old = settings.spacing[axis], spacing[axis]
                expected_mm = (box[axis].start + box[axis].stop) / 2 * old
                assert (at + 0.5 + window.box.start[axis]) * new == pytest.approx(expected_mm, abs=new / 2 + 1e-6)
            assert float(mask.sum()) * np.prod(settings.spacing) == pytest.approx(
                np.prod([b.stop - b.start for b in box]) * np.prod(spacing), rel=0.15
            )
            assert image[0, 0][mask].mean() > 0.9
        if windows == "whole":
            assert centroid(image[0, 0] > 0.5) == pytest.approx(centroid(labels[0] > 0), abs=0.6)
        else:
            assert not labels[labels != names.index(window.anatomies[0]) + 1].any()


def test_resampling_is_trilinear_at_voxel_centres() -> None:
    """A ramp stays the same ramp in millimetres; two peers: `F.interpolate` with and without anti-aliasing."""
    z, y, x = np.meshgrid(np.arange(20) * 3.0, np.arange(30) * 0.8, np.arange(40) * 0.9, indexing="ij")
    hu = np.round(2 * z + 5 * y - 7 * x).astype(np.int16)
    settings = PreprocessConfig(spacing=(2.0, 1.5, 0.6), hu_window=(-1000, 1000))
    region = Box((3, 2, 5), (20, 14, 50))
    got = resample_hu(hu, (3.0, 0.8, 0.9), settings, region) * 2000 - 1000
    mm = [
        (torch.arange(a, b) + 0.5) * new - 0.5 * old
        for a, b, new, old in zip(region.start, region.stop, settings.spacing, (3.0, 0.8, 0.9), strict=True)
    ]
    expected = 2 * mm[0][:, None, None] + 5 * mm[1][:, None] - 7 * mm[2]
    torch.testing.assert_close(got, expected, atol=0.6, rtol=0)

    noise = np.random.default_rng(0).integers(-900, 900, (8, 30, 42)).astype(np.int16)
    image = torch.from_numpy(noise.astype(np.float32))
    plain = PreprocessConfig(spacing=(1.0, 1.0, 1.0), hu_window=(-1000, 1000))
    got = resample_hu(noise, (0.5, 2 / 3, 1.5), plain, Box((0, 0, 0), (4, 20, 63))) * 2000 - 1000
    torch.testing.assert_close(
        got, F.interpolate(image[None, None], size=(4, 20, 63), mode="trilinear")[0, 0], atol=0.05, rtol=0
    )
    smooth = plain.model_copy(update={"antialias": True})
    got = resample_hu(noise, (1.0, 1 / 3, 0.5), smooth, Box((0, 0, 0), (8, 10, 21))) * 2000 - 1000
    peer = F.interpolate(image[None], size=(10, 21), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(got, peer, atol=0.05, rtol=0)


@pytest.mark.parametrize("antialias", [False, True])
def test_a_scan_of_one_slice_still_resamples(antialias: bool) -> None:
    hu = np.full((1, 4, 4), 100, dtype=np.int16)
    assert grid_size(1, 1.0, 3.0) == 1
    got = resample_hu(
        hu, (1.0, 1.0, 1.0), PreprocessConfig(spacing=(4, 1, 1), antialias=antialias), Box((0, 0, 0), (1, 4, 4))
    )
    torch.testing.assert_close(got, torch.full((1, 4, 4), 1250 / 1500))
    assert resample_labels(np.ones((1, 4, 4), np.uint8), (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)).shape == (1, 4, 4)


def test_hu_window_and_padding_value(scan: Scan) -> None:
    volume, anatomy_map = scan({"lung": LUNG, "heart": HEART})
    settings = PreprocessConfig(spacing=volume.spacing, window=(48, 96, 96), windows="whole")
    prepared = prepare(volume, anatomy_map, release(settings))
    image, labels = prepared.tensors(prepared.windows[0])
    assert image[labels[:, None] > 0].unique().tolist() == pytest.approx([(40 + 1150) / 1500])
    assert image[0, 0, 0, 0, 0] == 0.0
    assert int((image > 0).sum()) == volume.hu.size


def test_organ_window_follows_the_reference(scan: Scan) -> None:
    """Centred on the organ, no smaller than the roi, shifted into the cropped scan, end-padded to patches."""
    lung = (slice(20, 30), slice(30, 100), slice(10, 30))
    heart = (slice(22, 26), slice(110, 120), slice(90, 100))
    volume, anatomy_map = scan({"lung": lung, "heart": heart}, shape=(60, 160, 160))
    settings = PreprocessConfig(spacing=volume.spacing, window=(8, 48, 32), margin=(5, 20, 20))
    prepared = prepare(volume, anatomy_map, release(settings))
    # crop: [20-5, 30+4) is 19 long; [30-20, 120+19); [0, 100+19)
    boxes = {w.anatomies[0]: w.box for w in prepared.windows}
    # z: 10 of 19, around 25; y: 70 around 65, then padded to 72; x: 32 around 20
    assert boxes["lung"] == Box((20, 30, 4), (32, 102, 36))
    # x: 32 around 95 would be [79, 111), inside [0, 119)
    assert boxes["heart"] == Box((20, 91, 79), (28, 139, 111))
    image, _ = prepared.tensors(prepared.windows[0])  # padding is blank even where the scan goes on
    assert bool((image[0, 0, :10, :70] > 0).all())
    assert not image[0, 0, 10:].any()
    assert not image[0, 0, :, 70:].any()
    image, labels = prepared.tensors(prepared.windows[1])
    assert labels.unique().tolist() == [0, 2]
    assert int((labels == 2).sum()) == 4 * 10 * 10
    assert bool((image[0, 0, :, 48:] == 0).all())


def test_organs_whose_windows_coincide_share_one(scan: Scan) -> None:
    """Lung and aorta are centred at the same place, the heart is not: two windows, each with its own labels only."""
    boxes = {
        "lung": (slice(4, 12), slice(10, 34), slice(8, 20)),
        "heart": (slice(14, 18), slice(40, 52), slice(30, 54)),
        "aorta": (slice(7, 9), slice(20, 24), slice(12, 16)),
    }
    volume, anatomy_map = scan(boxes)
    settings = PreprocessConfig(spacing=volume.spacing, window=(8, 24, 16))
    names = ("lung", "heart", "aorta")
    prepared = prepare(volume, anatomy_map, release(settings, names))
    assert [w.anatomies for w in prepared.windows] == [("lung", "aorta"), ("heart",)]
    assert [prepared.tensors(w)[1].unique().tolist() for w in prepared.windows] == [[0, 1, 3], [0, 2]]
    for name in names:
        alone = prepare(volume, anatomy_map, release(settings, names), [name])
        shared = next(w for w in prepared.windows if name in w.anatomies)
        assert alone.windows[0].box == shared.box
        assert torch.equal(alone.tensors(alone.windows[0])[0], prepared.tensors(shared)[0])


def test_organ_window_is_shifted_down_and_small_scans_are_padded_on_both_sides(scan: Scan) -> None:
    volume, anatomy_map = scan({"lung": (slice(8, 10), slice(2, 6), slice(50, 62))}, shape=(11, 40, 64))
    settings = PreprocessConfig(spacing=volume.spacing, window=(16, 24, 32))
    prepared = prepare(volume, anatomy_map, release(settings, ("lung",)))
    # z: 11 padded to 16, 2 below and 3 above; y: around 4 would be [-8, 16), shifted up; x: [40, 72) shifted down
    assert prepared.windows[0].box == Box((-2, 0, 32), (14, 24, 64))
    image, labels = prepared.tensors(prepared.windows[0])
    seen = torch.nonzero(image[0, 0].sum((1, 2)) > 0)[:, 0]
    assert (int(seen.min()), int(seen.max())) == (2, 12)
    assert torch.nonzero(labels[0]).min(0).values.tolist() == [10, 2, 18]


def test_margin_blanks_what_lies_beyond(scan: Scan) -> None:
    volume, anatomy_map = scan({"heart": (slice(10, 14), slice(30, 40), slice(20, 30))})
    settings = PreprocessConfig(spacing=volume.spacing, window=(16, 32, 32), margin=(2, 3, 4))
    prepared = prepare(volume, anatomy_map, release(settings, ("heart",)))
    image, _ = prepared.tensors(prepared.windows[0])
    seen = torch.nonzero(image[0, 0] > 0)
    start = torch.tensor(prepared.windows[0].box.start)
    assert (seen.min(0).values + start).tolist() == [10 - 2, 30 - 3, 20 - 4]
    assert (seen.max(0).values + start + 1).tolist() == [14 + 1, 40 + 2, 30 + 3]


def test_whole_window_drops_what_it_cuts(scan: Scan) -> None:
    boxes = {"lung": (slice(2, 22), slice(2, 62), slice(2, 20)), "heart": (slice(8, 16), slice(28, 36), slice(30, 34))}
    volume, anatomy_map = scan(boxes)
    settings = PreprocessConfig(spacing=volume.spacing, window=(24, 32, 64), windows="whole")
    prepared = prepare(volume, anatomy_map, release(settings))
    assert prepared.lost == {"lung": Reason.ANATOMY_CUT_OFF}
    assert prepared.windows[0].anatomies == ("heart",)
    assert prepared.tensors(prepared.windows[0])[1].unique().tolist() == [0, 2]


def test_labels_are_matched_by_name(scan: Scan) -> None:
    volume, anatomy_map = scan({"spleen": (slice(0, 4),) * 3, "heart": HEART, "lung": LUNG})
    settings = PreprocessConfig(spacing=volume.spacing, window=(24, 64, 64), windows="whole")
    prepared = prepare(volume, anatomy_map, release(settings, ("lung", "aorta", "heart")))
    labels = prepared.tensors(prepared.windows[0])[1]
    assert [int((labels == k).sum()) for k in (1, 2, 3)] == [8 * 24 * 12, 0, 4 * 12 * 24]
    assert prepared.lost == {"aorta": Reason.ANATOMY_TOO_SMALL}


@pytest.mark.parametrize("windows", ["organ", "whole"])
def test_nothing_to_see(scan: Scan, windows: str) -> None:
    volume, anatomy_map = scan({"lung": (slice(0, 0),) * 3, "heart": (slice(0, 0),) * 3})
    prepared = prepare(volume, anatomy_map, release(PreprocessConfig(window=(16, 32, 32), windows=windows)))
    assert prepared.windows == ()
    assert set(prepared.lost) == {"lung", "heart"}


def test_flipped_and_read_only_arrays(scan: Scan) -> None:
    volume, anatomy_map = scan({"lung": LUNG, "heart": HEART})
    settings = release(PreprocessConfig(spacing=(3.0, 2.0, 2.0), window=(16, 32, 32), windows="whole"))
    plain = prepare(volume, anatomy_map, settings)
    flipped = np.ascontiguousarray(volume.hu[::-1, :, ::-1])
    flipped.setflags(write=False)
    labels = np.ascontiguousarray(anatomy_map.labels[::-1, :, ::-1])
    labels.setflags(write=False)
    views = prepare(
        Volume(flipped[::-1, :, ::-1], volume.grid),
        AnatomyMap(labels[::-1, :, ::-1], volume.grid, anatomy_map.names, anatomy_map.algorithm),
        settings,
    )
    for a, b in zip(plain.tensors(plain.windows[0]), views.tensors(views.windows[0]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("change", ["shape", "spacing", "origin", "direction"])
def test_another_grid_is_refused(scan: Scan, change: str) -> None:
    volume, same = scan({"lung": LUNG, "heart": HEART})
    settings = release(PreprocessConfig(window=(16, 32, 32)))
    affine = same.grid.affine.copy()
    if change == "shape":
        _, other = scan({"lung": LUNG, "heart": HEART}, shape=(24, 64, 60))
    elif change == "spacing":
        affine[:3, 2] *= 1.01
    elif change == "origin":
        affine[1, 3] += 0.5
    else:
        affine[:3, 1] *= -1
    if change != "shape":
        other = replace(same, grid=replace(same.grid, affine=affine))
    with pytest.raises(ValueError, match="another grid"):
        prepare(volume, other, settings)
    rounded = replace(same, grid=replace(same.grid, affine=same.grid.affine + 1e-5))
    assert prepare(volume, rounded, settings).windows == prepare(volume, same, settings).windows


def test_the_grids_of_model_and_segmenters_are_half_the_difference_of_spacings_apart() -> None:
    ramp = np.broadcast_to(100 * np.arange(12, dtype=np.int16)[:, None, None], (12, 2, 2))  # HU at 100 a mm
    settings = PreprocessConfig(spacing=(3.0, 1.0, 1.0), hu_window=(0, 1100), antialias=False)
    at_edge = resample_hu(ramp, (1.0, 1.0, 1.0), settings, Box((0, 0, 0), (4, 2, 2)))[:, 0, 0] * 1100
    at_centre = centre_aligned(ramp, (1.0, 1.0, 1.0), (3.0, 1.0, 1.0), antialias=False)[:, 0, 0]
    assert at_centre[:3].tolist() == pytest.approx([0, 300, 600])
    assert at_edge[:3].tolist() == pytest.approx([100, 400, 700])
