"""The operations that take the image encoder's time, each by the fastest library that computes it."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS = 512
"""Queries whose scores are held at once: larger blocks leave the cache, smaller ones starve the multiplication."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., I], weight [O, I], bias [O] -> [..., O]; as `F.linear`, up to the rounding of sums.

    `F.linear` multiplies float32 by MKL, which uses half of the vector width on processors that are not Intel's;
    oneDNN does not (measured on AMD EPYC with AVX-512: 100 against 230 GFLOP/s a core).
    """
    if not _by_onednn(x):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return,no-untyped-call]
    return _multiply(x, weight, bias, "none")


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`linear`, then the exact GELU, while what was multiplied is still in the cache."""
    if _by_onednn(x) and not torch.is_grad_enabled():
        return _multiply(x, weight, bias, "gelu")
    return F.gelu(linear(x, weight, bias))


def attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """Softmax attention over [B, H, L, D] -> [B, H, L, D]; as `F.scaled_dot_product_attention`, up to rounding."""
    if dropout or torch.is_grad_enabled() or not _by_onednn(query):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    scaled, keys = (query * query.shape[-1] ** -0.5).contiguous(), key.contiguous()
    values = value.transpose(-2, -1).contiguous()
    out = torch.empty_like(scaled)
    for sample in range(query.shape[0]):
        for head in range(query.shape[1]):
            for first in range(0, query.shape[2], _ROWS):
                at = (sample, head, slice(first, first + _ROWS))
                scores = _multiply(scaled[at], keys[sample, head], None, "none")
                torch.softmax(scores, -1, out=scores)
                out[at] = _multiply(scores, values[sample, head], None, "none")
    return out


class _Linear(torch.autograd.Function):
    """`linear` with its gradient, all three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias, "none")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _multiply(gradient, weight.t(), None, "none") if of_x else None,
            _multiply(rows.t(), x.flatten(0, -2).t(), None, "none") if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, then: str) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()  # else oneDNN's reference code, which is very slow
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")  # type: ignore[no-any-return]


def _by_onednn(x: Tensor) -> bool:
    """Float32 on a CPU whose PyTorch has the operation.

    Not within `torch.compile`, which chooses its own kernels.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
