"""The text encoder: BERT without pooler and without token types, under the names of the authors' checkpoint.

Importing the library's BERT takes longer than all else that a reader loads: only what encodes a text imports this.
"""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from fvlm.config import TextConfig


class _NoTokenTypes(nn.Module):
    """The authors' BERT has no token types: stands for their table and adds zero."""

    def forward(self, token_type_ids: Tensor) -> Tensor:
        return torch.zeros((), device=token_type_ids.device)


class TextEncoder(BertModel):  # type: ignore[misc]
    """Its state dict has the names of the authors' text encoder."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(
            BertConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_ratio * config.width,
                max_position_embeddings=config.max_positions,
                attn_implementation="sdpa",
            ),
            add_pooling_layer=False,
        )
        self.embeddings.token_type_embeddings = _NoTokenTypes()

    def make_buffers(self, device: torch.device) -> None:
        """Fill the buffers that no checkpoint carries; needed after building on the meta device."""
        ids = torch.arange(self.config.max_position_embeddings, device=device)[None]
        self.embeddings.position_ids = ids
        self.embeddings.token_type_ids = torch.zeros_like(ids)

    def first_token(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask [N, T], padded at the end -> last state [N, W] of the first token ([CLS]).

        Columns that are padding in every row are cut off first: the same result (|difference| < 1e-5), faster.
        """
        used = int(attention_mask.sum(1).max())
        states = self(input_ids=input_ids[:, :used], attention_mask=attention_mask[:, :used])
        return cast(Tensor, states.last_hidden_state[:, 0])
