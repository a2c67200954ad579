"""Projections whose outputs are standardised over the batch while training, and plain Linear again afterwards.

At the start all scans of one anatomy, and all texts, have nearly the same feature; contrast then falls into the trap of
making them equal. Standardising each projection's output over the batch (batch normalisation without parameters) shuts
that trap. At the end the running statistics are folded into the Linear, so the released model is the architecture of
the paper, unchanged.
"""

import torch
from torch import Tensor, nn

_MOMENTUM = 0.05
_EPSILON = 1e-5


class Standardise(nn.Module):
    """Batch statistics in training, running statistics otherwise; `groups` independent features of `width`."""

    mean: Tensor
    variance: Tensor

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(groups, width))
        self.register_buffer("variance", torch.ones(groups, width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, groups, width] -> the same, mean 0 and variance 1 over N."""
        if not self.training:
            return (x - self.mean) * (self.variance + _EPSILON).rsqrt()
        mean, variance = x.mean(0), x.var(0, unbiased=False)
        with torch.no_grad():
            self.mean.lerp_(mean, _MOMENTUM)
            self.variance.lerp_(variance, _MOMENTUM)
        return (x - mean) * (variance + _EPSILON).rsqrt()

    @torch.no_grad()
    def fold_into(self, *projections: nn.Linear) -> None:
        """Give each group's Linear the running statistics; this module does nothing after that."""
        for group, projection in enumerate(projections):
            scale = (self.variance[group] + _EPSILON).rsqrt()
            projection.weight.mul_(scale[:, None])
            projection.bias.copy_((projection.bias - self.mean[group]) * scale)
        self.mean.zero_()
        self.variance.fill_(1.0 - _EPSILON)
