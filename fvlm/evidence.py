"""What a score looked at: how much of a finding's log-odds comes from each token (arXiv 2501.14548, 3.2 and 3.4).

A score is the log-odds (v . positive - v . negative) / temperature of the anatomy feature v = u / |u|, and u is linear
in the tokens once the attention weights are known. So the log-odds are a sum over tokens, without remainder: attention
weight times what the score would be if the query saw nothing but that token (with the same |u|). Levels lie on the same
grid and are summed. What a token took in from its neighbours in the transformer is counted where the token lies.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ct.volume import Grid
from fvlm.config import ReleaseConfig
from fvlm.heat import Heat
from fvlm.model import FVLM
from fvlm.preprocess import Box


@dataclass(frozen=True)
class Evidence:
    """Of one anatomy of one scan; L tokens of the window, NaN where a token holds nothing of the anatomy."""

    attention: Tensor
    """float32 [L]: the share of the attention, mean over heads; sums to 1."""
    contributions: Tensor
    """float32 [F, L]: what a token adds to the log-odds of each finding; sums to them."""


@torch.inference_mode()
def explain(model: FVLM, tokens: list[Tensor], selected: Tensor, anatomy: int, directions: Tensor) -> Evidence:
    """Split the scores of one anatomy of one scan.

    tokens [L, W] of each level (`FVLM.encode_tokens`); selected bool [L], not all False: those of the anatomy
    (`tokens_of_anatomies`); anatomy: index into `config.anatomies`; directions [F, E]: positive minus negative text
    feature of each finding.
    """
    attention, projection = model.attention, cast(nn.Linear, model.vision_projs[anatomy])
    query = model.query_tokens[anatomy : anatomy + 1]
    own = torch.stack([level[selected] for level in tokens]).float()
    levels, count, width = own.shape
    states, seen = own.view(1, -1, width), selected.new_ones(1, 1, levels * count)
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
    attended = torch.full_like(selected, torch.nan, dtype=torch.float32)
    attended[selected] = weights.mean(0).view(levels, count).sum(0)
    contributions = attended.repeat(len(directions), 1)
    contributions[:, selected] = added.view(-1, levels, count).sum(1)
    return Evidence(attended, contributions)


def token_grid(scan: Grid, window: Box, config: ReleaseConfig) -> Grid:
    """Where the tokens of a window lie: `scan` is the grid of the volume, the window that of `fvlm.preprocess`."""
    patch, spacing = config.model.patch, config.preprocess.spacing
    to_scan = np.eye(4)
    for axis in range(3):
        voxels = spacing[axis] / scan.spacing[axis]
        to_scan[axis, axis] = patch[axis] * voxels
        to_scan[axis, 3] = (window.start[axis] + patch[axis] / 2) * voxels - 0.5
    z, y, x = (size // p for size, p in zip(window.shape, patch, strict=True))
    dz, dy, dx = (p * step for p, step in zip(patch, spacing, strict=True))
    return Grid((z, y, x), (dz, dy, dx), scan.affine @ to_scan)


def as_heat(values: Tensor, grid: Grid) -> Heat:
    """Values [L] of a window's tokens (z slowest, then y, then x) as a heat map on their grid."""
    return Heat(values.view(grid.shape).cpu().numpy().astype(np.float16), grid)
