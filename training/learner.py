"""What is aligned on a schooled trunk: fVLM, or plain CLIP of the same size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import BertTokenizer

from fvlm.model import FVLM
from fvlm.tokenizer import tokenize
from training.features import FeatureSet
from training.objective import AnatomyPairs, anatomy_losses, clip_loss
from training.phantom_data import Patient, Progress
from training.pretrain import Trainee
from training.queries import joined
from training.standardise import Standardise

Method = Literal["fvlm", "clip"]

INITIAL_TEMPERATURE = 0.2
"""Softer than the paper's 0.07: with random features a sharp start first teaches to avoid each other."""


@dataclass(frozen=True)
class Pooled:
    """What the frozen trunk makes of N patients; A anatomies of width W."""

    whole: Tensor
    """[N, W]: mean of the final tokens."""
    anatomies: Tensor
    """[N, A, W]: what each anatomy's query gathered."""
    usable: Tensor
    """bool [N, A]: in the window and not cut by it."""
    patients: tuple[Patient, ...]


@torch.inference_mode()
def pool_set(model: FVLM, data: FeatureSet, progress: Progress, batch: int = 16) -> Pooled:
    """Let the queries gather once over a set."""
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, len(data.patients), batch):
        some = data.batch(range(first, min(first + batch, len(data.patients))))
        rows.append((some.whole, model.attention(model.query_tokens, *joined(model, some)), some.usable))
        progress(min(first + batch, len(data.patients)), len(data.patients))
    whole, anatomies, usable = (torch.cat(parts).clone() for parts in zip(*rows, strict=True))
    return Pooled(whole, anatomies, usable, data.patients)


class Learner(Trainee):
    """The encoders, the trunk frozen, and what alignment adds; `finish` leaves a model for inference."""

    def __init__(self, trunk: FVLM, tokenizer: BertTokenizer, pooled: Pooled, image_groups: int) -> None:
        super().__init__()
        self.model = FVLM(trunk.config)
        self.model.load_state_dict(trunk.state_dict())
        self.model.visual_encoder.requires_grad_(False)
        self.model.attention.requires_grad_(False)
        self.model.query_tokens.requires_grad_(False)
        with torch.no_grad():
            self.model.temp.fill_(INITIAL_TEMPERATURE)
        spread(self.model.text_encoder)
        self.tokenizer = tokenizer
        self.pooled = pooled
        self.standard_image = Standardise(image_groups, trunk.config.embedding)
        self.standard_text = Standardise(1, trunk.config.embedding)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """[N, E] of unit length, encoded in groups of like length so that little padding is computed."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        groups = [order[i : i + 32] for i in range(0, len(order), 32)]
        states = []
        for group in groups:
            tokens = tokenize(self.tokenizer, [texts[i] for i in group], self.model.config.text.max_tokens)
            states.append(self.model.text_encoder.first_token(*tokens))
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        projected = self.model.text_proj(torch.cat(states)[inverse])
        return F.normalize(self.standard_text(projected[:, None])[:, 0], dim=-1)

    def finish(self) -> None:
        """Fold the running statistics into the projections and switch to inference."""
        self.standard_text.fold_into(self.model.text_proj)
        super().finish()


class FVLMLearner(Learner):
    """Anatomy-wise contrast (paper section 3.2) with the normal-normal correction (section 3.3)."""

    def __init__(self, trunk: FVLM, tokenizer: BertTokenizer, pooled: Pooled) -> None:
        super().__init__(trunk, tokenizer, pooled, len(trunk.config.anatomies))

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:  # noqa: ARG002
        """The sum over anatomies."""
        self.model.clamp_temperature()
        states, usable = self.pooled.anatomies[list(chosen)], self.pooled.usable[list(chosen)]
        projected = torch.stack([proj(states[:, k]) for k, proj in enumerate(self.model.vision_projs)], 1)
        features = F.normalize(self.standard_image(projected), dim=-1)
        captions = [caption for index in chosen for caption in self.pooled.patients[index].captions]
        distinct = {text: i for i, text in enumerate(dict.fromkeys(caption.text for caption in captions))}
        number = torch.tensor([distinct[caption.text] for caption in captions]).view(usable.shape)
        normal = torch.tensor([caption.normal for caption in captions]).view(usable.shape)
        pairs = AnatomyPairs(features, self.texts(list(distinct))[number], usable, normal, number)
        return anatomy_losses(pairs, self.model.temp).total

    def finish(self) -> None:
        self.standard_image.fold_into(*self.model.vision_projs)
        super().finish()


class CLIPLearner(Learner):
    """Plain CLIP: mean of the final tokens against the whole report."""

    def __init__(self, trunk: FVLM, tokenizer: BertTokenizer, pooled: Pooled) -> None:
        super().__init__(trunk, tokenizer, pooled, 1)
        self.image_proj = nn.Linear(trunk.config.width, trunk.config.embedding)

    def image_features(self, whole: Tensor) -> Tensor:
        """Mean final token [B, W] -> [B, E] of unit length."""
        return F.normalize(self.standard_image(self.image_proj(whole)[:, None])[:, 0], dim=-1)

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:  # noqa: ARG002
        """Only a patient's own report is positive."""
        self.model.clamp_temperature()
        reports = [self.pooled.patients[index].report for index in chosen]
        return clip_loss(self.image_features(self.pooled.whole[list(chosen)]), self.texts(reports), self.model.temp)

    def finish(self) -> None:
        self.standard_image.fold_into(self.image_proj)
        super().finish()


def build(trunk: FVLM, tokenizer: BertTokenizer, pooled: Pooled, method: Method, seed: int) -> Learner:
    """A fresh learner on a trunk; the seed decides the initial weights."""
    torch.manual_seed(seed)
    return FVLMLearner(trunk, tokenizer, pooled) if method == "fvlm" else CLIPLearner(trunk, tokenizer, pooled)


def spread(text_encoder: nn.Module) -> None:
    """Initial weights in proportion to the width: BERT's own 0.02 suits 768, not 128."""
    for name, parameter in text_encoder.named_parameters():
        if "word_embeddings" in name:
            nn.init.normal_(parameter, std=1.0)
        elif "position_embeddings" in name:
            nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
