"""What is trained: the fVLM, or plain CLIP of the same size, with its batch of pairs turned into a loss."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import BertTokenizer

from fvlm.config import ModelConfig
from fvlm.model import FVLM, tokens_of_anatomies
from fvlm.tokenizer import tokenize
from training.objective import AnatomyPairs, anatomy_losses, clip_loss
from training.phantom_data import Patient, touches_border
from training.standardise import Standardise

Method = Literal["fvlm", "clip"]


class Learner(nn.Module):
    """The encoders and what training adds to them; `finish` leaves a model for inference."""

    def __init__(self, config: ModelConfig, tokenizer: BertTokenizer, image_groups: int) -> None:
        super().__init__()
        self.model = FVLM(config)
        _spread(self.model)
        self.tokenizer = tokenizer
        self.standard_image = Standardise(image_groups, config.embedding)
        self.standard_text = Standardise(1, config.embedding)

    def loss(self, image: Tensor, labels: Tensor, patients: Sequence[Patient]) -> Tensor:
        """Image [B, 1, D, H, W] in [0, 1], labels uint8 [B, D, H, W] and the patients -> a scalar."""
        raise NotImplementedError

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
        self.eval()


class FVLMLearner(Learner):
    """Anatomy-wise contrast (paper section 3.2) with the normal-normal correction (section 3.3)."""

    def __init__(self, config: ModelConfig, tokenizer: BertTokenizer) -> None:
        super().__init__(config, tokenizer, len(config.anatomies))

    def loss(self, image: Tensor, labels: Tensor, patients: Sequence[Patient]) -> Tensor:
        """The sum over anatomies; see `Learner.loss`."""
        features, present = self._anatomies(image, labels)
        captions = [caption for patient in patients for caption in patient.captions]
        distinct = {text: i for i, text in enumerate(dict.fromkeys(caption.text for caption in captions))}
        number = torch.tensor([distinct[caption.text] for caption in captions]).view(present.shape)
        normal = torch.tensor([caption.normal for caption in captions]).view(present.shape)
        usable = present & ~touches_border(labels, present.shape[1])
        pairs = AnatomyPairs(features, self.texts(list(distinct))[number], usable, normal, number)
        losses = anatomy_losses(pairs, self.model.temp)
        return torch.stack([*losses.values(), 0.0 * features.sum()]).sum()

    def finish(self) -> None:
        self.standard_image.fold_into(*self.model.vision_projs)
        super().finish()

    def _anatomies(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `FVLM.anatomy_features`, with the projections standardised over the batch."""
        config, model = self.model.config, self.model
        tokens = model.encode_tokens(image)
        selected = tokens_of_anatomies(labels, config.patch, len(config.anatomies))
        pooled = model.attention(model.query_tokens, torch.cat(tokens, 1), selected.repeat(1, 1, len(tokens)))
        projected = torch.stack([proj(pooled[:, k]) for k, proj in enumerate(model.vision_projs)], 1)
        return F.normalize(self.standard_image(projected), dim=-1), selected.any(-1)


class CLIPLearner(Learner):
    """Plain CLIP: mean of the final tokens against the whole report."""

    def __init__(self, config: ModelConfig, tokenizer: BertTokenizer) -> None:
        super().__init__(config, tokenizer, 1)
        self.image_proj = nn.Linear(config.width, config.embedding)

    def image_features(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] -> [B, E] of unit length."""
        projected = self.image_proj(self.model.encode_tokens(image)[-1].mean(1))
        return F.normalize(self.standard_image(projected[:, None])[:, 0], dim=-1)

    def loss(self, image: Tensor, labels: Tensor, patients: Sequence[Patient]) -> Tensor:  # noqa: ARG002
        """Only a patient's own report is positive; see `Learner.loss`."""
        return clip_loss(self.image_features(image), self.texts([p.report for p in patients]), self.model.temp)

    def finish(self) -> None:
        self.standard_image.fold_into(self.image_proj)
        super().finish()


def build(config: ModelConfig, tokenizer: BertTokenizer, method: Method, seed: int) -> Learner:
    """A fresh learner; the seed decides the initial weights."""
    torch.manual_seed(seed)
    return FVLMLearner(config, tokenizer) if method == "fvlm" else CLIPLearner(config, tokenizer)


def _spread(model: FVLM) -> None:
    """Initial weights in proportion to the width: BERT's own 0.02 suits 768, not 128."""
    nn.init.normal_(model.query_tokens, std=0.02)
    for name, parameter in model.text_encoder.named_parameters():
        if "word_embeddings" in name:
            nn.init.normal_(parameter, std=1.0)
        elif "position_embeddings" in name:
            nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
