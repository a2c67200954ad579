"""What the loop trains: a module that turns studies into features, and the features of a whole batch into a loss.

The two halves are apart because contrast looks at all studies of a batch at once, while a process holds only a few in
memory: `step` joins them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BertTokenizer

from fvlm.config import ModelConfig
from fvlm.model import FVLM
from training.objective import (
    AnatomyPairs,
    Targets,
    anatomy_losses,
    clip_loss,
    corrected_targets,
    finding_overlap,
    multi_label_loss,
    own_targets,
    softened_by_findings,
    softened_by_peer,
    softened_by_texts,
)
from training.pretraining.batches import Batch
from training.pretraining.config import PLAIN, CorrectionConfig

_TEXTS = 64
"""Most texts encoded at once."""
_SLACK = 8
"""Tokens of padding that cost less than another group."""


@dataclass(frozen=True)
class Features:
    """Of N studies; every tensor has N rows, and a shape of which only N depends on the studies."""

    learned: dict[str, Tensor]
    """Float tensors that carry a gradient."""
    known: dict[str, Tensor]
    """What else the loss needs: flags, labels, numbers of captions."""


@dataclass(frozen=True)
class Losses:
    """What a batch costs."""

    total: Tensor
    """Scalar with gradient."""
    parts: dict[str, Tensor]
    """For the log, by name."""


class Trainee(nn.Module):
    """A model in training. A forward pass gives the features of a micro-batch of one process."""

    model: FVLM
    """What is released in the end."""

    def forward(self, batch: Batch) -> Features:
        """Every parameter that requires a gradient takes part, whatever the studies hold."""
        raise NotImplementedError

    def loss(self, features: Features, teacher: Features | None, ramp: float) -> Losses:
        """The loss of a whole batch, the rows of all processes. Calls no collective.

        `teacher` are the features that another model gives the same studies, for soft targets; `ramp` in [0, 1] is how
        far the epochs of ramp-up are over.
        """
        raise NotImplementedError

    def loss_parameters(self) -> list[nn.Parameter]:
        """Those that `loss` uses itself."""
        return []

    def begin_step(self) -> None:
        """Called before every step."""


class FVLMTrainee(Trainee):
    """Anatomy-wise contrast (paper section 3.2) with corrected false negatives (section 3.3)."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: BertTokenizer,
        correction: CorrectionConfig = PLAIN,
        findings: Sequence[str] = (),
    ) -> None:
        """Findings are the data's, `anatomy.finding`; the correction `jaccard` compares them."""
        super().__init__()
        self.model = FVLM(config)
        self.tokenizer = tokenizer
        self.correction = correction
        self.anatomy = [config.anatomies.index(finding.split(".")[0]) for finding in findings]

    def forward(self, batch: Batch) -> Features:
        """Image and text [B, A, E] of unit length; an anatomy that is absent or cut has zeros."""
        image, present = self.model.anatomy_features(batch.image, batch.labels)
        usable = present & batch.usable
        text = texts_of_pairs(self.model, self.tokenizer, batch.captions, usable)
        numbers = [[caption_number(text) for text in row] for row in batch.captions]
        known = {"usable": usable, "normal": batch.normal, "caption": torch.tensor(numbers, device=text.device)}
        if self.correction.abnormal == "jaccard":
            known["findings"] = batch.findings
        return Features({"image": image * usable[..., None], "text": text}, known)

    def loss(self, features: Features, teacher: Features | None, ramp: float) -> Losses:
        """The sum over anatomies."""
        pairs, temperature = _pairs(features), self.model.temp
        losses = anatomy_losses(pairs, temperature, self._targets(features, teacher, ramp))
        each = zip(self.model.config.anatomies, losses.each.detach(), losses.counted.tolist(), strict=True)
        return Losses(losses.total, {name: loss for name, loss, taught in each if taught})

    def _targets(self, features: Features, teacher: Features | None, ramp: float) -> Targets:
        """Which pairs are positive, and how much."""
        pairs, correction = _pairs(features), self.correction
        targets = corrected_targets(pairs) if correction.normal else own_targets(pairs)
        weight = correction.alpha * ramp
        match correction.abnormal:
            case "co-teaching":
                return softened_by_peer(targets, pairs, _pairs(_given(teacher)), self.model.temp, weight)
            case "momentum":
                return softened_by_texts(targets, pairs, _given(teacher).learned["text"], self.model.temp, weight)
            case "jaccard":
                anatomy = torch.tensor(self.anatomy, device=pairs.usable.device)
                overlap = finding_overlap(features.known["findings"], anatomy, pairs.usable.shape[1])
                return softened_by_findings(targets, pairs, overlap, weight)
        return targets

    def loss_parameters(self) -> list[nn.Parameter]:
        return [self.model.temp]

    def begin_step(self) -> None:
        self.model.clamp_temperature()


def _pairs(features: Features) -> AnatomyPairs:
    known = features.known
    return AnatomyPairs(**features.learned, usable=known["usable"], normal=known["normal"], caption=known["caption"])


