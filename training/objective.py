"""What pretraining minimises: anatomy-wise image-text contrast, false negatives corrected (paper 3.2-3.3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class AnatomyPairs:
    """The pairs of one batch, anatomy by anatomy; B patients, A anatomies, E features."""

    image: Tensor
    """[B, A, E] unit length."""
    text: Tensor
    """[B, A, E] unit length."""
    usable: Tensor
    """bool [B, A]: the anatomy is in the window, whole."""
    normal: Tensor
    """bool [B, A]: the report calls it normal or does not mention it."""
    caption: Tensor
    """int64 [B, A]: equal numbers, equal captions."""


def contrastive_loss(image: Tensor, text: Tensor, targets: Tensor, temperature: Tensor) -> Tensor:
    """Symmetric cross-entropy of image [N, E] against text [N, E] with row-normalised targets [N, N]; a scalar.

    The same targets serve both directions, as in the reference.
    """
    scores = image @ text.T / temperature
    one_way = -(targets * F.log_softmax(scores, dim=1)).sum(1).mean()
    other_way = -(targets * F.log_softmax(scores.T, dim=1)).sum(1).mean()
    return (one_way + other_way) / 2


def corrected_targets(normal: Tensor, caption: Tensor) -> Tensor:
    """Positive pairs [N, N], row-normalised: a patient's own report, normal with normal, and equal captions.

    The normal-normal pairs are the paper's first correction of false negatives (section 3.3).
    """
    own = torch.eye(len(normal), dtype=torch.bool, device=normal.device)
    positive = own | (normal[:, None] & normal[None]) | (caption[:, None] == caption[None])
    return positive.float() / positive.sum(1, keepdim=True)


def anatomy_losses(pairs: AnatomyPairs, temperature: Tensor) -> dict[int, Tensor]:
    """The contrastive loss of each anatomy that can teach something, by its index; the objective is their sum.

    An anatomy counts only if some usable patient is abnormal there and not all pairs are positive.
    """
    losses: dict[int, Tensor] = {}
    for anatomy in range(pairs.image.shape[1]):
        usable = pairs.usable[:, anatomy]
        normal = pairs.normal[usable, anatomy]
        if not bool((~normal).any()):
            continue
        targets = corrected_targets(normal, pairs.caption[usable, anatomy])
        if bool((targets > 0).all()):
            continue
        losses[anatomy] = contrastive_loss(
            pairs.image[usable, anatomy], pairs.text[usable, anatomy], targets, temperature
        )
    return losses


def clip_loss(image: Tensor, text: Tensor, temperature: Tensor) -> Tensor:
    """Plain CLIP: whole image [B, E] against whole report [B, E]; only a patient's own report is positive."""
    return contrastive_loss(image, text, torch.eye(len(image), device=image.device), temperature)
