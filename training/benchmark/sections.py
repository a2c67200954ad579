"""The text encoder, taught once and then taken by all methods that have one: sentences of one report belong together.

The paper begins with CXR-BERT, which was taught to match the impression of a report with its findings. There is no
pretrained text encoder of this size, so it is made in the same way from the reports alone: no scan, no label is seen.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import BertTokenizer

from fvlm.config import ModelConfig
from fvlm.model import FVLM
from training.benchmark.patients import Case
from training.learner import spread
from training.objective import AnatomyPairs, anatomy_losses
from training.pretrain import Trainee
from training.pretraining.trainees import texts_features
from training.standardise import Standardise

_TEMPERATURE = 0.1


class SectionLesson(Trainee):
    """Which rest of a caption belongs to which first sentence, among all that is said of an anatomy."""

    def __init__(self, config: ModelConfig, tokenizer: BertTokenizer, cases: Sequence[Case]) -> None:
        super().__init__()
        self.model = FVLM(config)
        for part in (self.model.visual_encoder, self.model.attention, self.model.vision_projs):
            part.requires_grad_(False)
        self.model.query_tokens.requires_grad_(False)
        self.model.temp.requires_grad_(False)
        spread(self.model.text_encoder)
        self.standard = Standardise(1, config.embedding)
        self._tokenizer, self._cases = tokenizer, cases

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:  # noqa: ARG002
        """Contrast among what is said of the same anatomy; equal first sentences are no opposites."""
        captions = [text for index in chosen for text in self._cases[index].captions]
        parts = [text.partition(". ") for text in captions]
        texts = [half for first, _, rest in parts for half in (first + ".", rest or first)]
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        encoded = self.standard(texts_features(self.model, self._tokenizer, list(distinct))[:, None])[:, 0]
        shape = (len(chosen), -1)
        numbers = torch.tensor([distinct[text] for text in texts]).view(*shape, 2)
        first, rest = F.normalize(encoded, dim=-1)[numbers].unbind(2)
        two = torch.tensor([bool(rest) for *_, rest in parts]).view(shape)
        pairs = AnatomyPairs(first, rest, two, torch.zeros_like(two), numbers[..., 0])
        return anatomy_losses(pairs, torch.tensor(_TEMPERATURE)).total
