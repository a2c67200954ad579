"""Which slices the summary page shows, and how: through what is present, else through the largest anatomy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ct.volume import Volume
from dicom_sr import slice_view
from dicom_sr.companion import Case
from dicom_sr.groups import percent
from dicom_sr.heat_stack import HeatStack
from dicom_sr.page_canvas import SCALE, Box, Canvas, Color
from dicom_sr.segmentation import segmented_anatomies
from dicom_sr.slice_view import BONE, LUNG, SOFT_TISSUE, Glow, Plane, Window
from fvlm.reading import Finding

_SEEN_IN_SOFT_TISSUE = frozenset({"lung.pleural_effusion", "lung.atelectasis", "lung.consolidation"})
"""Findings of the lung that are as dense as soft tissue."""
_MOST = 3


@dataclass(frozen=True)
class Picture:
    """One slice."""

    title: str
    caption: str
    plane: Plane
    index: int
    """Along the axis of the volume that the plane cuts."""
    anatomy: str
    """The one that it is about; empty where nothing was segmented."""
    window: Window
    heat: Glow | None = None


class Pictures:
    """The pictures of one reading."""

    def __init__(
        self, case: Case, volume: Volume, stacks: Mapping[str, HeatStack], slices: Mapping[str, Sequence[int]]
    ) -> None:
        self._case, self._volume, self._stacks, self._slices = case, volume, stacks, slices
        self._segmented = segmented_anatomies(case.reading, case.anatomy_map)
        self._colors: dict[str, Color] = {name: case.vocabulary.anatomy(name).color for name in self._segmented}
        self._field = slice_view.body_field(volume)
        self._chosen = self._choose()

    def chosen(self) -> list[Picture]:
        """Two or three: an axial slice for each of the first present findings, filled up with coronal ones."""
        return self._chosen

    @property
    def shown(self) -> tuple[int, ...]:
        """Indices of the source slices that are shown as they are."""
        axes = self._case.anatomy_map.grid.source_axes
        if axes.order[0] != 0:
            return ()
        count = self._volume.hu.shape[0]
        indices = [picture.index for picture in self._chosen if picture.plane is Plane.AXIAL]
        return tuple(count - 1 - index if axes.flipped[0] else index for index in indices)

    def aspect(self, plane: Plane) -> float:
        """Height over width of the pictures of a plane."""
        rows, columns = plane.cut(self._field.of(self._volume.hu), 0).shape
        row_mm, column_mm = plane.pixel_mm(self._volume.spacing)
        return float(rows * row_mm / (columns * column_mm))

    def legend(self) -> list[tuple[str, Color]]:
        """Titles and colours of the contours, where several anatomies are outlined."""
        if any(picture.heat for picture in self._chosen) or not self._segmented:
            return []
        seen: set[str] = set()
        for picture in self._chosen:
            seen.update(slice_view.visible(self._case.anatomy_map, picture.plane, picture.index, self._segmented))
        return [(self._case.vocabulary.anatomy(n).title, self._colors[n]) for n in self._segmented if n in seen]

    def paste(self, picture: Picture, canvas: Canvas, box: Box) -> tuple[float, float, tuple[str, str, str, str]]:
        """Draw a picture into the middle of a box; its width and height in units, and the letters of its borders."""
        left, top, right, bottom = box
        size = (int((right - left) * SCALE), int((bottom - top) * SCALE))
        alone = picture.heat is not None
        colors = {name: color for name, color in self._colors.items() if name == picture.anatomy or not alone}
        view: Image.Image = slice_view.render(
            self._volume, self._case.anatomy_map, picture.plane, picture.index, size, picture.window, colors,
            self._field, picture.anatomy, picture.heat,
        )  # fmt: skip
        wide, high = view.width / SCALE, view.height / SCALE
        canvas.paste(view, (left + (right - left - wide) / 2, top + (bottom - top - high) / 2))
        return wide, high, picture.plane.letters(self._volume.grid)

    def _choose(self) -> list[Picture]:
        findings = [finding for finding in self._case.reading.positives if finding.anatomy in self._segmented]
        pictures = [self._axial(finding) for finding in findings[:_MOST]]
        pictures += [
            self._coronal(finding) for finding in findings[: max(0, min(_MOST, 2 * len(findings)) - len(pictures))]
        ]
        return pictures or self._overview()

    def _overview(self) -> list[Picture]:
        """Without a present finding that can be shown: through the largest anatomy, else through the middle."""
        measures = self._case.anatomy_map.measures
        target = max(self._segmented, key=lambda name: measures[name].volume_ml, default="")
        labels = self._case.anatomy_map.labels
        mask = labels == self._case.anatomy_map.label(target) if target else np.zeros(labels.shape, bool)
        centre = slice_view.widest(mask)
        title = self._case.vocabulary.anatomy(target).title if target else "Nothing was segmented"
        return [
            Picture(title, self._caption(plane, centre[plane.axis], window), plane, centre[plane.axis], target, window)
            for plane, window in ((Plane.AXIAL, self._window(target)), (Plane.CORONAL, SOFT_TISSUE))
        ]

    def _axial(self, finding: Finding) -> Picture:
        peak = self._peak(finding)
        axes = self._case.anatomy_map.grid.source_axes
        seen = self._slices.get(finding.key)
        index = peak[0]
        if seen and axes.order[0] == 0:
            index = self._volume.hu.shape[0] - 1 - seen[0] if axes.flipped[0] else seen[0]
        return self._of_finding(finding, Plane.AXIAL, index)

    def _coronal(self, finding: Finding) -> Picture:
        return self._of_finding(finding, Plane.CORONAL, self._peak(finding)[1])

    def _of_finding(self, finding: Finding, plane: Plane, index: int) -> Picture:
        window = self._window(finding.anatomy, finding.key)
        title = f"{self._case.title(finding)}, {percent(finding.probability):.1f} %"
        caption = self._caption(plane, index, window)
        return Picture(title, caption, plane, index, finding.anatomy, window, self._glow(finding))

    def _peak(self, finding: Finding) -> tuple[int, int, int]:
        """Voxel [z, y, x] of most heat; without heat, the widest slices of the anatomy."""
        stack = self._stacks.get(finding.key)
        if stack is None or not np.nanmax(stack.values) > 0.0:
            return slice_view.widest(self._case.anatomy_map.labels == self._case.anatomy_map.label(finding.anatomy))
        at = np.unravel_index(int(np.nanargmax(stack.values)), stack.values.shape)
        place = np.linalg.inv(self._volume.grid.affine) @ stack.affine @ [*map(float, at), 1.0]
        z, y, x = (
            min(max(round(float(v)), 0), size - 1) for v, size in zip(place, self._volume.hu.shape, strict=False)
        )
        return z, y, x

    def _glow(self, finding: Finding) -> Glow | None:
        stack = self._stacks.get(finding.key)
        if stack is None or finding.heat is None or not np.nanmax(stack.values) > 0.0:
            return None
        return Glow(finding.heat, finding.anatomy, float(np.nanmax(stack.values)))

    def _window(self, anatomy: str, key: str = "") -> Window:
        if anatomy == "lung" and key not in _SEEN_IN_SOFT_TISSUE:
            return LUNG
        if anatomy and self._case.vocabulary.anatomy(anatomy).category == "bone":
            return BONE
        return SOFT_TISSUE

    def _caption(self, plane: Plane, index: int, window: Window) -> str:
        """`Axial, image 47 of 124, soft tissue`."""
        axes, count = self._case.anatomy_map.grid.source_axes, self._volume.hu.shape[plane.axis]
        place = f"slice {index + 1} of {count}"
        if plane.axis == 0 and axes.order[0] == 0:
            source = count - 1 - index if axes.flipped[0] else index
            number = self._case.headers[source].get("InstanceNumber")
            if number not in (None, ""):
                place = f"image {number} of {count}"
        return f"{plane.name.capitalize()}, {place}, {window.name}"
