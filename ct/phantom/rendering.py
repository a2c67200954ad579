"""A patient on a voxel grid: Hounsfield units and labels, at any resolution."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from config.vocabulary import load_vocabulary
from ct.phantom import organs as organ_layout
from ct.phantom import scenery as scenery_layout
from ct.phantom.canvas import Canvas, Waves
from ct.phantom.lesions import lesion_shape, paint_lesions
from ct.phantom.organs import Organs
from ct.phantom.painting import paint_organs
from ct.phantom.patient import Lesion, PhantomPatient, dice
from ct.phantom.scenery import Scenery
from ct.phantom.tissues import Tissues, tissues

Int16Array = npt.NDArray[np.int16]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]
Size = tuple[int, int, int]

ANATOMIES = load_vocabulary().preset("phantom").anatomies
LABELS = {name: index + 1 for index, name in enumerate(ANATOMIES)}

_SLAB_VOXELS = 1_000_000
"""Voxels painted at a time: what fits into the processor's cache."""


@dataclass(frozen=True)
class Rendered:
    """A patient on a grid; axes [z, y, x] grow to Superior, Posterior, Left."""

    hu: Int16Array
    labels: UInt8Array
    """1..15 in the order of the vocabulary's preset `phantom`, 0 elsewhere."""
    spacing: Spacing
    """mm along z, y, x."""
    origin_mm: tuple[float, float, float]
    """Patient position (z, y, x) of voxel [0, 0, 0], mm (LPS)."""


@dataclass(frozen=True)
class Scene:
    """All shapes of one patient."""

    organs: Organs
    scenery: Scenery
    tissue: Tissues
    waves: Waves
    texture: Waves


@lru_cache(maxsize=8)
def scene_of(patient: PhantomPatient) -> Scene:
    """Lay out a patient (cached for the last few)."""
    organs = organ_layout.build(patient.seed, patient.body, patient.diseases)
    tissue = tissues(patient.seed, patient.body, patient.diseases)
    return Scene(
        organs,
        scenery_layout.build(patient, tissue),
        tissue,
        Waves(dice(patient.seed, "waves"), (38.0, 110.0)),
        Waves(dice(patient.seed, "texture"), (14.0, 60.0), terms=8),
    )


def grid_origin(spacing: Spacing, shape: Size) -> tuple[float, float, float]:
    """Position (z, y, x) of voxel [0, 0, 0] of a grid centred on the patient's origin, mm."""
    z, y, x = (-0.5 * (n - 1) * step for n, step in zip(shape, spacing, strict=True))
    return z, y, x


def render(
    patient: PhantomPatient,
    spacing: Spacing = (5.0, 0.78, 0.78),
    shape: Size = (124, 512, 512),
    noise: bool = True,
) -> Rendered:
    """Draw a patient on a grid centred on the patient.

    Parameters
    ----------
    patient
        Whom to draw.
    spacing
        mm along z, y, x.
    shape
        Voxels along z, y, x.
    noise
        False leaves out the noise of the scanner (the texture of the tissue stays).

    Returns
    -------
    Rendered
        `hu` int16 and `labels` uint8, both [z, y, x].
    """
    origin = grid_origin(spacing, shape)
    hu = np.empty(shape, dtype=np.int16)
    labels = np.empty(shape, dtype=np.uint8)
    grain = Grain(patient, spacing, shape) if noise else None
    for start, canvas in _slabs(patient, spacing, shape):
        stop = start + canvas.shape[0]
        paint(canvas, patient)
        if grain is not None:
            grain.add(canvas.hu, start)
        np.rint(canvas.hu, out=canvas.hu)
        np.clip(canvas.hu, -1024, 3071, out=canvas.hu)
        hu[start:stop] = canvas.hu
        labels[start:stop] = canvas.labels
    return Rendered(hu, labels, spacing, origin)


