"""The naive way to train, the peer of `train_step.py`: loops over organs and patients, every caption padded.

Written from the description of the public code: attention is two multiplications with a softmax between, in the text
encoder too; an organ's tokens are selected by max-pooling its mask and go through multi-head attention patient by
patient; the captions of an organ are padded to the longest text there may be and encoded organ by organ, also those
that are equal. It computes with the parameters of an `FVLM`, so that both ways leave their gradients in one place.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BertTokenizer

from fvlm.model import FVLM
from fvlm.text_encoder import TextEncoder
from training.pretraining.batches import Batch


class NaiveLoss:
    """The loss of a batch."""

    def __init__(self, model: FVLM, tokenizer: BertTokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        with torch.device("meta"):
            self._text = TextEncoder(model.config.text).train()
        self._text.make_buffers(model.temp.device)
        self._text.config._attn_implementation = "eager"
        for part in self._text.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0

    def __call__(self, batch: Batch) -> Tensor:
        levels = self.tokens(batch.image)
        total = batch.image.new_zeros(())
        for organ in range(len(self._model.config.anatomies)):
            mask = F.max_pool3d((batch.labels == organ + 1).float()[:, None], self._model.config.patch).flatten(1) > 0
            image, captions, normal = [], [], []
            for patient in range(len(batch)):
                if batch.usable[patient, organ] and mask[patient].any():
                    image.append(self._organ([level[patient] for level in levels], mask[patient], organ))
                    captions.append(batch.captions[patient][organ])
                    normal.append(bool(batch.normal[patient, organ]))
            if len(image) > 1 and not all(normal):
                total = total + self._contrast(torch.stack(image), self.texts(captions), captions, normal)
        return total

    def tokens(self, image: Tensor) -> list[Tensor]:
        """[B, 1, D, H, W] -> tokens [B, L, W] of each level."""
        encoder, config = self._model.visual_encoder, self._model.config
        patches = encoder.patch_embedding.patch_embeddings
        embedded = F.conv3d(image, patches.weight, patches.bias, stride=config.patch).flatten(2).transpose(1, 2)
        x, levels = embedded + encoder.patch_embedding.position_embeddings, []
        for index, block in enumerate(encoder.blocks):
            batch, length, width = x.shape
            qkv = block.attn.qkv(block.norm1(x)).reshape(batch, length, 3, config.heads, -1).permute(2, 0, 3, 1, 4)
            scores = (qkv[0] @ qkv[1].transpose(-2, -1)) * qkv[0].shape[-1] ** -0.5
            mixed = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(batch, length, width)
            x = x + block.attn.out_proj(mixed)
            x = x + block.mlp.linear2(F.gelu(block.mlp.linear1(block.norm2(x))))
            if index in config.levels:
                levels.append(x)
        return [*levels, encoder.norm(x)]

    def _organ(self, levels: Sequence[Tensor], chosen: Tensor, organ: int) -> Tensor:
        """Feature [E] of one organ of one patient."""
        model, keys = self._model, torch.cat([level[chosen] for level in levels])[:, None]
        attention = model.attention
        pooled, _ = F.multi_head_attention_forward(
            model.query_tokens[organ][None, None],
            keys,
            keys,
            keys.shape[-1],
            attention.heads,
            attention.in_proj_weight,
            attention.in_proj_bias,
            None,
            None,
            False,
            0.0,
            attention.out_proj.weight,
            attention.out_proj.bias,
        )
        return F.normalize(model.vision_projs[organ](pooled[0, 0]), dim=-1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """[N, E]."""
        longest = self._model.config.text.max_tokens
        tokens = self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._model.temp.device)
        weights = dict(self._model.text_encoder.named_parameters())
        states = functional_call(self._text, weights, kwargs=dict(tokens))
        return F.normalize(self._model.text_proj(states.last_hidden_state[:, 0]), dim=-1)

    def _contrast(self, image: Tensor, text: Tensor, captions: Sequence[str], normal: Sequence[bool]) -> Tensor:
        """Both directions of one organ's contrast with the reference's targets."""
        targets = torch.tensor(
            [
                [float(i == j or (normal[i] and normal[j]) or captions[i] == captions[j]) for j in range(len(captions))]
                for i in range(len(captions))
            ],
            device=image.device,
        )
        if bool((targets > 0).all()):
            return image.new_zeros(())
        targets = targets / targets.sum(1, keepdim=True)
        scores = image @ text.T / self._model.temp
        there = -(targets * scores.log_softmax(1)).sum(1).mean()
        back = -(targets * scores.T.log_softmax(1)).sum(1).mean()
        return (there + back) / 2
