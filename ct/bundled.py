"""The bundled segmenter: a small MONAI U-Net trained on phantoms. For tests and demonstrations only."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import UNet
from safetensors.torch import load_file
from torch import Tensor, nn

from ct.anatomy import AlgorithmIdentity, AnatomyMap, SegmenterWeightsError
from ct.examine import examine
from ct.precision import half_on_gpu
from ct.resample import resample_hu
from ct.volume import Volume

WEIGHTS = Path(__file__).parent / "weights" / "phantom_segmenter.safetensors"
SPACING = (4.0, 4.0, 4.0)
"""mm z, y, x of the network's grid."""
HU_WINDOW = (-1000.0, 500.0)
_MULTIPLE, _LEAST = 16, 32
"""Voxels of the network's input along each axis: its deepest layer must be left with more than one."""
_CONFIDENT = 0.02


def build_network(classes: int) -> nn.Module:
    """The U-Net: HU window [B, 1, D, H, W] in [0, 1], D, H, W multiples of 16 -> logits [B, classes, D, H, W].

    Its layers work on half the resolution and less, between a strided and a transposed convolution.
    """
    unet = UNet(
        spatial_dims=3,
        in_channels=16,
        out_channels=32,
        channels=(32, 64, 96, 128, 160),
        strides=(1, 2, 2, 2),
        num_res_units=1,
        norm=("instance", {"affine": True}),
    )
    return nn.Sequential(nn.Conv3d(1, 16, 2, 2), unet, nn.ConvTranspose3d(32, classes, 2, 2))


def to_network_input(hu: npt.NDArray[np.floating]) -> Tensor:
    """HU [z, y, x] on the network's grid -> [1, 1, D, H, W] in [0, 1], padded at the end with air."""
    low, high = HU_WINDOW
    scaled = torch.from_numpy(np.clip((hu - low) / (high - low), 0.0, 1.0).astype(np.float32))
    padding = [p for size in reversed(scaled.shape) for p in (0, max(_LEAST - size, -size % _MULTIPLE))]
    return nn.functional.pad(scaled, padding)[None, None]


