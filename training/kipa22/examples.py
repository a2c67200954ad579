"""Cases on the network's grid, and random patches of them, changed as nnU-Net changes them (without its mirroring)."""

from dataclasses import dataclass
from math import ceil, radians

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    SpatialPadd,
)
from torch import Tensor
from torch.utils.data import Dataset

from ct.resample import resample_hu
from ct.volume import Volume
from training.kipa22.config import SegmenterConfig
from training.kipa22.layout import CLASSES

_BOTH = ("image", "shares")


@dataclass(frozen=True)
class Example:
    """One case on the network's grid, axes [x, y, z] as the bundle's network sees them."""

    image: npt.NDArray[np.float16]
    """[x, y, z]: the window as 0..1."""
    shares: npt.NDArray[np.uint8]
    """[classes, x, y, z]: how much of each voxel is background and each structure, 255 is all of it.

    A vessel thinner than the network's voxels would be lost or displaced by whole labels.
    """

    @classmethod
    def of(cls, volume: Volume, labels: npt.NDArray[np.uint8], config: SegmenterConfig) -> "Example":
        """Resampled and windowed exactly as `ct.monai_bundle` does it."""
        x, y, z = config.spacing
        low, high = config.window
        hu = resample_hu(volume.hu, volume.spacing, (z, y, x), antialias=False)
        scaled = np.clip((hu - low) / (high - low), 0.0, 1.0)
        shares = [
            np.rint(resample_hu((labels == label) * np.float32(255), volume.spacing, (z, y, x), antialias=False).T)
            for label in range(CLASSES)
        ]
        return cls(scaled.T.astype(np.float16), np.stack(shares).astype(np.uint8))


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """Random patches of the examples: the same step gives the same patches, whatever was drawn before."""

    def __init__(self, examples: list[Example], config: SegmenterConfig) -> None:
        self._examples, self._config = examples, config
        self._transform = _transform(config)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, 1, X, Y, Z] and shares [B, classes, X, Y, Z] of one step, float32 0..1."""
        config, images, shares = self._config, [], []
        for place in range(config.batch):
            count = step * config.batch + place
            round_, index = divmod(count, len(self._examples))
            order = np.random.default_rng((config.seed, 1, round_)).permutation(len(self._examples))
            example = self._examples[int(order[index])]
            seed = int(np.random.default_rng((config.seed, 2, count)).integers(2**32))
            self._transform.set_random_state(seed=seed)
            (changed,) = self._transform(
                {
                    "image": torch.from_numpy(example.image.astype(np.float32))[None],
                    "shares": torch.from_numpy(example.shares.astype(np.float32) / 255),
                }
            )
            structures = changed["shares"].as_tensor()[1:].clamp(0.0, 1.0)
            background = (1 - structures.sum(0, keepdim=True)).clamp(min=0.0)
            images.append(changed["image"].as_tensor().clamp(0.0, 1.0))
            shares.append(torch.cat([background, structures]))
        return torch.stack(images), torch.stack(shares)


def _transform(config: SegmenterConfig) -> Compose:
    """From a whole case to a list of one patch; beyond the case there is air.

    Two patches of three are centred on a labelled voxel. A larger patch is cut out, turned, scaled and trimmed.
    """
    amount = config.augmentation
    larger = tuple(ceil(size * (1 + amount.scale)) for size in config.patch)
    angle, scale, strength = radians(amount.rotate_degrees), amount.scale, amount.intensity
    return Compose(
        [
            SpatialPadd(_BOTH, larger),
            RandCropByPosNegLabeld(_BOTH, "shares", larger, pos=2, neg=1, num_samples=1),
            RandAffined(
                _BOTH,
                spatial_size=config.patch,
                prob=1.0,
                rotate_range=(angle, angle, angle),
                scale_range=(scale, scale, scale),
                translate_range=tuple(0.5 * (a - b) for a, b in zip(larger, config.patch, strict=True)),
                mode="bilinear",
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=0.2, std=0.3 * strength),
            RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.15),
            RandScaleIntensityd("image", factors=strength, prob=0.3),
            RandSimulateLowResolutiond("image", prob=0.1, zoom_range=(0.6, 1.0)),
            RandAdjustContrastd("image", prob=0.2, gamma=(1 - 2 * strength, 1 + 2 * strength)),
        ]
    )
