"""The text encoder: BERT without pooler and without token types, under the names of the authors' checkpoint.

Written out here because importing the library's BERT costs more time than all else that a worker loads.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.config import TextConfig
from fvlm.kernels import linear

_EPS = 1e-12
_DROPOUT = 0.1
_INITIAL_STD = 0.02


class TextEncoder(nn.Module):
    """Token ids in, the last state of the first token out (Devlin et al., NAACL 2019: post-norm blocks, exact GELU)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.depth))})
        self.apply(_initialise)

    def first_token(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask [N, T], padded at the end -> last state [N, W] of the first token ([CLS]).

        Columns that are padding in every row are cut off first: the same result (|difference| < 1e-5), faster.
        """
        used = int(attention_mask.sum(1).max())
        seen = attention_mask[:, None, None, :used].bool()
        x = self.embeddings(input_ids[:, :used])
        for layer in self.encoder["layer"].children():
            x = layer(x, seen)
        return x[:, 0]  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """Words and positions, summed and normed."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        words, positions = config.vocab_size, config.max_positions
        self.word_embeddings = nn.Embedding(words, config.width, 0, _weight=torch.empty(words, config.width))
        self.position_embeddings = nn.Embedding(positions, config.width, _weight=torch.empty(positions, config.width))
        self.LayerNorm = nn.LayerNorm(config.width, eps=_EPS)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[N, T] -> [N, T, W]."""
        x = self.word_embeddings(input_ids) + self.position_embeddings.weight[: input_ids.shape[1]]
        return F.dropout(self.LayerNorm(x), _DROPOUT, self.training)


class Layer(nn.Module):
    """One block: self-attention, then two Linear with a GELU between, each added to its input and normed."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.heads = config.heads
        projections = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(projections), "output": Joined(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = Joined(hidden, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[N, T, W], bool [N, 1, 1, T] that is False for padding -> [N, T, W]."""
        batch, length, width = x.shape
        query, key, value = (
            _dense(projection, x).view(batch, length, self.heads, -1).transpose(1, 2)
            for projection in self.attention["self"].children()
        )
        dropout = _DROPOUT if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, seen, dropout)
        x = self.attention["output"](mixed.transpose(1, 2).reshape(batch, length, width), x)
        return self.output(F.gelu(_dense(self.intermediate["dense"], x)), x)  # type: ignore[no-any-return]


class Joined(nn.Module):
    """A Linear whose output is added to what went in before, then normed."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """[N, T, I] and [N, T, W] -> [N, T, W]."""
        return self.LayerNorm(F.dropout(_dense(self.dense, x), _DROPOUT, self.training) + before)  # type: ignore[no-any-return]


def _dense(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return linear(x, layer.weight, layer.bias)


def _initialise(module: nn.Module) -> None:
    """BERT's initial weights; a padding token starts at zero and stays there."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return  # nothing to fill; drawing normal numbers there makes PyTorch import its compiler
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_INITIAL_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
