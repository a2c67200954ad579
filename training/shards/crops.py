"""A random crop of a shard, and which anatomies it shows whole (paper: incomplete anatomies do not teach)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ct.anatomy import BoolArray, UInt8Array
from ct.volume import Int16Array
from fvlm.config import Triple
from fvlm.preprocess import WHOLE_ENOUGH, Box, centred, padded, union_of
from training.shards.format import Shard
from training.shards.record import AnatomyRecord

Float32Array = npt.NDArray[np.float32]
FLIP_CHANCE = 0.2
"""Of each axis that may be flipped (public code)."""


@dataclass(frozen=True)
class CropSettings:
    """How a crop is cut and shown."""

    shape: Triple
    """Voxels z, y, x."""
    hu_window: tuple[float, float]
    """HU that become 0 and 1; clipped outside. Beyond the shard the image is 0."""
    augment: bool = True
    """A random place and flips; False: around the middle of all anatomies, not flipped."""
    as_reference: bool = False
    """As the public code does: left and right are flipped too, which makes the report's sides wrong; an anatomy counts
    as incomplete where it touches a face of the crop, and as complete where the scan itself cuts it off. Also the
    captions are assembled and called normal as there."""


@dataclass(frozen=True)
class Crop:
    """One crop."""

    image: Float32Array
    """[z, y, x] in 0..1."""
    labels: UInt8Array
    """[z, y, x]."""
    usable: BoolArray
    """[A]: the anatomy is there, whole, and may be read."""


def cut(shard: Shard, settings: CropSettings, generator: np.random.Generator) -> Crop:
    """Cut a crop; the generator's state decides place and flips."""
    z, y, x = shard.image.shape
    whole = Box((0, 0, 0), (z, y, x))
    box = _place(shard, whole, settings, generator)
    inside = box.clip(whole)
    target = inside.slices(box.start)
    axes = _flips(settings, generator)
    image, labels = np.zeros(settings.shape, dtype=np.float32), np.zeros(settings.shape, dtype=np.uint8)
    upright = np.flip(labels, axes)  # views that are filled as the patient lies: a flip costs no copy
    for hu, out in zip(shard.slices("image", inside), np.flip(image, axes)[target], strict=True):
        _window(hu, settings.hu_window, out)
    for part, out in zip(shard.slices("labels", inside), upright[target], strict=True):
        out[:] = part
    usable = _touching_no_face(shard, upright) if settings.as_reference else _whole(shard, upright, box)
    return Crop(image, labels, usable)


def _place(shard: Shard, whole: Box, settings: CropSettings, generator: np.random.Generator) -> Box:
    """Anywhere in the shard, which is padded on both sides where it is smaller than the crop."""
    if not settings.augment:
        return centred(union_of(list(_boxes(shard).values()) or [whole]), settings.shape)
    room = padded(whole, settings.shape)
    spans = zip(room.start, room.stop, settings.shape, strict=True)
    z, y, x = (int(generator.integers(low, high - size + 1)) for low, high, size in spans)
    d, h, w = settings.shape
    return Box((z, y, x), (z + d, y + h, x + w))


def _window(hu: Int16Array, window: tuple[float, float], out: Float32Array) -> None:
    """HU [y, x] as 0..1 into `out`; a slice at a time stays in the processor's cache."""
    low, high = window
    np.clip(hu, max(int(np.floor(low)), -32768), min(int(np.ceil(high)), 32767), out=hu)
    np.subtract(hu, np.float32(low), out=out)
    np.multiply(out, np.float32(1.0 / (high - low)), out=out)
    if not (low.is_integer() and high.is_integer()):
        np.clip(out, 0.0, 1.0, out=out)


def _flips(settings: CropSettings, generator: np.random.Generator) -> tuple[int, ...]:
    if not settings.augment:
        return ()
    axes = (0, 1, 2) if settings.as_reference else (0, 1)
    return tuple(axis for axis in axes if generator.random() < FLIP_CHANCE)


def _boxes(shard: Shard) -> dict[int, Box]:
    """The box of each anatomy that is there, by label."""
    return {
        label: Box(anatomy.start, anatomy.stop)
        for label, anatomy in enumerate(shard.record.anatomies, start=1)
        if anatomy.start is not None and anatomy.stop is not None
    }


def _touching_no_face(shard: Shard, labels: UInt8Array) -> BoolArray:
    """The public rule: no voxel on any of the six faces of the crop, and at least one voxel."""
    count = len(shard.record.anatomies) + 1
    there = np.bincount(labels.ravel(), minlength=count)[1:count] > 0
    faces = np.concatenate([labels.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
    usable: BoolArray = there & (np.bincount(faces, minlength=count)[1:count] == 0)
    return usable


def _whole(shard: Shard, labels: UInt8Array, box: Box) -> BoolArray:
    """What may be read, is not cut by a face of the crop, and lies in it (but for strays of the mask).

    Touching a face is no harm where the anatomy ends there.
    """
    boxes, cut_by_crop = _boxes(shard), None
    usable = np.zeros(len(shard.record.anatomies), dtype=np.bool_)
    for label, anatomy in enumerate(shard.record.anatomies, start=1):
        if not anatomy.usable:
            continue
        inside = boxes[label].clip(box)
        if inside == boxes[label]:
            usable[label - 1] = True
        elif 0 not in inside.shape:
            if cut_by_crop is None:
                cut_by_crop = _cut(shard, labels, box)
            usable[label - 1] = label not in cut_by_crop and _enough(anatomy, label, labels[inside.slices(box.start)])
    return usable


def _enough(anatomy: AnatomyRecord, label: int, labels: UInt8Array) -> bool:
    return bool(np.count_nonzero(labels == label) >= WHOLE_ENOUGH * anatomy.voxels)


def _cut(shard: Shard, labels: UInt8Array, box: Box) -> set[int]:
    """Labels that go on beyond a face of the crop."""
    found: set[int] = set()
    z, y, x = shard.labels.shape
    inside = box.clip(Box((0, 0, 0), (z, y, x)))
    for axis in range(3):
        for last, beyond in ((inside.start[axis], inside.start[axis] - 1), (inside.stop[axis] - 1, inside.stop[axis])):
            if not 0 <= beyond < shard.labels.shape[axis]:
                continue
            source, own = list(inside.slices((0, 0, 0))), list(inside.slices(box.start))
            source[axis], own[axis] = (
                slice(beyond, beyond + 1),
                slice(last - box.start[axis], last - box.start[axis] + 1),
            )
            plane = labels[tuple(own)]
            found |= set(np.unique(plane[plane == shard.labels[tuple(source)]]).tolist())
    return found - {0}
