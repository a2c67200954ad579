"""Which pairs are positive: a patient's own report, and what is known to be alike (paper section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.objective.pairs import AnatomyPairs, both


@dataclass(frozen=True)
class Targets:
    """What the softmax over a row of scores should be; rows of usable patients sum to 1, all other entries are 0."""

    texts: Tensor
    """[A, B, B]: of each image over the texts."""
    images: Tensor
    """[A, B, B]: of each text over the images."""
    counted: Tensor
    """bool [A]: the anatomy can teach something in this batch."""


def own_targets(pairs: AnatomyPairs) -> Targets:
    """Only a patient's own report is positive: no correction.

    An anatomy counts if at least two patients are usable.
    """
    return _targets(pairs, _own(pairs))


def corrected_targets(pairs: AnatomyPairs) -> Targets:
    """A patient's own report, normal with normal (the paper's first correction), and equal captions, as the reference.

    An anatomy counts if some usable patient is abnormal there and not all pairs are positive.
    """
    captions = pairs.caption.T
    equal = captions[:, :, None] == captions[:, None]
    targets = _targets(pairs, _own(pairs) | both(pairs.normal) | equal)
    ill = (pairs.usable & ~pairs.normal).any(0)
    return Targets(targets.texts, targets.images, targets.counted & ill)


def shares(weights: Tensor) -> Tensor:
    """Each row divided by its sum; rows of zeros stay."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def _own(pairs: AnatomyPairs) -> Tensor:
    """bool [1, B, B]."""
    return torch.eye(len(pairs.usable), dtype=torch.bool, device=pairs.usable.device)[None]


def _targets(pairs: AnatomyPairs, positive: Tensor) -> Targets:
    """The same for both directions, as in the reference: `positive` is symmetric."""
    paired = pairs.paired
    rows = shares((positive & paired).float())
    return Targets(rows, rows, (paired & ~positive).flatten(1).any(1))
