"""Orthogonal slices of a CT with anatomy contours and heat, in radiological convention."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ct.anatomy import AnatomyMap
from ct.volume import FloatArray, Grid, Volume
from fvlm.heat import Heat

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Color = tuple[int, int, int]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Window:
    """A CT display window, HU."""

    name: str
    center: float
    width: float


SOFT_TISSUE = Window("soft tissue", 40, 400)
LUNG = Window("lung", -600, 1500)
BONE = Window("bone", 400, 1800)


_ENDS = (("R", "L"), ("A", "P"), ("F", "H"))
"""Letters at the two ends of the patient's x, y and z axis (PS3.3 C.7.6.1.1.1)."""
_LEANS = 0.2
"""A direction is named by a further letter if it leans that way by this much (12 degrees)."""


class Plane(Enum):
    """A plane, by the volume axis it cuts [z, y, x].

    Patient right is on the image's left; sagittal slices are seen from the left side; head up.
    """

    AXIAL = 0
    CORONAL = 1
    SAGITTAL = 2

    @property
    def axis(self) -> int:
        return self.value

    def letters(self, grid: Grid) -> tuple[str, str, str, str]:
        """Where the left, right, top and bottom border lie in the patient: `R`, or `AH` on an oblique slice."""
        down, across = (grid.affine[:3, axis] for axis in range(3) if axis != self.axis)
        if self is not Plane.AXIAL:
            down = -down
        return _letters(-across), _letters(across), _letters(-down), _letters(down)

    def cut(self, array: npt.NDArray[Scalar], index: int) -> npt.NDArray[Scalar]:
        """View of the slice [row, column] of [z, y, x] as it is displayed."""
        plane: npt.NDArray[Scalar] = np.moveaxis(array, self.axis, 0)[index]
        return plane if self is Plane.AXIAL else plane[::-1]

    def pixel_mm(self, spacing: tuple[float, float, float]) -> tuple[float, float]:
        """Height and width of a displayed voxel, mm."""
        rows, columns = (size for axis, size in enumerate(spacing) if axis != self.axis)
        return rows, columns


def _letters(direction: FloatArray) -> str:
    parts = direction / np.linalg.norm(direction)
    leaning = [axis for axis in np.argsort(-np.abs(parts), kind="stable") if abs(parts[axis]) >= _LEANS]
    return "".join(_ENDS[axis][int(parts[axis] > 0)] for axis in leaning)


@dataclass(frozen=True)
class Glow:
    """The heat of one finding as it is laid over a slice."""

    heat: Heat
    anatomy: str
    full: float
    """The value that is shown strongest; what is below a fifth of it is not shown."""


@dataclass(frozen=True)
class Field:
    """The part of the volume that is shown: first and one past the last voxel along y and x; z is shown whole."""

    y: tuple[int, int]
    x: tuple[int, int]

    def of(self, array: npt.NDArray[Scalar], but: Plane | None = None) -> npt.NDArray[Scalar]:
        """View of that part of [z, y, x], whole along the axis that the plane `but` cuts."""
        y = slice(None) if but is Plane.CORONAL else slice(*self.y)
        x = slice(None) if but is Plane.SAGITTAL else slice(*self.x)
        return array[:, y, x]


