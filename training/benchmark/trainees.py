"""The small models in training: the trainer's own trainees on encoded scans, their projections standardised.

All have the same parts. What differs is who is asked (each anatomy, or the scan as a whole) and what the answer is
compared with (the anatomy's sentences, the whole report, or labels).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import BertTokenizer

from fvlm.config import ModelConfig
from fvlm.model import FVLM
from training.benchmark.encode import EncodedBatch
from training.learner import INITIAL_TEMPERATURE
from training.pretraining.batches import Batch
from training.pretraining.config import PLAIN, CorrectionConfig
from training.pretraining.trainees import (
    ClipTrainee,
    Features,
    FVLMTrainee,
    SupervisedTrainee,
    caption_number,
    texts_features,
    texts_of_pairs,
)
from training.standardise import Standardise

State = Mapping[str, Tensor]
"""Weights by their names in `FVLM`."""


class AnatomyStudent(FVLMTrainee):
    """fVLM: each anatomy against what the report says of it."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: BertTokenizer,
        texts: State,
        correction: CorrectionConfig,
        findings: Sequence[str],
    ) -> None:
        super().__init__(config, tokenizer, correction, findings)
        _begin(self.model, texts)
        self.standard_image = Standardise(len(config.anatomies), config.embedding)
        self.standard_text = Standardise(1, config.embedding)

    def forward(self, batch: Batch) -> Features:
        """Image and text [B, A, E] of unit length."""
        usable = batch.usable
        features = Features(
            {"image": self.image(batch), "text": texts_of_pairs(self.model, self.tokenizer, batch.captions, usable)},
            {"usable": usable, "normal": batch.normal, "caption": _numbers(batch)},
        )
        text = features.learned["text"]
        standard = F.normalize(self.standard_text(text[usable][:, None])[:, 0], dim=-1)
        features.learned["text"] = torch.zeros_like(text).masked_scatter(usable[..., None], standard)
        if self.correction.abnormal == "jaccard":
            features.known["findings"] = batch.findings
        return features

    def image(self, batch: Batch) -> Tensor:
        """[B, A, E] of unit length."""
        states = gathered(self.model, batch, whole=False)
        projected = torch.stack([proj(states[:, k]) for k, proj in enumerate(self.model.vision_projs)], 1)
        return F.normalize(self.standard_image(projected), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """[N, E] of unit length."""
        return F.normalize(self.standard_text(texts_features(self.model, self.tokenizer, texts)[:, None])[:, 0], dim=-1)


class ScanStudent(ClipTrainee):
    """Plain CLIP: one query at the whole scan, against the whole report."""

    def __init__(self, config: ModelConfig, tokenizer: BertTokenizer, texts: State) -> None:
        """`config` has one anatomy, the scan."""
        super().__init__(config, tokenizer)
        self.model.requires_grad_(True)
        _begin(self.model, texts)
        self.model.vision_projs.requires_grad_(False)
        self.standard_image = Standardise(1, config.embedding)
        self.standard_text = Standardise(1, config.embedding)

    def forward(self, batch: Batch) -> Features:
        """Image and text [B, E] of unit length."""
        return Features({"image": self.image(batch), "text": self.texts(batch.reports)}, {})

    def image(self, batch: Batch) -> Tensor:
        """[B, E] of unit length."""
        projected = self.image_proj(gathered(self.model, batch, whole=True))
        return F.normalize(self.standard_image(projected)[:, 0], dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """[N, E] of unit length."""
        return F.normalize(self.standard_text(texts_features(self.model, self.tokenizer, texts)[:, None])[:, 0], dim=-1)


class LabelStudent(SupervisedTrainee):
    """The supervised baseline: each anatomy against the findings that the report decides."""

    def __init__(self, config: ModelConfig, findings: Sequence[str], whole: bool = False) -> None:
        """`whole`: every anatomy's query looks at the whole scan."""
        super().__init__(config, findings)
        _begin(self.model, {})
        self._whole = whole
        self.standard = Standardise(len(config.anatomies), config.width)
        nn.init.constant_(self.bias, -2.5)

    def forward(self, batch: Batch) -> Features:
        """Logits [B, F]."""
        known = {"truth": batch.findings, "usable": batch.usable[:, self.anatomy]}
        return Features({"logits": self.logits(batch)}, known)

    def logits(self, batch: Batch) -> Tensor:
        """[B, F]."""
        states: Tensor = self.standard(gathered(self.model, batch, self._whole))
        return (states[:, self.anatomy] * self.weight).sum(-1) + self.bias


def gathered(model: FVLM, batch: Batch, whole: bool) -> Tensor:
    """What each query gathers, [B, A, W]: from its anatomy's cells and tokens, or from all of them (`whole`)."""
    if not isinstance(batch, EncodedBatch) or model.visual_encoder.cells is None:
        raise TypeError("the benchmark's models look at encoded scans")
    levels = model.visual_encoder.transform(batch.image)
    tokens = torch.cat([model.visual_encoder.cells.tokens(batch.cells), *levels], 1)
    selected = torch.cat([batch.of_cells, *[batch.of_tokens] * len(levels)], -1)
    if whole:
        real = batch.of_cells.any(1, keepdim=True)
        everywhere = real.new_ones(len(batch), 1, tokens.shape[1] - real.shape[-1])
        selected = torch.cat([real, everywhere], -1)
    return model.attention(model.query_tokens, tokens, selected)  # type: ignore[no-any-return]


def _numbers(batch: Batch) -> Tensor:
    numbers = [[caption_number(text) for text in row] for row in batch.captions]
    return torch.tensor(numbers, device=batch.usable.device)


def _begin(model: FVLM, texts: State) -> None:
    """First weights: the text side's as it was taught (`texts`), the rest at random; the stem's convolutions stay."""
    nn.init.normal_(model.query_tokens, std=0.02)
    if texts:
        model.load_state_dict({**model.state_dict(), **texts})
    with torch.no_grad():
        model.temp.fill_(INITIAL_TEMPERATURE)
    cells = model.visual_encoder.cells
    if cells is not None:
        cells.strided.requires_grad_(False)
        cells.blocks.requires_grad_(False)


def students(
    method: str,
    config: ModelConfig,
    tokenizer: BertTokenizer,
    texts: State,
    findings: Sequence[str],
    seed: int,
    ramp_epochs: float,
) -> tuple[list[AnatomyStudent | ScanStudent | LabelStudent], CorrectionConfig]:
    """What a method trains, with first weights by the seed, and which corrections it makes. KeyError if unknown."""
    if method in ("clip", "supervised", WITHOUT_MASKS):
        torch.manual_seed(seed)
        if method != "clip":
            return [LabelStudent(config, findings, whole=method == WITHOUT_MASKS)], PLAIN
        return [ScanStudent(config.model_copy(update={"anatomies": ("scan",)}), tokenizer, texts)], PLAIN
    correction = CORRECTIONS[method].model_copy(update={"ramp_epochs": ramp_epochs})
    both = []
    for number in range(2 if correction.abnormal == "co-teaching" else 1):
        torch.manual_seed(seed + 1000 * number)
        both.append(AnatomyStudent(config, tokenizer, texts, correction, findings))
    return list(both), correction


CORRECTIONS = {
    "fvlm": CorrectionConfig(normal=False),
    "fvlm+normal": CorrectionConfig(),
    "fvlm+normal+coteaching": CorrectionConfig(abnormal="co-teaching"),
    "fvlm+normal+momentum": CorrectionConfig(abnormal="momentum", alpha=1.0),
    "fvlm+normal+jaccard": CorrectionConfig(abnormal="jaccard"),
}
WITHOUT_MASKS = "supervised without masks"
"""Not among the seven: the supervised baseline whose queries look at the whole scan."""
METHODS = ("clip", "supervised", *CORRECTIONS)
