"""Crops and batches: drawn the same each time, never mirrored by default, and only whole anatomies teach."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shard_data import PLAN, hand_made, study
from torch.utils.data import DataLoader

from config import Reason
from fvlm.preprocess import WHOLE_ENOUGH
from training.shards.build import build
from training.shards.crops import CropSettings, cut
from training.shards.dataset import Batch, ShardDataset, collate
from training.shards.folder import ShardFolder

WINDOW = (-1150.0, 350.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    path = tmp_path_factory.mktemp("shards")
    studies = [study(f"s{n}", scan_of=f"s{n // 2}" if n < 4 else "", seed=n) for n in range(6)]
    build([*studies, study("v", "valid")], (), PLAN, path, 1, lambda *_: None)
    return ShardFolder.open(path)


def batches(data: ShardDataset, epochs: int, **loader: object) -> list[Batch]:
    found = []
    ready = DataLoader(data, batch_size=2, collate_fn=collate, **loader)
    for epoch in range(epochs):
        data.set_epoch(epoch)
        found += list(ready)
    return found


def test_a_sample_follows_from_seed_epoch_and_index(folder: ShardFolder) -> None:
    plain = batches(ShardDataset(folder, seed=3), 2)
    in_workers = batches(ShardDataset(folder, seed=3), 2, num_workers=2, persistent_workers=True)
    for one, other in zip(plain, in_workers, strict=True):
        assert one.keys == other.keys
        assert all(torch.equal(getattr(one, name), getattr(other, name))
                   for name in ("image", "labels", "usable", "normal", "findings"))  # fmt: skip
    data = ShardDataset(folder, seed=3)
    data.set_epoch(1)
    assert torch.equal(data[2].image, plain[3].image[0])  # nothing was read before it
    first, second = plain[:2], plain[2:]
    assert not all(torch.equal(a.image, b.image) for a, b in zip(first, second, strict=True))
    assert not torch.equal(ShardDataset(folder, seed=4)[0].image, ShardDataset(folder, seed=3)[0].image)


def test_a_pass_broken_off_leaves_nothing_of_its_epoch(folder: ShardFolder) -> None:
    """What persistent workers have read ahead of the old epoch is not given out in the new one."""
    data = ShardDataset(folder, seed=3)
    ready = DataLoader(
        data, batch_size=1, collate_fn=collate, num_workers=1, persistent_workers=True, prefetch_factor=4
    )
    plain = batches(ShardDataset(folder, seed=3), 3)
    for epoch in range(3):
        data.set_epoch(epoch)
        for number, one in enumerate(ready):
            assert torch.equal(one.image[0], plain[2 * epoch + number // 2].image[number % 2])
            if epoch < 2:
                break


def test_a_batch(folder: ShardFolder) -> None:
    data = ShardDataset(folder)
    assert len(data) == 4  # two scans have two reconstructions
    batch = collate([data[0], data[3]])
    assert (batch.image.shape, batch.image.dtype) == ((2, 1, 8, 16, 16), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((2, 8, 16, 16), torch.uint8)
    assert (batch.image.min(), batch.image.max()) == (0.0, 1.0)
    assert batch.captions[0][:2] == (
        "Lung nodule. A nodule in the right upper lobe.",
        "The heart is normal.",
    )
    assert batch.captions[0][2] == "liver shows no significant abnormalities."
    assert batch.normal.tolist() == [[False, True, True]] * 2
    assert batch.findings.tolist() == [[1, -2, -2]] * 2
    assert batch.usable.tolist() == [[False] * 3] * 2  # the blocks are too small for organs
    assert batch.keys[1] == "hand/s5"
    assert batch.to("cpu").image.equal(batch.image)
    reference = ShardDataset(folder, crop=CropSettings(PLAN.shape, WINDOW, as_reference=True))
    assert reference[0].captions[0] == "Lung nodule.A nodule in the right upper lobe."
    for wrong, told in (({"split": "test"}, "no shard of split test"), ({"findings": ["liver.x"]}, r"liver\.x")):
        with pytest.raises(ValueError, match=told):
            ShardDataset(folder, **wrong)


def test_one_of_several_reconstructions_is_drawn(folder: ShardFolder) -> None:
    data, drawn = ShardDataset(folder), set()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for epoch in range(12):
        data.set_epoch(epoch)
        drawn.add(data[0].key)
    assert drawn == {"hand/s0", "hand/s1"}
    assert len(list(Path("/proc/self/fd").iterdir())) == before  # every file that was opened is closed
    still = ShardDataset(folder, crop=CropSettings(PLAN.shape, WINDOW, augment=False))
    still.set_epoch(7)
    assert still[0].key == "hand/s0"


def where_it_was(shard, crop, shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and flipped axes of a crop without padding, found by comparing."""
    low, high = WINDOW
    whole = np.clip((shard.image.astype(np.float32) - low) / (high - low), 0, 1)
    room = [range(n - c + 1) for n, c in zip(whole.shape, shape, strict=True)]
    for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        back, labels = np.flip(crop.image, axes), np.flip(crop.labels, axes)
        for start in np.ndindex(*map(len, room)):
            box = tuple(slice(s, s + c) for s, c in zip(start, shape, strict=True))
            if np.allclose(whole[box], back, atol=1e-6):
                assert np.array_equal(shard.labels[box], labels)
                return start, axes
    raise AssertionError("it is no part of the shard")