def body_field(volume: Volume, margin_mm: float = 12.0) -> Field:
    """The box around the body (above -200 HU, thin things such as the table left out), with a margin."""
    step = 4
    body = volume.hu[::step, ::step, ::step] > -200
    bounds = []
    for axis, other in ((1, (0, 2)), (2, (0, 1))):
        counts = body.sum(axis=other)
        filled = np.flatnonzero(counts > 0.05 * counts.max())
        size, margin = volume.hu.shape[axis], round(margin_mm / volume.spacing[axis])
        first, last = (int(filled[0]), int(filled[-1])) if filled.size else (0, size // step)
        bounds.append((max(0, first * step - margin), min(size, (last + 1) * step + margin)))
    return Field(bounds[0], bounds[1])


def widest(mask: BoolArray) -> tuple[int, int, int]:
    """Along each axis the index of the slice in which the mask is largest; the middle if it is empty."""
    if not mask.any():
        return mask.shape[0] // 2, mask.shape[1] // 2, mask.shape[2] // 2
    areas = (mask.sum(axis=(1, 2)), mask.sum(axis=(0, 2)), mask.sum(axis=(0, 1)))
    return int(areas[0].argmax()), int(areas[1].argmax()), int(areas[2].argmax())


def render(
    volume: Volume,
    anatomy_map: AnatomyMap,
    plane: Plane,
    index: int,
    box: tuple[int, int],
    window: Window,
    colors: Mapping[str, Color],
    field: Field,
    emphasis: str = "",
    glow: Glow | None = None,
) -> Image.Image:
    """The slice within `field`, scaled to fit `box` (width, height in pixels) at its true aspect.

    The contours of the anatomies in `colors` are drawn over it, that of `emphasis` thicker and last.
    """
    first, last = ((0, volume.hu.shape[0]), field.y, field.x)[plane.axis]
    inside = min(max(index, first), last - 1) - first
    hu = plane.cut(field.of(volume.hu), inside).astype(np.float32)
    grey = np.clip((hu - window.center) / window.width + 0.5, 0.0, 1.0) * 255.0
    row_mm, column_mm = plane.pixel_mm(volume.spacing)
    scale = min(box[0] / (hu.shape[1] * column_mm), box[1] / (hu.shape[0] * row_mm))
    size = (max(1, round(hu.shape[1] * column_mm * scale)), max(1, round(hu.shape[0] * row_mm * scale)))
    image = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    canvas = np.asarray(image.convert("RGB")).copy()
    if glow is not None:
        strength = plane.cut(field.of(_strength(volume.grid, anatomy_map, plane, index, glow), plane), 0)
        _lay_over(canvas, strength)
    labels = plane.cut(field.of(anatomy_map.labels), inside)
    for name in sorted(colors, key=lambda name: name == emphasis):
        mask = labels == anatomy_map.label(name)
        if mask.any():
            canvas[_contour(mask, size, 3 if name == emphasis else 1)] = colors[name]
    return Image.fromarray(canvas)


def _strength(grid: Grid, anatomy_map: AnatomyMap, plane: Plane, index: int, glow: Glow) -> Float32Array:
    """The heat on one slice, 0..1 of what is shown strongest: [z, y, x] with one voxel along the axis that is cut."""
    axis = plane.axis
    one = slice(index, index + 1)
    mask = anatomy_map.labels[tuple(one if each == axis else slice(None) for each in range(3))]
    to_slice = np.eye(4)
    to_slice[axis, 3] = index
    shape = tuple(1 if each == axis else size for each, size in enumerate(grid.shape))
    here = Grid((shape[0], shape[1], shape[2]), grid.spacing, grid.affine @ to_slice)
    values = glow.heat.on(here, np.ascontiguousarray(mask == anatomy_map.label(glow.anatomy)))
    strength: Float32Array = np.clip(np.nan_to_num(values.astype(np.float32)) / max(glow.full, 1e-9), 0.0, 1.0)
    return strength


def _lay_over(canvas: UInt8Array, strength: Float32Array) -> None:
    """Heat over a picture, in place: from clear over red to yellow."""
    height, width = canvas.shape[:2]
    scaled = Image.fromarray(strength).resize((width, height), Image.Resampling.BILINEAR)
    shown = np.asarray(scaled)[..., None]
    opacity = np.clip((shown - 0.2) / 0.8, 0.0, 1.0) * _OPAQUEST
    color = np.concatenate([np.full_like(shown, 255.0), 235.0 * shown**2, np.zeros_like(shown)], axis=2)
    canvas[...] = (canvas * (1.0 - opacity) + color * opacity).astype(np.uint8)


_OPAQUEST = 0.6


def visible(anatomy_map: AnatomyMap, plane: Plane, index: int, names: list[str]) -> list[str]:
    """Those of `names` that the slice shows."""
    seen = {int(label) for label in np.unique(plane.cut(anatomy_map.labels, index))}
    return [name for name in names if anatomy_map.label(name) in seen]


def _contour(mask: BoolArray, size: tuple[int, int], thickness: int) -> BoolArray:
    """The inner border of the mask at display size, `thickness` pixels wide."""
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(large) >= 128
    core = inside
    for _ in range(thickness):
        framed = np.pad(core, 1)
        core = core & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    border: BoolArray = inside & ~core
    return border
