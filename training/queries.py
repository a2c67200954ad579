"""The lesson of the queries: on a frozen encoder, what each anatomy's query gathers from cells and tokens.

They learn to tell the findings that the reports name, and half of the heads to look at the cells of focal lesions,
where there are any: what is small is lost in an average over an organ.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.model import FVLM
from training.features import Features, FeatureSet
from training.pretrain import Trainee
from training.standardise import Standardise

_LOOKING = 0.3
"""Weight of where the queries look against what is found."""


class QueryLesson(Trainee):
    """The anatomy attention, the projection of the cells, and one logistic regression a finding."""

    def __init__(self, model: FVLM, findings: Sequence[str], focal: Sequence[str], data: FeatureSet) -> None:
        super().__init__()
        config = model.config
        self.model = model
        model.requires_grad_(False)
        for part in learned(model):
            part.requires_grad_(True)
        self.data = data
        self.truth = torch.tensor([[finding in p.diseases for finding in findings] for p in data.patients]).float()
        self.anatomy = [config.anatomies.index(finding.split(".")[0]) for finding in findings]
        self.focal_anatomy = [config.anatomies.index(finding.split(".")[0]) for finding in focal]
        self.standard = Standardise(len(config.anatomies), config.width)
        self.weight = nn.Parameter(torch.zeros(len(findings), config.width))
        self.bias = nn.Parameter(self.truth.mean(0).clamp(0.01, 0.99).logit())

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:  # noqa: ARG002
        """Binary cross-entropy of the findings, and how little is looked at focal lesions."""
        batch, truth = self.data.batch(chosen), self.truth[list(chosen)]
        states, own = joined(self.model, batch)
        gathered = self.model.attention(self.model.query_tokens, states, own)
        present = batch.of_tokens.any(-1)[:, self.anatomy]
        logits = (self.standard(gathered)[:, self.anatomy] * self.weight).sum(-1) + self.bias
        whole = F.binary_cross_entropy_with_logits(logits[present], truth[present])
        return whole + _LOOKING * self._looking_loss(states, own, batch)

    def _looking_loss(self, states: Tensor, own: Tensor, batch: Features) -> Tensor:
        """How little of an anatomy's attention lies on the cells of its focal lesions.

        Of the first half of the heads; the others are free for what concerns the whole anatomy.
        """
        model = self.model
        heads = model.attention.weights(model.query_tokens, states, own)
        attended = heads[:, :, : (heads.shape[2] + 1) // 2].mean(2)[..., : batch.cells.shape[1]]
        lesions = torch.zeros_like(attended)
        lesions.index_add_(1, torch.tensor(self.focal_anatomy), batch.lesions.float())
        lesions = (lesions > 0) & batch.of_cells
        ill = lesions.any(-1)
        if not bool(ill.any()):
            return states.new_zeros(())
        seen: Tensor = (attended * lesions).sum(-1)[ill]
        return -seen.clamp_min(1e-6).log().mean()


def learned(model: FVLM) -> list[nn.Module | nn.Parameter]:
    """What this lesson changes in a model."""
    cells = model.visual_encoder.cells
    return [model.attention, model.query_tokens, *([] if cells is None else [cells.project])]


def joined(model: FVLM, batch: Features) -> tuple[Tensor, Tensor]:
    """All tokens of all levels [B, S, W], cells first, and which belong to which anatomy, bool [B, A, S]."""
    cells = model.visual_encoder.cells
    if cells is None:
        raise ValueError("the model has no cells")
    states = torch.cat([cells.tokens(batch.cells), batch.tokens.flatten(1, 2)], 1)
    return states, torch.cat([batch.of_cells, batch.of_tokens.repeat(1, 1, batch.tokens.shape[1])], -1)
