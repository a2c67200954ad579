"""The image encoder: a 3-D vision transformer with multi-level tokens."""

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.cells import Cells
from fvlm.config import ModelConfig, Triple
from fvlm.kernels import attention, linear, linear_gelu

_GROUP = 256
"""Tokens of which the last block is asked at once: always as many, so that no token's bits depend on the others."""


class SelfAttention(nn.Module):
    """Multi-head self-attention, one biased Linear for q|k|v, each head-major."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, W] -> [B, L, W]."""
        batch, length, _ = x.shape
        qkv = linear(x, self.qkv.weight, self.qkv.bias)
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self._mix(q, k, v)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, W] -> two of [B, H, L, D]."""
        batch, length, width = x.shape
        both = linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        key, value = both.view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return key, value

    def ask(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What `forward` gives for some of the tokens, [B, N, W], with the keys and values of all of them."""
        batch, length, width = x.shape
        query = linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        return self._mix(query.view(batch, length, self.heads, -1).transpose(1, 2), key, value)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, H, N, D] and twice [B, H, L, D] -> [B, N, W]."""
        mixed = attention(query, key, value, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2)
        out = linear(mixed, self.out_proj.weight, self.out_proj.bias)
        return F.dropout(out, self.dropout, self.training)


class Mlp(nn.Module):
    """Two Linear with an exact GELU between."""

    def __init__(self, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear1 = nn.Linear(width, ratio * width)
        self.linear2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        hidden = linear_gelu(x, self.linear1.weight, self.linear1.bias)
        hidden = F.dropout(hidden, self.dropout, self.training)
        return F.dropout(linear(hidden, self.linear2.weight, self.linear2.bias), self.dropout, self.training)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = SelfAttention(config.width, config.heads, config.dropout)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp_ratio, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, W] -> [B, L, W]."""
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))

    def only(self, x: Tensor, wanted: Tensor) -> Tensor:
        """`forward` for the tokens that are wanted, bool [B, L]; the others are 0.

        A token's result is the same to the bit whatever else is wanted.
        """
        out = torch.zeros_like(x)
        for sample, asked in enumerate(wanted):
            normed = self.norm1(x[sample : sample + 1])
            key, value = self.attn.keys_and_values(normed)
            for group in asked.nonzero()[:, 0].split(_GROUP):
                rows = F.pad(group, (0, _GROUP - len(group)))  # with the first token, as often as needed
                own = x[sample : sample + 1, rows] + self.attn.ask(normed[:, rows], key, value)
                own = own + self.mlp(self.norm2(own))
                out[sample, group] = own[0, : len(group)]
        return out

    def chosen(self, x: Tensor, wanted: Tensor) -> Tensor:
        """As `only`, with a gradient: all samples at once, as many tokens of each as the one with most needs."""
        most = int(wanted.sum(1).max().clamp(min=1))
        rows = wanted.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        at = rows[..., None].expand(-1, -1, x.shape[-1])
        normed = self.norm1(x)
        key, value = self.attn.keys_and_values(normed)
        own = x.gather(1, at) + self.attn.ask(normed.gather(1, at), key, value)
        own = own + self.mlp(self.norm2(own))
        return torch.zeros_like(x).scatter(1, at, own.to(x.dtype))


class PatchEmbedding(nn.Module):
    """Image -> tokens with learned positions; token order z slowest, then y, then x."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.grid = config.grid
        self.dropout = config.dropout
        stages: list[nn.Module] = []
        channels = 1
        for out, stride in config.stages:
            groups = next(n for n in (8, 4, 2, 1) if out % n == 0)
            stages += [nn.Conv3d(channels, out, 3, stride, 1), nn.GroupNorm(groups, out), nn.GELU()]
            channels = out
        self.stem = nn.Sequential(*stages)
        z, y, x = (patch // stride for patch, stride in zip(config.patch, config.stem_stride, strict=True))
        self.patch_embeddings = nn.Conv3d(channels, config.width, (z, y, x), (z, y, x))
        tokens = self.grid[0] * self.grid[1] * self.grid[2]
        self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, config.width))
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)

    def token_grid(self, shape: torch.Size) -> Triple:
        """Tokens z, y, x of an image [..., D, H, W]; ValueError if it is not a multiple of the patch."""
        if any(size % patch or not size for size, patch in zip(shape[-3:], self.patch, strict=True)):
            raise ValueError(f"image {tuple(shape[-3:])} is not a multiple of the patch {self.patch}")
        z, y, x = (size // patch for size, patch in zip(shape[-3:], self.patch, strict=True))
        return z, y, x

    def positions(self, grid: Triple) -> Tensor:
        """[1, L, W] for a token grid: the learned table, resized trilinearly where the grid is another one."""
        table = self.position_embeddings
        if grid == self.grid:
            return table
        volume = table.transpose(1, 2).reshape(1, -1, *self.grid)
        resized = F.interpolate(volume, size=grid, mode="trilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] in [0, 1] -> [B, L, W]."""
        grid = self.token_grid(image.shape)
        x = self._embed(self.stem(image), grid)
        return F.dropout(x + self.positions(grid), self.dropout, self.training)

    def _embed(self, x: Tensor, grid: Triple) -> Tensor:
        """The convolution as one multiplication, for its patches do not overlap: [B, C, D, H, W] -> [B, L, W]."""
        batch, channels = x.shape[:2]
        (z, y, x_), (pz, py, px) = grid, self.patch_embeddings.kernel_size
        patches = x.view(batch, channels, z, pz, y, py, x_, px).permute(0, 2, 4, 6, 1, 3, 5, 7)
        patches = patches.reshape(batch, z * y * x_, channels * pz * py * px)
        return linear(patches, self.patch_embeddings.weight.flatten(1), self.patch_embeddings.bias)


class VisionEncoder(nn.Module):
    """ViT without class token that also returns the raw tokens of inner blocks, and cells where there are any."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.levels = frozenset(config.levels)
        self.patch_embedding = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.cells = None if config.cells is None else Cells(config.cells, config.width)

    def forward(self, image: Tensor, wanted: Tensor | None = None) -> list[Tensor]:
        """[B, 1, D, H, W] in [0, 1] -> tokens [B, L, W] of each level.

        First the cells, if there are any; then the raw tokens of inner blocks, then the last block's, normed. `wanted`
        bool [B, L]: tokens whose last level is needed; of the others it may be anything finite.
        """
        fine = [] if self.cells is None else [self.cells(image)]
        return [*fine, *self.transform(image, wanted)]

    def transform(self, image: Tensor, wanted: Tensor | None = None) -> list[Tensor]:
        """As `forward`, without cells."""
        x = self.patch_embedding(image)
        tokens = []
        for index, block in enumerate(self.blocks):
            last = index == len(self.blocks) - 1
            if last and wanted is not None and self.training and index not in self.levels:
                x = cast(Block, block).chosen(x, wanted)
            elif last and wanted is not None and self._is_worth_choosing(x):
                x = cast(Block, block).only(x, wanted)
            else:
                x = block(x)
            if index in self.levels:
                tokens.append(x)
        tokens.append(self.norm(x))
        return tokens

    def _is_worth_choosing(self, x: Tensor) -> bool:
        """On a CPU; a GPU would wait longer for the count than it computes. The last block is no raw level as well."""
        chosen = x.device.type == "cpu" and x.shape[1] > _GROUP and len(self.blocks) - 1 not in self.levels
        return chosen and not self.training and not torch.compiler.is_compiling()