def _given(teacher: Features | None) -> Features:
    """Raises ValueError where the loop has none."""
    if teacher is None:
        raise ValueError("this correction needs the features of a teacher")
    return teacher


class ClipTrainee(Trainee):
    """Plain CLIP: the mean of the final tokens against the whole report."""

    def __init__(self, config: ModelConfig, tokenizer: BertTokenizer) -> None:
        super().__init__()
        self.model = FVLM(config)
        for part in (
            self.model.attention,
            self.model.query_tokens,
            self.model.vision_projs,
            self.model.visual_encoder.cells,
        ):
            if part is not None:
                part.requires_grad_(False)
        self.image_proj = nn.Linear(config.width, config.embedding)
        self.tokenizer = tokenizer

    def forward(self, batch: Batch) -> Features:
        """Image and text [B, E] of unit length."""
        final = self.model.visual_encoder.transform(batch.image)[-1]
        image = F.normalize(self.image_proj(final.mean(1)).float(), dim=-1)
        return Features({"image": image, "text": texts_features(self.model, self.tokenizer, batch.reports)}, {})

    def loss(self, features: Features, teacher: Features | None, ramp: float) -> Losses:  # noqa: ARG002
        """Only a study's own report is positive."""
        return Losses(clip_loss(features.learned["image"], features.learned["text"], self.model.temp), {})

    def loss_parameters(self) -> list[nn.Parameter]:
        return [self.model.temp]

    def begin_step(self) -> None:
        self.model.clamp_temperature()


class SupervisedTrainee(Trainee):
    """The multi-label baseline: one logistic regression a finding on what its anatomy's query gathers."""

    def __init__(self, config: ModelConfig, findings: Sequence[str]) -> None:
        """Findings are `anatomy.finding`; each anatomy must be one of the model's."""
        super().__init__()
        self.model = FVLM(config, text=False)
        for part in (self.model.text_proj, self.model.vision_projs, self.model.temp):
            part.requires_grad_(False)
        self.anatomy = [config.anatomies.index(finding.split(".")[0]) for finding in findings]
        self.weight = nn.Parameter(torch.zeros(len(findings), config.width))
        self.bias = nn.Parameter(torch.zeros(len(findings)))

    def forward(self, batch: Batch) -> Features:
        """Logits [B, F]."""
        model = self.model
        selected = model.select(batch.labels, model.levels)
        tokens = model.encode_tokens(batch.image)
        states = model.attention(model.query_tokens, torch.cat(tokens, 1), torch.cat(selected, -1)).float()
        logits = (states[:, self.anatomy] * self.weight).sum(-1) + self.bias
        usable = (selected[-1].any(-1) & batch.usable)[:, self.anatomy]
        return Features({"logits": logits}, {"truth": batch.findings, "usable": usable})

    def loss(self, features: Features, teacher: Features | None, ramp: float) -> Losses:  # noqa: ARG002
        """Binary cross-entropy, the mean over what the reports decide of anatomies that are there."""
        known = features.known
        return Losses(multi_label_loss(features.learned["logits"], known["truth"], known["usable"]), {})


def caption_number(text: str) -> int:
    """The same int64 for the same caption in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def texts_of_pairs(model: FVLM, tokenizer: BertTokenizer, captions: Sequence[Sequence[str]], usable: Tensor) -> Tensor:
    """[B, A, E]: only captions of usable anatomies are encoded, each once; the others are zeros."""
    flags = usable.tolist()
    wanted = [
        text for row, used in zip(captions, flags, strict=True) for text, use in zip(row, used, strict=True) if use
    ]
    distinct = {text: i for i, text in enumerate(dict.fromkeys(wanted or [captions[0][0]]))}
    encoded = texts_features(model, tokenizer, list(distinct))
    at = torch.tensor([[distinct.get(text, 0) for text in row] for row in captions], device=encoded.device)
    return encoded[at] * usable[..., None]


def texts_features(model: FVLM, tokenizer: BertTokenizer, texts: Sequence[str]) -> Tensor:
    """[N, E] of unit length, encoded in groups of like length so that little padding is computed."""
    longest, device = model.config.text.max_tokens, model.temp.device
    tokens = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    groups = like_lengths([len(ids) for ids in tokens])
    parts = []
    for group in groups:
        rows = [torch.tensor(tokens[index]) for index in group]
        ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id).to(device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
        parts.append(model.text_features(ids, mask))
    back = torch.empty(len(texts), dtype=torch.long)
    back[torch.tensor([index for group in groups for index in group])] = torch.arange(len(texts))
    return torch.cat(parts)[back.to(device)]


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of texts in groups, the shortest first; in a group none is much longer than another, and few are many."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        shortest = lengths[groups[-1][0]] if groups else 0
        if groups and lengths[index] <= 1.25 * shortest + _SLACK and len(groups[-1]) < _TEXTS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
