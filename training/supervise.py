"""The image trunk's schooling: findings named in the reports as labels, before images and texts are aligned.

Two lessons. The first asks each anatomy as a whole. The second also asks every token of it and takes the most
suspicious one for the answer (multiple-instance learning): what is small is lost in an average over an organ.

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
    """Tokens, anatomy attention and one logistic regression a finding on the pooled anatomy, and on its tokens."""

    def __init__(self, config: ModelConfig, findings: Sequence[str], data: PhantomSet) -> None:
        super().__init__()
        self.ask_tokens = False
        """The second lesson."""
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

        self.token_head = nn.Linear(config.width, len(findings))
        nn.init.zeros_(self.token_head.weight)
        nn.init.constant_(self.token_head.bias, -4.0)

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Mean binary cross-entropy of some patients over the findings whose anatomy is present."""
        image, labels = self.data.batch(chosen, generator)
        truth = self.truth[list(chosen)]
        tokens, selected = select(self.model, image, labels)
        present = selected.any(-1)[:, self.anatomy]
        states = gather(self.model, tokens, selected)
        logits = (self.standard(states)[:, self.anatomy] * self.weight).sum(-1) + self.bias
        loss = F.binary_cross_entropy_with_logits(logits[present], truth[present])
        if self.ask_tokens:
            scores = self.token_head(tokens[-1]).transpose(1, 2)
            scores = scores.masked_fill(~selected[:, self.anatomy], torch.finfo(scores.dtype).min)
            loss = loss + F.binary_cross_entropy_with_logits(scores.amax(-1)[present], truth[present])
        return loss


def select(model: FVLM, image: Tensor, labels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Image [B, 1, D, H, W], labels [B, D, H, W] -> tokens [B, L, W] of each level, those of an anatomy [B, A, L]."""
    config = model.config
    return model.encode_tokens(image), tokens_of_anatomies(labels, config.patch, len(config.anatomies))


def gather(model: FVLM, tokens: list[Tensor], selected: Tensor) -> Tensor:
    """What each anatomy's query gathers from its tokens, [B, A, W]."""
    return model.attention(model.query_tokens, torch.cat(tokens, 1), selected.repeat(1, 1, len(tokens)))  # type: ignore[no-any-return]
