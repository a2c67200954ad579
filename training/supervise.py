"""The image trunk's schooling, before images and texts are aligned: what is there, and where.

Two lessons. First the convolutional stem alone learns, place by place, which anatomies and which focal lesions lie
there; only a phantom knows that. Then the whole trunk learns the findings that the reports name, each anatomy as a
whole, and each token the focal lesions that lie in it. What is too small for tokens is left to the cells
(`training.cells`).

Contrast alone needs far more patients than two cores can render; trunks that were supervised first align at once
(arXiv 2603.06467 shows it at scale). fVLM and its CLIP baseline start from the same trunk.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.config import ModelConfig, Triple
from fvlm.model import FVLM, tokens_of_anatomies
from training.phantom_data import Ball, Batch, PhantomSet
from training.pretrain import Trainee
from training.standardise import Standardise

_RARE = 10.0
"""Weight of a place with a lesion against one without."""
_ELSEWHERE = 0.1
"""Weight of a place outside of the lesion's anatomy."""


Lesson = Literal["stem", "trunk"]


class Supervised(Trainee):
    """The trunk, one logistic regression a finding on its pooled anatomy, and one a focal finding on each place."""

    def __init__(self, config: ModelConfig, findings: Sequence[str], data: PhantomSet) -> None:
        super().__init__()
        self.lesson: Lesson = "stem"
        self.model = FVLM(config)
        nn.init.normal_(self.model.query_tokens, std=0.02)
        for part in (self.model.text_encoder, self.model.text_proj, self.model.vision_projs, self.model.temp):
            part.requires_grad_(False)
        self.data = data
        self.truth = torch.tensor([[finding in p.diseases for finding in findings] for p in data.patients]).float()
        self.anatomy = [config.anatomies.index(finding.split(".")[0]) for finding in findings]
        self.standard = Standardise(len(config.anatomies), config.width)
        self.weight = nn.Parameter(torch.zeros(len(findings), config.width))
        self.bias = nn.Parameter(self.truth.mean(0).clamp(0.01, 0.99).logit())
        drawn = {ball.finding for balls in data.balls for ball in balls}
        self.focal = [finding for finding in findings if finding in drawn]
        self.focal_anatomy = [config.anatomies.index(finding.split(".")[0]) for finding in self.focal]
        self.places = nn.Linear(config.stages[-1][0], len(config.anatomies) + len(self.focal))
        levels = len(config.levels) + 1
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(levels))
        self.heads = nn.ModuleList(nn.Linear(config.width, len(self.focal)) for _ in range(levels))
        for head in (self.places, *self.heads):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, -3.0)

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Binary cross-entropies of the lesson on some patients."""
        batch = self.data.batch(chosen, generator)
        return self._stem_loss(batch) if self.lesson == "stem" else self._trunk_loss(batch, self.truth[list(chosen)])

    def _stem_loss(self, batch: Batch) -> Tensor:
        """Which anatomies and focal lesions lie in each place of the stem."""
        config = self.model.config
        with torch.autocast("cpu", torch.bfloat16):
            cells = self.model.visual_encoder.patch_embedding.stem(batch.image)
        logits = self.places(cells.float().flatten(2).transpose(1, 2)).transpose(1, 2)
        anatomies = len(config.anatomies)
        there = tokens_of_anatomies(batch.labels, config.stem_stride, anatomies)
        where = F.binary_cross_entropy_with_logits(logits[:, :anatomies], there.float())
        return where + self._lesion_loss(logits[:, anatomies:], there, batch, config.stem_stride)

    def _trunk_loss(self, batch: Batch, truth: Tensor) -> Tensor:
        """The findings of each anatomy that is present, and the focal lesions of the tokens of every level."""
        with torch.autocast("cpu", torch.bfloat16):
            tokens, selected = select(self.model, batch.image, batch.labels)
        tokens = [level.float() for level in tokens]
        states, present = gather(self.model, tokens, selected), selected.any(-1)[:, self.anatomy]
        logits = (self.standard(states)[:, self.anatomy] * self.weight).sum(-1) + self.bias
        whole = F.binary_cross_entropy_with_logits(logits[present], truth[present])
        places = [
            self._lesion_loss(head(norm(level)).transpose(1, 2), selected, batch, self.model.config.patch)
            for level, norm, head in zip(tokens, self.norms, self.heads, strict=True)
        ]
        return whole + torch.stack(places).mean()

    def _lesion_loss(self, logits: Tensor, there: Tensor, batch: Batch, patch: Triple) -> Tensor:
        """Logits [B, F, L] of the places of the size `patch` (voxels), of which `there` [B, A, L] hold an anatomy."""
        targets = self._lesions(batch, patch)
        inside = there[:, self.focal_anatomy].float()
        weight = _ELSEWHERE + (1.0 - _ELSEWHERE) * inside + _RARE * targets
        return F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="sum") / weight.sum()

    def _lesions(self, batch: Batch, patch: Triple) -> Tensor:
        """Which places of the size `patch` hold a lesion of which focal finding: float [B, F, L] of 0 and 1."""
        shape = [size // step for size, step in zip(self.model.config.image_shape, patch, strict=True)]
        size = np.array(patch) * np.array(self.data.spacing)
        return torch.stack([lesion_places(balls, self.focal, shape, size) for balls in batch.balls])


def lesion_places(
    balls: Sequence[Ball], findings: Sequence[str], shape: Sequence[int], size_mm: npt.NDArray[np.float64]
) -> Tensor:
    """Which boxes of `size_mm` (z, y, x), `shape` of them, hold a lesion of which finding: float [F, L] of 0 and 1.

    A box counts as soon as it holds a ball's centre or comes nearer to it than 0.7 radii.
    """
    found = torch.zeros(len(findings), *shape)
    for ball in balls:
        squares = []
        for centre, count, size in zip(ball.centre_mm, shape, size_mm, strict=True):
            low = np.arange(count) * size
            squares.append(np.maximum(np.maximum(low - centre, centre - low - size), 0.0) ** 2)
        z, y, x = squares
        near = z[:, None, None] + y[:, None] + x < (0.7 * ball.radius_mm) ** 2
        found[findings.index(ball.finding)][torch.from_numpy(near)] = 1.0
    return found.flatten(1)


def select(model: FVLM, image: Tensor, labels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Tokens [B, L, W] of each level but the cells, and which of them hold an anatomy, bool [B, A, L]."""
    config = model.config
    return model.visual_encoder.transform(image), tokens_of_anatomies(labels, config.patch, len(config.anatomies))


def gather(model: FVLM, tokens: list[Tensor], selected: Tensor) -> Tensor:
    """What each anatomy's query gathers from its tokens, [B, A, W]."""
    return model.attention(model.query_tokens, torch.cat(tokens, 1), selected.repeat(1, 1, len(tokens)))  # type: ignore[no-any-return]