class BundledSegmenter:
    """`Segmenter` with the shipped weights. Its identity says that it is a test model."""

    def __init__(self, weights: Path = WEIGHTS, device: str = "cpu") -> None:
        if not weights.is_file():
            raise SegmenterWeightsError(
                f"{weights}: missing; install the project again or run: fvlm-node train phantom"
            )
        data = weights.read_bytes()
        tensors = load_file(weights)
        self.anatomies: tuple[str, ...] = tuple(json.loads(weights.with_suffix(".json").read_text())["anatomies"])
        self.network = build_network(len(self.anatomies) + 1)
        try:
            self.network.load_state_dict({key: value.float() for key, value in tensors.items()})
        except RuntimeError as error:
            raise SegmenterWeightsError(f"{weights}: not weights of the bundled network: {error}") from error
        self.device = device
        self.network.eval().to(device)
        self._digest = hashlib.sha256(data).hexdigest()

    @property
    def identity(self) -> AlgorithmIdentity:
        return AlgorithmIdentity("fVLM Node phantom segmenter", "1", self._digest, test_only=True)

    def segment(self, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        """Label those of `anatomies` that the network knows, on the volume's grid; the map has no other names."""
        coarse = resample_hu(volume.hu, volume.spacing, SPACING, antialias=True)
        probabilities = self.probabilities(coarse)
        known = tuple(name for name in anatomies if name in self.anatomies)
        wanted: list[int | None] = [self.anatomies.index(name) + 1 for name in known]
        labels = upsample_labels(probabilities, SPACING, wanted, volume.grid.shape, volume.spacing)
        examined = examine(volume, labels, known)
        return AnatomyMap(labels, volume.grid, known, self.identity, examined.measures, examined.sides)

    def probabilities(self, hu: npt.NDArray[np.floating]) -> Tensor:
        """HU [z, y, x] on the network's grid -> float32 [classes, z, y, x], class 0 is background."""
        with torch.inference_mode(), half_on_gpu(self.device):
            logits = self.network(to_network_input(hu).to(self.device))[0]
        z, y, x = hu.shape
        probabilities: Tensor = logits[:, :z, :y, :x].float().softmax(0).cpu()
        return probabilities


def upsample_labels(
    probabilities: Tensor,
    spacing: tuple[float, float, float],
    wanted: list[int | None],
    shape: tuple[int, int, int],
    target_spacing: tuple[float, float, float],
) -> npt.NDArray[np.uint8]:
    """Most probable class on a finer grid: trilinear probabilities, each class only where it can win.

    `probabilities` float [C, z, y, x] on `spacing`; `wanted[i]` is the class that becomes label i + 1 (None: never).
    Both grids share the centre of their first voxel. Returns uint8 of `shape`.
    """
    axes = [
        _interpolation(n, step, size, fine)
        for n, step, size, fine in zip(probabilities.shape[1:], spacing, shape, target_spacing, strict=True)
    ]
    labels = torch.zeros(shape, dtype=torch.uint8)
    boxes = {label: _box(probabilities[index] > _CONFIDENT, axes) for label, index in enumerate(wanted, 1) if index}
    found = {label: box for label, box in boxes.items() if box is not None}
    if not found:
        return labels.numpy()
    zs, ys, xs = (
        slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*found.values(), strict=True)
    )
    sides = {0: (ys, xs), **{label: box[1:] for label, box in found.items()}}
    lower, upper, weight = axes[0]

    @lru_cache(maxsize=2 * len(sides))
    def coarse(label: int, at: int) -> Tensor:
        index = wanted[label - 1] if label else 0
        assert index is not None  # it would have no box
        return _in_plane(probabilities[index, at], axes, *sides[label])

    def fine(label: int, z: int) -> Tensor:
        return torch.lerp(coarse(label, int(lower[z])), coarse(label, int(upper[z])), float(weight[z]))

    for z in range(zs.start, zs.stop):
        best = fine(0, z)
        for label, (own, rows, columns) in found.items():
            if own.start <= z < own.stop:
                current, rival = best[_within(rows, ys), _within(columns, xs)], fine(label, z)
                labels[z, rows, columns].masked_fill_(rival > current, label)
                torch.maximum(current, rival, out=current)
    return labels.numpy()


_Axis = tuple[Tensor, Tensor, Tensor]
_Box = tuple[slice, slice, slice]


def _interpolation(coarse: int, step: float, size: int, fine: float) -> _Axis:
    """Lower index, upper index and upper weight of each fine voxel along one axis."""
    position = torch.arange(size, dtype=torch.float64) * (fine / step)
    lower = position.floor().long().clamp(0, coarse - 1)
    upper = (lower + 1).clamp(0, coarse - 1)
    return lower, upper, (position - lower).clamp(0.0, 1.0).float()


def _box(mask: Tensor, axes: list[_Axis]) -> _Box | None:
    """Fine voxels that touch a true coarse voxel."""
    slices = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        coarse = mask.any(dim=others[1]).any(dim=others[0])
        lower, upper, _ = axes[axis]
        touched = torch.nonzero(coarse[lower] | coarse[upper]).flatten()
        if not len(touched):
            return None
        slices.append(slice(int(touched[0]), int(touched[-1]) + 1))
    return slices[0], slices[1], slices[2]


def _in_plane(plane: Tensor, axes: list[_Axis], ys: slice, xs: slice) -> Tensor:
    """A coarse slice [y, x] of one class on the fine rows `ys` and columns `xs`."""
    (y0, y1, wy), (x0, x1, wx) = axes[1:]
    plane = plane[:, x0[xs]] * (1 - wx[xs]) + plane[:, x1[xs]] * wx[xs]
    return plane[y0[ys]] * (1 - wy[ys])[:, None] + plane[y1[ys]] * wy[ys][:, None]


def _within(inner: slice, outer: slice) -> slice:
    """A slice counted from the start of another."""
    return slice(inner.start - outer.start, inner.stop - outer.start)
