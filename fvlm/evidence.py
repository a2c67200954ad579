"""What a score looked at: how much of a finding's log-odds comes from each token (arXiv 2501.14548, 3.2 and 3.4).

A score is the log-odds (v . positive - v . negative) / temperature of the anatomy feature v = u / |u|, and u is linear
in the tokens once the attention weights are known. So the log-odds are a sum over tokens, without remainder: attention
weight times what the score would be if the query saw nothing but that token (with the same |u|). Levels lie on the same
grid and are summed. Cells are finer tokens: where a model has them the sum is on their grid, and what a token adds is
spread evenly over the anatomy's cells in it. What a token took in from its neighbours in the transformer is counted
where the token lies.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ct.volume import Grid
from fvlm.config import ModelConfig, ReleaseConfig, Triple
from fvlm.heat import Heat
from fvlm.model import FVLM
from fvlm.preprocess import Box


@dataclass(frozen=True)
class Evidence:
    """Of one anatomy of one scan; L finest tokens of the window, NaN where one holds nothing of the anatomy."""

    attention: Tensor
    """float32 [L]: the share of the attention, mean over heads; sums to 1."""
    contributions: Tensor
    """float32 [F, L]: what a token adds to the log-odds of each finding; sums to them."""


@dataclass(frozen=True)
class Level:
    """Tokens of one level of one scan."""

    tokens: Tensor
    """[L, W] (`FVLM.encode_tokens`)."""
    own: Tensor
    """bool [L], not all False: those of the anatomy (`FVLM.select`)."""


@torch.inference_mode()
def explain(model: FVLM, levels: list[Level], shape: Triple, anatomy: int, directions: Tensor) -> Evidence:
    """Split the scores of one anatomy of one scan.

    shape: finest tokens z, y, x of the window; anatomy: index into `config.anatomies`; directions [F, E]: positive
    minus negative text feature of each finding.
    """
    attention, projection = model.attention, cast(nn.Linear, model.vision_projs[anatomy])
    query = model.query_tokens[anatomy : anatomy + 1]
    states = torch.cat([level.tokens[level.own] for level in levels]).float()[None]
    width, seen = states.shape[-1], torch.ones(1, 1, states.shape[1], dtype=torch.bool, device=states.device)
    weights = attention.weights(query, states, seen)[0, 0]
    norm = torch.linalg.vector_norm(projection(attention(query, states, seen)))
    # From the anatomy feature back to the tokens: `along` [F, heads, W], and a `constant` [F, heads] from the biases.
    w_value = attention.in_proj_weight.view(3, attention.heads, -1, width)[2]
    b_value = attention.in_proj_bias.view(3, attention.heads, -1)[2]
    gathered = directions @ projection.weight
    value = (gathered @ attention.out_proj.weight).view(-1, *b_value.shape)
    along = torch.einsum("fhd,hdw->fhw", value, w_value)
    bias = directions @ projection.bias + gathered @ attention.out_proj.bias
    constant = torch.einsum("fhd,hd->fh", value, b_value) + bias[:, None] / attention.heads
    said = torch.einsum("sw,fhw->fhs", states[0], along) + constant[..., None]
    added = (weights * said).sum(1) / (norm * model.temp)
    parts = _gather(torch.cat([weights.mean(0)[None], added]), levels, model.config, shape)
    return Evidence(parts[0], parts[1:])


def _gather(values: Tensor, levels: list[Level], config: ModelConfig, shape: Triple) -> Tensor:
    """Values [N, S] of the anatomy's tokens of all levels in turn -> [N, L] on the finest grid `shape`."""
    finest = levels[0].own
    total = values.new_zeros(len(values), len(finest))
    z, y, x = (patch // size for patch, size in zip(config.patch, config.finest, strict=True))
    first = 0
    for level in levels:
        count = int(level.own.sum())
        on_level = values.new_zeros(len(values), len(level.own))
        on_level[:, level.own] = values[:, first : first + count]
        first += count
        if len(level.own) < len(finest):
            among = finest.view(shape[0] // z, z, shape[1] // y, y, shape[2] // x, x)
            even = among / among.sum((1, 3, 5), keepdim=True).clamp_min(1)
            spread = on_level.view(-1, shape[0] // z, 1, shape[1] // y, 1, shape[2] // x, 1) * even
            on_level = spread.reshape(len(values), -1)
        total += on_level
    return total.masked_fill(~finest, torch.nan)


def token_grid(scan: Grid, window: Box, config: ReleaseConfig) -> Grid:
    """Where the finest tokens of a window (`fvlm.preprocess`) lie; `scan` is the grid of the volume."""
    patch, spacing = config.model.finest, config.preprocess.spacing
    to_scan = np.eye(4)
    for axis in range(3):
        voxels = spacing[axis] / scan.spacing[axis]
        to_scan[axis, axis] = patch[axis] * voxels
        to_scan[axis, 3] = (window.start[axis] + patch[axis] / 2) * voxels - 0.5
    z, y, x = (size // p for size, p in zip(window.shape, patch, strict=True))
    dz, dy, dx = (p * step for p, step in zip(patch, spacing, strict=True))
    return Grid((z, y, x), (dz, dy, dx), scan.affine @ to_scan)


def as_heat(values: Tensor, grid: Grid) -> Heat:
    """Values [L] of a window's finest tokens (z slowest, then y, then x) as a heat map on their grid."""
    return Heat(values.view(grid.shape).cpu().numpy().astype(np.float16), grid)
