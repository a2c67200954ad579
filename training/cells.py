"""The lesson of the cells: which of an anatomy's cells hold which focal lesion. Only a phantom knows that.

Cells are convolutional, so they learn from small crops (`training.crops`). Findings without a place of their own, such
as a fatty liver, are told of every cell of their anatomy.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.cells import Cells
from fvlm.config import ModelConfig, Triple
from fvlm.model import tokens_of_anatomies
from training.crops import Crops, CropSource
from training.phantom_data import PhantomSet
from training.pretrain import Trainee
from training.supervise import lesion_places

CROP: Triple = (32, 32, 32)
"""Voxels z, y, x."""
_RARE = 2.0
"""Weight of a cell with a lesion beside the 1 of any."""


class CellLesson(Trainee):
    """The cells and one logistic regression a finding on each."""

    def __init__(self, config: ModelConfig, findings: Sequence[str], data: PhantomSet, crop: Triple = CROP) -> None:
        super().__init__()
        if config.cells is None:
            raise ValueError("the model has no cells")
        self.size, self.anatomies = config.cells.size, len(config.anatomies)
        self.cells = Cells(config.cells, config.width)
        self.heads = nn.Linear(config.width, len(findings))
        nn.init.zeros_(self.heads.weight)
        nn.init.constant_(self.heads.bias, -2.0)
        self.findings = list(findings)
        self.anatomy = [config.anatomies.index(finding.split(".")[0]) for finding in findings]
        focal = {ball.finding for balls in data.balls for ball in balls}
        self.focal = torch.tensor([finding in focal for finding in findings])
        self.truth = torch.tensor([[finding in p.diseases for finding in findings] for p in data.patients])
        self.spacing = data.spacing
        self.source = CropSource(data, findings, config.anatomies, crop)

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Binary cross-entropy over the cells of each finding's anatomy on as many random crops as are chosen."""
        crops = self.source.draw(len(chosen), generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.heads(self.cells(crops.image)).float().transpose(1, 2)
        targets, inside = self.targets(crops)
        weight = inside.float() * (1.0 + _RARE * targets)
        losses = F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="none").sum((0, 2))
        seen = weight.sum((0, 2))
        return (losses[seen > 0] / seen[seen > 0]).sum() / len(self.findings)

    def targets(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Float [B, F, L] of 0 and 1, and which cells count, bool: those of the anatomy, not at the crop's border."""
        inside = tokens_of_anatomies(crops.labels, self.size, self.anatomies)[:, self.anatomy]
        shape = [size // step for size, step in zip(crops.labels.shape[1:], self.size, strict=True)]
        border = torch.zeros(shape, dtype=torch.bool)
        border[1:-1, 1:-1, 1:-1] = True
        inside = inside & border.flatten()
        size = np.array(self.size) * np.array(self.spacing)
        places = torch.stack([lesion_places(balls, self.findings, shape, size) for balls in crops.balls])
        everywhere = self.truth[list(crops.patients)][..., None].expand_as(places).float()
        return torch.where(self.focal[:, None], places, everywhere), inside