def test_left_stays_left_but_for_the_reference(tmp_path: Path) -> None:
    labels = np.zeros((7, 11, 13), np.uint8)
    labels[2:5, 3:8, 1:5] = 3
    shard, shape = hand_made(tmp_path / "a.safetensors", labels), (6, 9, 10)
    for as_reference in (False, True):
        settings = CropSettings(shape, WINDOW, as_reference=as_reference)
        found = [where_it_was(shard, cut(shard, settings, np.random.default_rng(seed)), shape) for seed in range(40)]
        assert len({start for start, _ in found}) > 10
        flipped = {axis for _, axes in found for axis in axes}
        assert flipped == ({0, 1, 2} if as_reference else {0, 1})


def test_beyond_the_shard_there_is_air(tmp_path: Path) -> None:
    shard = hand_made(tmp_path / "a.safetensors", np.ones((3, 5, 20), np.uint8))
    crop = cut(shard, CropSettings((6, 8, 9), WINDOW, augment=True), np.random.default_rng(1))
    assert (crop.labels == 1).sum() == 3 * 5 * 9
    assert crop.image[crop.labels == 0].max() == 0.0
    slices = crop.labels.any((1, 2)).tolist()
    assert slices in ([False, True, True, True, False, False], [False, False, True, True, True, False])


@pytest.mark.parametrize("seed", range(6))
def test_only_whole_anatomies_are_usable(tmp_path: Path, seed: int) -> None:
    """Against the rules spelled out voxel by voxel."""
    random = np.random.default_rng(seed)
    labels = np.zeros((9, 13, 13), np.uint8)
    for label in (1, 2, 3):
        start = random.integers(0, (6, 9, 9))
        labels[tuple(slice(s, s + n) for s, n in zip(start, random.integers(1, 6, 3), strict=True))] = label
    labels[tuple(random.integers(0, labels.shape))] = 2  # a stray voxel of the mask
    shard, shape = hand_made(tmp_path / "a.safetensors", labels), (7, 9, 10)
    seen = set()
    for draw in range(30):
        mended, reference = CropSettings(shape, WINDOW), CropSettings(shape, WINDOW, as_reference=True)
        crop = cut(shard, mended, np.random.default_rng(draw))
        start, _ = where_it_was(shard, crop, shape)
        box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        inside = np.zeros(labels.shape, bool)
        inside[box] = True
        for label in (1, 2, 3):
            mask, part = labels == label, labels[box] == label
            beyond = any(
                (mask & inside & np.roll(mask & ~inside, step, axis) & step_is_inside(labels.shape, axis, step)).any()
                for axis in range(3) for step in (1, -1)
            )  # fmt: skip
            whole = part.any() and not beyond and part.sum() >= WHOLE_ENOUGH * mask.sum()
            assert crop.usable[label - 1] == whole
            seen.add(whole)
        crop = cut(shard, reference, np.random.default_rng(draw))
        for label in (1, 2, 3):
            part = crop.labels == label
            face = any(part.take(end, axis).any() for axis in range(3) for end in (0, -1))
            assert crop.usable[label - 1] == (part.any() and not face)
    assert True in seen


def step_is_inside(shape: tuple[int, ...], axis: int, step: int) -> np.ndarray:
    """False where a roll by `step` brought the other end in."""
    mask = np.ones(shape, bool)
    index: list[slice | int] = [slice(None)] * 3
    index[axis] = 0 if step == 1 else -1
    mask[tuple(index)] = False
    return mask


def test_touching_a_face_is_no_harm_and_a_doubt_is(tmp_path: Path) -> None:
    labels = np.zeros((6, 8, 8), np.uint8)
    labels[:, :4], labels[2, 5, 5] = 1, 2
    doubt = {"heart": Reason.ANATOMY_CUT_OFF.value}
    shard = hand_made(tmp_path / "a.safetensors", labels, doubt)
    mended, reference = (CropSettings(labels.shape, WINDOW, as_reference=switch) for switch in (False, True))
    assert cut(shard, mended, np.random.default_rng(0)).usable.tolist() == [True, False, False]
    assert cut(shard, reference, np.random.default_rng(0)).usable.tolist() == [False, True, False]
