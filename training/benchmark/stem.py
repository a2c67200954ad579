"""The fine level of the small model, taught once and then kept: what a scan looks like, without any report.

Convolutions over whole scans are what two cores have no time for, seven methods and three seeds long. So the cells'
convolutions (`fvlm.cells`) learn once to say what the voxels of each cell are like, and which anatomies lie there; no
disease and no text is seen. All methods start from them, as the paper's start from weights of a masked autoencoder.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.cells import Cells
from fvlm.config import ModelConfig
from fvlm.model import tokens_of_anatomies
from training.benchmark.data import Scans
from training.pretrain import Trainee


class StemLesson(Trainee):
    """Each cell tells the mean and the greatest value of its eight parts in each window, and the anatomies there."""

    def __init__(self, config: ModelConfig, data: Scans) -> None:
        super().__init__()
        if config.cells is None:
            raise ValueError("the model has no cells")
        self._data, self._size, self._anatomies = data, config.cells.size, len(config.anatomies)
        self._windows = config.cells.windows
        self.cells = Cells(config.cells, config.width)
        self.cells.project.requires_grad_(False)
        channels = config.cells.channels[-1]
        self.values = nn.Linear(channels, 2 * 8 * len(self._windows))
        self.places = nn.Linear(channels, self._anatomies)

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:  # noqa: ARG002
        """Squared error of the values, each by its own variance, and cross-entropy of the anatomies."""
        batch = self._data.batch(chosen)
        features = self.cells.features(batch.image)
        wanted = self._values(batch.image)
        error = (self.values(features) - wanted).square().mean((0, 1)) / (wanted.var((0, 1)) + 1e-4)
        there = tokens_of_anatomies(batch.labels, self._size, self._anatomies).transpose(1, 2)
        places = F.binary_cross_entropy_with_logits(self.places(features), there.float())
        loss: Tensor = error.mean() + places
        return loss

    @torch.no_grad()
    def _values(self, image: Tensor) -> Tensor:
        """[B, cells, 16 a window]: mean and maximum of the eight parts of each cell."""
        half = [size // 2 for size in self._size]
        seen = torch.cat([((image - low) / (high - low)).clamp(0.0, 1.0) for low, high in self._windows], 1)
        parts = torch.cat([F.avg_pool3d(seen, half), F.max_pool3d(seen, half)], 1)
        batch, channels, z, y, x = parts.shape
        cells = parts.view(batch, channels, z // 2, 2, y // 2, 2, x // 2, 2).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return cells.reshape(batch, z * y * x // 8, channels * 8)
