"""`FVLM`: anatomy-wise image features and text features in one space (arXiv 2501.14548, section 3)."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.config import ModelConfig, Triple
from fvlm.encoders import VisionEncoder

if TYPE_CHECKING:
    from fvlm.release import Release

TEMPERATURE = (0.001, 0.5)
"""Least and greatest temperature; the reference clamps before each training step."""


class AnatomyAttention(nn.Module):
    """One learned query an anatomy looks at the tokens of that anatomy; parameters as in `nn.MultiheadAttention`.

    The queries do not depend on the image, so each is carried through the key projection instead of every token
    (the key bias shifts a query's scores alike and leaves the softmax), and tokens are averaged before the value
    projection. That is the same function with about 1/100 of the multiplications.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def weights(self, queries: Tensor, tokens: Tensor, selected: Tensor) -> Tensor:
        """How much each query looks at each token: arguments as in `forward` -> [B, A, heads, S], sums over S are 1."""
        batch, length, width = tokens.shape
        per_head = width // self.heads
        w_query, w_key, _ = self.in_proj_weight.view(3, self.heads, per_head, width)
        b_query = self.in_proj_bias.view(3, self.heads, per_head)[0]
        query = torch.einsum("aw,hdw->ahd", queries, w_query) + b_query
        probe = torch.einsum("ahd,hdw->ahw", query, w_key) * per_head**-0.5
        scores = (tokens @ probe.flatten(0, 1).T).view(batch, length, -1, self.heads).permute(0, 2, 3, 1)
        return scores.masked_fill(~selected[:, :, None], torch.finfo(scores.dtype).min).softmax(-1)  # type: ignore[no-any-return]

    def forward(self, queries: Tensor, tokens: Tensor, selected: Tensor) -> Tensor:
        """Queries [A, W], tokens [B, S, W], selected bool [B, A, S] (a row without True gives any finite value).

        Returns [B, A, W].
        """
        batch, _, width = tokens.shape
        w_value = self.in_proj_weight.view(3, self.heads, -1, width)[2]
        b_value = self.in_proj_bias.view(3, self.heads, -1)[2]
        weights = F.dropout(self.weights(queries, tokens, selected), self.dropout, self.training)
        pooled = (weights.flatten(1, 2) @ tokens).view(batch, -1, self.heads, width)
        value = torch.einsum("bahw,hdw->bahd", pooled, w_value) + weights.sum(-1, keepdim=True) * b_value
        return self.out_proj(value.flatten(2))  # type: ignore[no-any-return]


def tokens_of_anatomies(labels: Tensor, patch: Triple, anatomies: int) -> Tensor:
    """Which tokens hold a voxel of which anatomy: labels uint8 [B, D, H, W] -> bool [B, A, L].

    Any voxel selects its token. Labels above `anatomies` (at most 62) count as background.
    """
    batch, depth, height, width = labels.shape
    pz, py, px = patch
    number = torch.int16 if anatomies < 15 else torch.int32 if anatomies < 31 else torch.int64
    sets = (1 << (labels * (labels <= anatomies)).to(number)) >> 1
    sets = _or(sets.view(batch, depth // pz, pz, height * width), 2)
    sets = _or(sets.view(batch, depth // pz, height // py, py, width), 3)
    sets = _or(sets.view(batch, -1, width // px, px), 3).flatten(1)
    bit = 1 << torch.arange(anatomies, device=labels.device).to(number)
    return (sets[:, None] & bit[:, None]) != 0


def _or(sets: Tensor, axis: int) -> Tensor:
    """Bitwise or over an axis, by halves."""
    while (size := sets.shape[axis]) > 1:
        half = size // 2
        merged = sets.narrow(axis, 0, half) | sets.narrow(axis, half, half)
        sets = torch.cat([merged, sets.narrow(axis, size - 1, 1)], axis) if size % 2 else merged
    return sets.squeeze(axis)


class FVLM(nn.Module):
    """The fine-grained vision-language model. Parameter names are those of the public checkpoint.

    `release` is set on a model that `load_release` returned.
    """

    release: "Release | None" = None

    def __init__(self, config: ModelConfig, text: bool = True) -> None:
        """`text` False leaves the text encoder out: for who reads images against text features that are there."""
        super().__init__()
        self.config = config
        anatomies = len(config.anatomies)
        self.visual_encoder = VisionEncoder(config)
        if text:
            from fvlm.text_encoder import TextEncoder

            self.text_encoder = TextEncoder(config.text)
        self.query_tokens = nn.Parameter(torch.zeros(anatomies, config.width))
        self.attention = AnatomyAttention(config.width, config.attention_heads, config.dropout)
        self.vision_projs = nn.ModuleList(nn.Linear(config.width, config.embedding) for _ in range(anatomies))
        self.text_proj = nn.Linear(config.text.width, config.embedding)
        self.temp = nn.Parameter(torch.tensor(0.07))

    @property
    def has_text_encoder(self) -> bool:
        return "text_encoder" in self._modules

    def encode_tokens(self, image: Tensor, wanted: Tensor | None = None) -> list[Tensor]:
        """Image [B, 1, D, H, W] in [0, 1] -> tokens [B, L, W] of each level, the final normed ones last.

        A model with cells has them as its first level, on a finer grid than the others. `wanted` bool [B, L]: tokens
        whose last level is needed (default: all); of the others it may be anything finite. Raises ValueError if D, H,
        W are no multiples of the patch.
        """
        return self.visual_encoder(image, wanted)  # type: ignore[no-any-return]

    @property
    def levels(self) -> int:
        """How many levels of tokens `encode_tokens` gives."""
        return len(self.config.levels) + 1 + (self.config.cells is not None)

    def pool_anatomies(self, tokens: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of `encode_tokens` and labels [B, D, H, W] -> features [B, A, E], present bool [B, A]."""
        return self.pool_tokens(tokens, self.select(labels, len(tokens)))

    def select(self, labels: Tensor, levels: int) -> list[Tensor]:
        """Which tokens of each of the levels of `encode_tokens` hold a voxel of which anatomy.

        Labels [B, D, H, W] -> bool [B, A, L] for each level.
        """
        anatomies = len(self.config.anatomies)
        coarse = tokens_of_anatomies(labels, self.config.patch, anatomies)
        if self.config.cells is None:
            return [coarse] * levels
        return [tokens_of_anatomies(labels, self.config.cells.size, anatomies), *[coarse] * (levels - 1)]

    def pool_tokens(self, tokens: list[Tensor], selected: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As `pool_anatomies`, with the tokens of each anatomy (`select`)."""
        present = selected[-1].any(-1)
        pooled = self.attention(self.query_tokens, torch.cat(tokens, 1), torch.cat(selected, -1))
        weight = torch.stack([proj.weight for proj in self.vision_projs])  # type: ignore[misc]
        bias = torch.stack([proj.bias for proj in self.vision_projs])  # type: ignore[misc]
        features = F.normalize((torch.einsum("baw,aew->bae", pooled, weight) + bias).float(), dim=-1)
        return features * present[..., None], present

    def anatomy_features(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What each anatomy looks like.

        image float [B, 1, D, H, W] in [0, 1]; labels uint8 [B, D, H, W], label i + 1 is `config.anatomies[i]`.
        Returns features float32 [B, A, E] of unit length and present bool [B, A]; an anatomy that is not present
        has a feature of zeros. Raises ValueError on shapes that differ or are no multiples of the patch.
        """
        if image.ndim != 5 or image.shape[1] != 1 or labels.shape != image.shape[:1] + image.shape[2:]:
            raise ValueError(
                f"image {tuple(image.shape)} and labels {tuple(labels.shape)} must be [B, 1, D, H, W] and [B, D, H, W]"
            )
        selected = self.select(labels, self.levels)
        return self.pool_tokens(self.encode_tokens(image, selected[-1].any(1)), selected)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and attention mask int64 [N, T], padded at the end -> float32 [N, E] of unit length."""
        state = self.text_encoder.first_token(input_ids, attention_mask)
        return F.normalize(self.text_proj(state).float(), dim=-1)

    def probabilities(self, features: Tensor, negative: Tensor, positive: Tensor) -> Tensor:
        """Zero-shot probability: features [..., E] against prompt features [..., E] -> [...] (section 3.4)."""
        scores = torch.stack([(features * negative).sum(-1), (features * positive).sum(-1)], -1)
        return (scores / self.temp).softmax(-1)[..., 1]

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Bring the temperature back into `TEMPERATURE`; training calls it before every step."""
        self.temp.clamp_(*TEMPERATURE)
