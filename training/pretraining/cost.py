"""What a step costs, worked out from the architecture: multiplications, and the memory of what the gradient needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fvlm.config import ModelConfig
from training.pretraining.config import RecipeConfig

Shape = tuple[int, ...]

CAPTION_TOKENS = 48
"""Tokens of a caption, assumed where none are at hand: an impression and a finding or two."""


@dataclass(frozen=True)
class Stack:
    """A transformer as it is run: `rows` sequences of `length` tokens."""

    width: int
    depth: int
    heads: int
    ratio: int
    rows: int
    length: int

    @property
    def forward_flops(self) -> float:
        """Two for a multiplication and its addition."""
        per_token = 2 * self.width * self.width * (4 + 2 * self.ratio) + 4 * self.length * self.width
        return float(self.rows * self.length * self.depth * per_token)

    def saved_bytes(self, number: int, recompute: bool) -> float:
        """What stays in memory for the gradient; `number` bytes of what is multiplied, the residual stream has 4.

        A block keeps two normed inputs, queries, keys, values, the mixed values, the hidden layer before and after its
        activation, and the stream at both norms, with three masks of dropout. Recomputed, it keeps the stream, and one
        block at a time has everything.
        """
        numbers = self.width * (2 + 3 + 1 + 2 * self.ratio) * number
        stream = 4 * self.width * 4
        masks = self.width * (2 + self.ratio)
        block = self.rows * self.length * (numbers + stream + masks)
        if recompute:
            return float(self.depth * self.rows * self.length * 4 * self.width + block)
        return float(self.depth * block)


def stacks(
    model: ModelConfig, studies: int, captions: int, caption_tokens: int = CAPTION_TOKENS
) -> tuple[Stack, Stack]:
    """Both encoders on some studies with so many distinct captions."""
    z, y, x = model.grid
    text = model.text
    return (
        Stack(model.width, model.depth, model.heads, model.mlp_ratio, studies, z * y * x),
        Stack(text.width, text.depth, text.heads, text.mlp_ratio, captions, caption_tokens),
    )


def step_flops(model: ModelConfig, recipe: RecipeConfig, world: int) -> float:
    """Of one step of one model on all processes: forward, twice that backward, and what is computed again."""
    passes = 3 + (recipe.batch.accumulate(world) > 1) + recipe.recompute
    size = recipe.batch.size
    patch = model.patch[0] * model.patch[1] * model.patch[2]
    tokens = model.grid[0] * model.grid[1] * model.grid[2]
    embedding = 2.0 * size * tokens * patch * model.width
    both = stacks(model, size, size * len(model.anatomies))
    return passes * (sum(stack.forward_flops for stack in both) + embedding)


def activation_bytes(model: ModelConfig, recipe: RecipeConfig) -> float:
    """Of one micro-batch of one process, an estimate."""
    micro = recipe.batch.micro
    number = 2 if recipe.precision == "bfloat16" else 4
    window = model.image_shape[0] * model.image_shape[1] * model.image_shape[2]
    both = stacks(model, micro, micro * len(model.anatomies))
    return sum(stack.saved_bytes(number, recipe.recompute) for stack in both) + micro * window * (5.0 + number)


def counted_flops(work: Callable[[], Any]) -> float:
    """What PyTorch counts while some work is done, with what it computes on a CPU and does not count itself."""

    def product(x: Shape, weight: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001
        return 2 * math.prod(x) * weight[0]

    def attention(query: Shape, key: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001
        return 4 * math.prod(query) * key[-2]

    def attention_back(_: Shape, query: Shape, key: Shape, *__: Any, out_shape: Any = None, **___: Any) -> int:  # noqa: ARG001
        return 10 * math.prod(query) * key[-2]  # the scores once more, and two products for each of the two

    known = {
        torch.ops.mkldnn._linear_pointwise: product,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_back,
    }
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        work()
    return float(counter.get_total_flops())
