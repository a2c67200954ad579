"""A scan and its anatomy map on the model's grid, cropped to the body as the reference does (public CT-RATE chain)."""

from dataclasses import dataclass

import numpy as np

from ct.anatomy import AnatomyMap, UInt8Array
from ct.volume import FloatArray, Int16Array, Volume
from fvlm.preprocess import Box, anatomy_boxes, body_region, hu_on_grid, relabel, resample_labels, union_of
from training.shards.plan import ShardPlan


@dataclass(frozen=True)
class BodyCrop:
    """What is written of a study."""

    image: Int16Array
    """HU [z, y, x], not windowed."""
    labels: UInt8Array
    """[z, y, x]; label i + 1 is the plan's anatomy i."""
    boxes: dict[str, Box]
    """Of each anatomy that is there, in voxels of the crop."""
    affine: FloatArray
    """[4, 4]: (z, y, x, 1) in voxels of the crop -> (x, y, z, 1) in patient coordinates (LPS), mm; voxel centres."""


def crop_body(volume: Volume, anatomy_map: AnatomyMap, plan: ShardPlan) -> BodyCrop | None:
    """Resample a scan to the plan's grid and keep its margin around all anatomies; None if there is none of them.

    HU are rounded to whole numbers. Raises ValueError if the anatomy map lies on another grid than the volume.
    """
    if not anatomy_map.grid.coincides(volume.grid):
        raise ValueError(f"the anatomy map ({anatomy_map.grid.shape}) lies on another grid than {volume.grid.shape}")
    settings = plan.preprocess
    labels = resample_labels(relabel(anatomy_map, plan.anatomies), volume.spacing, settings.spacing)
    boxes = anatomy_boxes(labels, plan.anatomies)
    if not boxes:
        return None
    z, y, x = labels.shape
    region = body_region(union_of(boxes.values()), Box((0, 0, 0), (z, y, x)), settings)
    limits = np.iinfo(np.int16)
    hu = hu_on_grid(volume.hu, volume.spacing, settings, region).round_().clamp_(limits.min, limits.max)
    return BodyCrop(
        image=hu.numpy().astype(np.int16),
        labels=np.ascontiguousarray(labels[region.slices((0, 0, 0))].numpy()),
        boxes={name: box.shifted(region.start) for name, box in boxes.items()},
        affine=_affine(volume, settings.spacing, region),
    )


def _affine(volume: Volume, spacing: tuple[float, float, float], region: Box) -> FloatArray:
    """The model's grid begins at the outer edge of the scan's first voxel (`fvlm.preprocess`)."""
    step = volume.grid.affine[:3, :3] / np.array(volume.spacing) * np.array(spacing)
    first = (np.array(region.start) + 0.5) * np.array(spacing) / np.array(volume.spacing) - 0.5
    affine = np.eye(4)
    affine[:3, :3] = step
    affine[:3, 3] = (volume.grid.affine @ np.append(first, 1.0))[:3]
    return affine
