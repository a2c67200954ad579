"""Losses: anatomy-wise contrast, plain CLIP, and the supervised baseline."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.objective.pairs import AnatomyPairs
from training.objective.targets import Targets, corrected_targets


@dataclass(frozen=True)
class AnatomyLosses:
    """The contrastive loss of each anatomy."""

    each: Tensor
    """[A]; 0 where it is not counted."""
    counted: Tensor
    """bool [A]: the anatomy taught something."""

    @property
    def total(self) -> Tensor:
        """The objective: the sum, not the mean, over anatomies; a scalar."""
        return self.each.sum()


def anatomy_losses(pairs: AnatomyPairs, temperature: Tensor, targets: Targets | None = None) -> AnatomyLosses:
    """Contrast within each anatomy; without `targets` the corrected ones.

    Of anatomy k with N usable patients: half the sum of the cross-entropies of images over texts and of texts over
    images, each the mean over N (section 3.2; the softmax is over usable patients alone).
    """
    targets = targets or corrected_targets(pairs)
    paired = pairs.paired
    least = torch.finfo(pairs.image.dtype).min
    scores = pairs.scores(temperature).masked_fill(~paired, least)
    cross = _cross_entropy(scores, targets.texts, paired) + _cross_entropy(scores.mT, targets.images, paired)
    each = cross / 2 / pairs.usable.sum(0).clamp(min=1)
    return AnatomyLosses(torch.where(targets.counted, each, 0.0), targets.counted)


def _cross_entropy(scores: Tensor, targets: Tensor, paired: Tensor) -> Tensor:
    """Summed over the rows of [A, B, B]: [A]."""
    logs = F.log_softmax(scores, dim=-1).masked_fill(~paired, 0.0)
    return -(targets * logs).sum((-2, -1))


def contrastive_loss(image: Tensor, text: Tensor, targets: Tensor, temperature: Tensor) -> Tensor:
    """Symmetric cross-entropy of image [N, E] against text [N, E] with row-normalised targets [N, N]; a scalar.

    The same targets serve both directions.
    """
    scores = image @ text.T / temperature
    one_way = -(targets * F.log_softmax(scores, dim=1)).sum(1).mean()
    other_way = -(targets * F.log_softmax(scores.T, dim=1)).sum(1).mean()
    return (one_way + other_way) / 2


def clip_loss(image: Tensor, text: Tensor, temperature: Tensor) -> Tensor:
    """Plain CLIP: whole image [B, E] against whole report [B, E]; only a patient's own report is positive."""
    return contrastive_loss(image, text, torch.eye(len(image), device=image.device), temperature)


def multi_label_loss(logits: Tensor, truth: Tensor, usable: Tensor) -> Tensor:
    """Binary cross-entropy of logits [B, F], the mean over what is known; a scalar, 0 if nothing is.

    Arguments: `truth` [B, F], 1 present, 0 absent, NaN where the report does not decide; `usable` bool [B, F], the
    finding's anatomy is in the window, whole.
    """
    known = usable & ~truth.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