def lesion_mask(
    patient: PhantomPatient,
    lesion: Lesion,
    spacing: Spacing = (5.0, 0.78, 0.78),
    shape: Size = (124, 512, 512),
) -> BoolArray:
    """Where a focal lesion lies.

    Returns
    -------
    bool [z, y, x], on the grid that `render` uses for the same spacing and shape.

    Raises
    ------
    ValueError
        The lesion is not focal (it has no balls): its mask is that of its anatomy.
    """
    if not lesion.balls:
        raise ValueError(f"{lesion.key} is not focal: use the labels of {lesion.anatomy}")
    form = lesion_shape(patient, lesion)
    label = LABELS[lesion.anatomy]
    mask = np.zeros(shape, dtype=np.bool_)
    for start, canvas in _slabs(patient, spacing, shape):
        patch = canvas.patch(form)
        if patch is None:
            continue
        paint(canvas, patient)
        part = mask[start : start + canvas.shape[0]]
        part[patch.box] = (patch.field < 0) & (canvas.labels[patch.box] == label)
    return mask


def _slabs(patient: PhantomPatient, spacing: Spacing, shape: Size) -> Iterator[tuple[int, Canvas]]:
    """Empty canvases that tile the grid along z."""
    thickness = max(4, _SLAB_VOXELS // (shape[1] * shape[2]))
    z, y, x = grid_origin(spacing, shape)
    for start in range(0, shape[0], thickness):
        slab = (min(thickness, shape[0] - start), shape[1], shape[2])
        yield start, canvas_at(patient, (z + start * spacing[0], y, x), spacing, slab)


def canvas_at(patient: PhantomPatient, origin: tuple[float, float, float], spacing: Spacing, shape: Size) -> Canvas:
    """An empty canvas, whose axes are in body coordinates; `origin` is its first voxel (z, y, x) in patient mm."""
    body = patient.body
    scales = (body.stature, body.frame, body.frame)
    offsets = body.offset_mm[::-1]
    z, y, x = (
        ((first + step * np.arange(n) - offset) / scale).astype(np.float32)
        for first, step, n, offset, scale in zip(origin, spacing, shape, offsets, scales, strict=True)
    )
    edge = max(1.1, 0.5 * (spacing[1] + spacing[2]), 0.6 * float(np.cbrt(np.prod(spacing))))
    return Canvas(z, y, x, edge, scene_of(patient).waves)


def paint(canvas: Canvas, patient: PhantomPatient) -> None:
    """Draw the whole patient, without noise."""
    scene = scene_of(patient)
    scenery_layout.paint_frame(canvas, scene.scenery, scene.organs, scene.tissue)
    paint_organs(canvas, patient, scene.organs, scene.scenery, scene.tissue, LABELS)
    paint_lesions(canvas, patient, scene.organs, LABELS)
    texture = scene.texture.on(canvas.z, canvas.y, canvas.x)
    texture *= np.float32(patient.body.texture_hu)
    canvas.hu += texture


class Grain:
    """Scanner noise: a small tile of correlated noise, shifted at random for every slice."""

    def __init__(self, patient: PhantomPatient, spacing: Spacing, shape: Size) -> None:
        self._rng = dice(patient.seed, "noise")
        cell = float(np.prod(spacing))
        self._sigma = patient.body.noise_hu * min(1.3, (3.0 / cell) ** (1 / 6))
        side = 64 if max(shape[1:]) <= 128 else 192
        tile = self._rng.standard_normal((8, side, side), dtype=np.float32)
        if spacing[1] < 2:
            for axis in (1, 2):
                tile = tile + np.float32(0.7) * (np.roll(tile, 1, axis) + np.roll(tile, -1, axis))
        self._tile = tile / tile.std()
        self._shifts = self._rng.integers(0, side, size=(shape[0], 2))
        self._picks = self._rng.integers(0, 8, size=shape[0])
        self._gains = (self._sigma * self._rng.normal(1, 0.06, size=shape[0])).astype(np.float32)

    def add(self, hu: npt.NDArray[np.float32], start: int) -> None:
        """Add the noise of the slices from `start` on to HU float32 [z, y, x]."""
        side = self._tile.shape[1]
        _, rows, columns = hu.shape
        for i in range(hu.shape[0]):
            k = start + i
            dy, dx = self._shifts[k]
            tile = np.roll(self._tile[self._picks[k]], (int(dy), int(dx)), (0, 1)) * self._gains[k]
            for y in range(0, rows, side):
                for x in range(0, columns, side):
                    part = hu[i, y : y + side, x : x + side]
                    part += tile[: part.shape[0], : part.shape[1]]
