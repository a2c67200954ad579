"""The pairs of a whole batch, of all processes."""

from dataclasses import dataclass

import torch
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

    @property
    def paired(self) -> Tensor:
        """bool [A, B, B]: both patients have the anatomy, whole (the intact-anatomy rule)."""
        return both(self.usable)

    @property
    def abnormal(self) -> Tensor:
        """bool [A, B, B]: both patients have the anatomy, whole, and both reports call it ill."""
        return both(self.usable & ~self.normal)

    def scores(self, temperature: Tensor) -> Tensor:
        """[A, B, B]: likeness of each image (row) to each text (column), by the temperature."""
        return alike(self.image, self.text) / temperature


def both(flags: Tensor) -> Tensor:
    """bool [B, A] -> bool [A, B, B]: where both patients of a pair have the flag."""
    columns = flags.T
    return columns[:, :, None] & columns[:, None]


def alike(one: Tensor, other: Tensor) -> Tensor:
    """Two of [B, A, E] -> cosines [A, B, B] of each row of the one with each row of the other."""
    return one.transpose(0, 1) @ other.permute(1, 2, 0)


def among(scores: Tensor, candidates: Tensor) -> Tensor:
    """Softmax of each row of [A, B, B] over its candidates (bool, the same shape); 0 elsewhere, and in empty rows."""
    least = torch.finfo(scores.dtype).min
    return scores.masked_fill(~candidates, least).softmax(-1) * candidates
