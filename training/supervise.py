"""The image trunk's schooling: findings named in the reports as labels, before images and texts are aligned.

Contrast alone needs far more patients than two cores can render; trunks that were supervised first align at once
(arXiv 2603.06467 shows it at scale). fVLM and its CLIP baseline start from the same trunk.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.config import ModelConfig
from fvlm.model import FVLM, tokens_of_anatomies
from training.phantom_data import PhantomSet
from training.pretrain import Trainee
from training.standardise import Standardise


class Supervised(Trainee):
    """Tokens, anatomy attention and one logistic regression a finding on the pooled anatomy."""

    def __init__(self, config: ModelConfig, findings: Sequence[str], data: PhantomSet) -> None:
        super().__init__()
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

    def forward(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, F] and whether the finding's anatomy is present, bool [B, F]."""
        _, states, present = pool(self.model, image, labels)
        logits = (self.standard(states)[:, self.anatomy] * self.weight).sum(-1) + self.bias
        return logits, present[:, self.anatomy]

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Mean binary cross-entropy of some patients over the findings whose anatomy is present."""
        logits, present = self(*self.data.batch(chosen, generator))
        return F.binary_cross_entropy_with_logits(logits[present], self.truth[list(chosen)][present])


def pool(model: FVLM, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image [B, 1, D, H, W], labels [B, D, H, W] -> mean final token [B, W], anatomies [B, A, W], present [B, A]."""
    config = model.config
    tokens = model.encode_tokens(image)
    selected = tokens_of_anatomies(labels, config.patch, len(config.anatomies))
    states = model.attention(model.query_tokens, torch.cat(tokens, 1), selected.repeat(1, 1, len(tokens)))
    return tokens[-1].mean(1), states, selected.any(-1)
