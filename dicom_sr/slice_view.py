"""Three orthogonal slices of a CT with anatomy contours, in radiological convention."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ct.anatomy import AnatomyMap
from ct.volume import Volume

UInt8Array = npt.NDArray[np.uint8]
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


class Plane(Enum):
    """A plane: the volume axis it cuts [z, y, x], and the letters at its left, right, top and bottom border.

    Patient right is on the image's left; sagittal slices are seen from the left side; head up.
    """

    AXIAL = (0, "R", "L", "A", "P")
    CORONAL = (1, "R", "L", "H", "F")
    SAGITTAL = (2, "A", "P", "H", "F")

    @property
    def axis(self) -> int:
        return self.value[0]

    @property
    def letters(self) -> tuple[str, str, str, str]:
        return self.value[1:]

    def cut(self, array: npt.NDArray[Scalar], index: int) -> npt.NDArray[Scalar]:
        """View of the slice [row, column] of [z, y, x] as it is displayed."""
        plane: npt.NDArray[Scalar] = np.moveaxis(array, self.axis, 0)[index]
        return plane if self is Plane.AXIAL else plane[::-1]

    def pixel_mm(self, spacing: tuple[float, float, float]) -> tuple[float, float]:
        """Height and width of a displayed voxel, mm."""
        rows, columns = (size for axis, size in enumerate(spacing) if axis != self.axis)
        return rows, columns


@dataclass(frozen=True)
class Field:
    """The part of the volume that is shown: first and one past the last voxel along y and x; z is shown whole."""

    y: tuple[int, int]
    x: tuple[int, int]

    def of(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """View of that part of [z, y, x]."""
        return array[:, slice(*self.y), slice(*self.x)]


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
    labels = plane.cut(field.of(anatomy_map.labels), inside)
    for name in sorted(colors, key=lambda name: name == emphasis):
        mask = labels == anatomy_map.label(name)
        if mask.any():
            canvas[_contour(mask, size, 3 if name == emphasis else 1)] = colors[name]
    return Image.fromarray(canvas)


def visible(anatomy_map: AnatomyMap, centre: tuple[int, int, int], names: list[str]) -> list[str]:
    """Those of `names` that at least one of the three slices through `centre` shows."""
    seen: set[int] = set()
    for plane in Plane:
        seen.update(int(label) for label in np.unique(plane.cut(anatomy_map.labels, centre[plane.axis])))
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
