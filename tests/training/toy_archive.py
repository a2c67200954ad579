"""An archive of invented studies in memory, small enough that a step takes milliseconds."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import BertTokenizer

from fvlm.config import ModelConfig, TextConfig
from training.pretraining.batches import Batch
from training.vocabulary_text import build_tokenizer

SIDE = 16
SHAPE = (SIDE, SIDE, SIDE)


class ToyArchive:
    """Two anatomies; a bright spot in the first is its disease. In every fifth study, the second is cut off."""

    anatomies: tuple[str, ...] = ("lung", "heart")
    findings: tuple[str, ...] = ("lung.nodule", "heart.cardiomegaly")

    def __init__(self, studies: int = 24) -> None:
        self._studies = studies

    def __len__(self) -> int:
        return self._studies

    def batch(self, chosen: Sequence[int], draw: tuple[int, int]) -> Batch:
        images, usable, captions, normal, findings = [], [], [], [], []
        labels = np.zeros((len(chosen), *SHAPE), dtype=np.uint8)
        labels[:, 2:7, 2:14, 2:14], labels[:, 9:14, 2:14, 2:14] = 1, 2
        for index in chosen:
            generator = np.random.default_rng((*draw, index))
            image = generator.random(SHAPE, dtype=np.float32) * 0.3
            ill = index % 2 == 0
            if ill:
                at = int(generator.integers(2, 6))
                image[2:7, at : at + 8, 3:13] = 1.0
            images.append(image[None])
            usable.append((True, index % 5 != 0))
            captions.append((f"Nodule of {index % 4 + 5} mm." if ill else "No nodule.", "Normal heart."))
            normal.append((not ill, True))
            findings.append((float(ill), float("nan") if index % 3 == 0 else 0.0))
        return Batch(
            image=torch.from_numpy(np.stack(images)),
            labels=torch.from_numpy(labels),
            captions=tuple(captions),
            reports=tuple(" ".join(row) for row in captions),
            normal=torch.tensor(normal),
            usable=torch.tensor(usable),
            findings=torch.tensor(findings),
        )

    def tokenizer(self) -> BertTokenizer:
        batch = self.batch(range(self._studies), (0, 0))
        return build_tokenizer(text for row in batch.captions for text in row)


def toy_model(vocabulary: int, dropout: float = 0.0) -> ModelConfig:
    return ModelConfig(
        anatomies=ToyArchive.anatomies,
        image_shape=SHAPE,
        patch=(4, 4, 4),
        width=32,
        depth=2,
        heads=2,
        levels=(0,),
        attention_heads=2,
        embedding=16,
        dropout=dropout,
        text=TextConfig(vocab_size=vocabulary, width=32, depth=1, heads=2, max_positions=32, max_tokens=32),
    )


def without_text_dropout(module: nn.Module) -> None:
    """BERT's own, which the model's configuration does not reach."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
