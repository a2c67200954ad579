"""`Cells`: a level of fine tokens beside those of the transformer, for what is small.

A token of the transformer holds many lesions' worth of tissue, and what is small is lost in it. Cells are cheap: a few
convolutions and no self-attention, so there may be many of them. Each anatomy's query attends over cells and tokens
alike, as over the levels of the paper (arXiv 2501.14548, section 3.2).
"""

from typing import cast

import torch
from torch import Tensor, nn

from fvlm.config import CellsConfig
from fvlm.kernels import linear


class Cells(nn.Module):
    """Image -> cells of the size `config.size`; order z slowest, then y, then x."""

    def __init__(self, config: CellsConfig, width: int) -> None:
        super().__init__()
        self._windows = config.windows
        channels, strided = len(config.windows), []
        for out, stride in zip(config.channels, config.strides, strict=True):
            strided += [nn.Conv3d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm3d(out), nn.GELU()]
            channels = out
        self.strided = nn.Sequential(*strided)
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(config.blocks))
        self.project = nn.Linear(channels, width)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] in [0, 1] -> cells [B, L, width]."""
        return self.tokens(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] in [0, 1] -> [B, L, C], before the projection."""
        seen = torch.cat([((image - low) / (high - low)).clamp(0.0, 1.0) for low, high in self._windows], 1)
        x = self.strided(seen.contiguous(memory_format=torch.channels_last_3d))
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, x.flatten(2).transpose(1, 2))

    def tokens(self, features: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, width]."""
        return linear(features, self.project.weight, self.project.bias)


class _Block(nn.Module):
    """A residual convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] -> the same."""
        return cast(Tensor, x + self.activation(self.norm(self.convolution(x))))
