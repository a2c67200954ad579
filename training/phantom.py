"""The recipe of the two bundled networks: phantoms -> segmenter -> fVLM and its CLIP baseline -> metrics -> release."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import BertTokenizer

from config import load_vocabulary
from ct.bundled import BundledSegmenter
from ct.phantom import PhantomPatient
from fvlm.checkpoint import save_release
from fvlm.config import FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig, TextConfig
from fvlm.model import FVLM
from training.card import Figures, Size, write_card
from training.evaluate import SPECIFICITY, rate
from training.learner import Learner, Method, Pooled, build, pool_set
from training.phantom_data import PhantomSet, describe, prepare_set, scan
from training.pretrain import Recipe, fit
from training.segmenter import dice, save_segmenter, train_segmenter
from training.supervise import Supervised
from training.vocabulary_text import build_tokenizer

NAME, VERSION = "fVLM phantom", "1"
VALIDATION_SEED, TEST_SEED = 2_000_000, 3_000_000
"""First seeds of the patients for operating points and for the metrics; training starts at 0."""


class Stages(Protocol):
    """Shows one stage of the work with its progress."""

    def __call__(self, title: str) -> AbstractContextManager[Callable[[int, int, float | None], None]]:
        """A context that gives `update(done, total, loss)`."""
        ...


def release_config(vocabulary_size: int) -> ReleaseConfig:
    """The architecture and preprocessing of the bundled release."""
    preset = load_vocabulary().preset("phantom")
    return ReleaseConfig(
        name=NAME,
        version=VERSION,
        test_only=True,
        model=ModelConfig(
            anatomies=preset.anatomies,
            image_shape=(104, 48, 64),
            patch=(8, 8, 8),
            width=128,
            depth=4,
            heads=4,
            levels=(0, 1, 2),
            embedding=128,
            dropout=0.0,
            stem="conv",
            stem_channels=(24, 48, 64),
            stem_strides=((2, 2, 2), (2, 2, 2), (1, 1, 1)),
            text=TextConfig(vocab_size=vocabulary_size, width=128, depth=2, heads=4, max_positions=384, max_tokens=384),
        ),
        preprocess=PreprocessConfig(
            spacing=(6.0, 6.0, 6.0), hu_window=(-1000.0, 300.0), window=(104, 48, 64), windows="whole", antialias=True
        ),
    )


def train_phantom(out: Path, size: Size, stages: Stages) -> Path:
    """Train everything into `out`, going on where an earlier call stopped; returns the release folder.

    `out/segmenter/` holds the segmenter's weights, `out/release/` the release, `out/metrics.json` the figures.
    """
    segmenter = _segmenter(out, size, stages)
    preset = load_vocabulary().preset("phantom")
    findings = [FindingConfig.of(prompt) for prompt in preset.prompts]
    with stages("reports") as update:
        texts = []
        for seed in range(size.patients):
            texts.append(describe(PhantomPatient.draw(seed), preset.anatomies))
            update(seed + 1, size.patients, None)
    tokenizer = build_tokenizer([*(patient.report for patient in texts), *(c.text for p in texts for c in p.captions)])
    config = release_config(len(tokenizer))
    training = _set(out, "train", range(size.patients), config, stages, size)
    trunk = _trunk(out, training, config, findings, size, stages)
    validation = _set(out, "validation", _seeds(VALIDATION_SEED, size.validation), config, stages, size, segmenter)
    test = _set(out, "test", _seeds(TEST_SEED, size.test), config, stages, size)
    sets = {"train": training, "validation": validation, "test": test}
    pooled = {name: _pool(trunk, data, name, stages) for name, data in sets.items()}
    methods: tuple[Method, ...] = ("clip", "fvlm")
    learners = {m: _align(out, m, trunk, tokenizer, pooled["train"], size, stages) for m in methods}
    figures = Figures(
        auc={m: rate(learners[m], pooled["test"], findings, None) for m in methods},
        operating=rate(learners["fvlm"], pooled["validation"], findings, SPECIFICITY),
        dice=_segmenter_dice(segmenter, size, stages),
    )
    (out / "metrics.json").write_text(json.dumps({"size": asdict(size), **asdict(figures)}, indent=1))
    thresholds = [row.threshold for row in figures.operating]
    operating = [f.model_copy(update={"threshold": t}) for f, t in zip(findings, thresholds, strict=True)]
    card = write_card(config, size, figures)
    save_release(out / "release", learners["fvlm"].model, config, operating, tokenizer, card, half=True)
    return out / "release"


def _seeds(first: int, count: int) -> range:
    return range(first, first + count)


def _trunk(
    out: Path, data: PhantomSet, config: ReleaseConfig, findings: list[FindingConfig], size: Size, stages: Stages
) -> FVLM:
    torch.manual_seed(0)
    supervised = Supervised(config.model, [f.finding for f in findings], data)
    for name, steps in (("trunk", size.trunk_steps), ("tokens", size.token_steps)):
        supervised.ask_tokens = name == "tokens"
        with stages(f"{name}: supervised") as update:
            fit(supervised, size.patients, Recipe(name, steps), out / name, _reporter(update, steps))
    return supervised.model


def _reporter(update: Callable[[int, int, float | None], None], steps: int) -> Callable[[int, float], None]:
    return lambda step, loss: update(step, steps, loss)


def _pool(trunk: FVLM, data: PhantomSet, name: str, stages: Stages) -> Pooled:
    with stages(f"{name}: trunk features") as update:
        return pool_set(trunk, data, lambda done, total: update(done, total, None))


def _align(
    out: Path, method: Method, trunk: FVLM, tokenizer: BertTokenizer, pooled: Pooled, size: Size, stages: Stages
) -> Learner:
    learner = build(trunk, tokenizer, pooled, method, seed=0)
    with stages(f"{method}: alignment") as update:
        recipe = Recipe(method, size.steps, batch=32)
        return fit(learner, size.patients, recipe, out / method, lambda step, loss: update(step, recipe.steps, loss))


def _segmenter(out: Path, size: Size, stages: Stages) -> Path:
    weights = out / "segmenter" / "phantom_segmenter.safetensors"
    with stages("segmenter: training") as update:
        network = train_segmenter(
            out / "segmenter", size.segmenter_steps, lambda step, loss: update(step, size.segmenter_steps, loss)
        )
    save_segmenter(network, weights)
    return weights


def _set(
    out: Path,
    name: str,
    seeds: range,
    config: ReleaseConfig,
    stages: Stages,
    size: Size,
    segmenter: Path | None = None,
) -> PhantomSet:
    with stages(f"{name} patients") as update:
        return prepare_set(
            out / name, seeds, config, lambda done, total: update(done, total, None), size.processes, segmenter
        )


def _segmenter_dice(weights: Path, size: Size, stages: Stages) -> dict[str, float]:
    """Mean Dice of each anatomy over 20 held-out phantoms, on the rendered grid."""
    segmenter, scores = BundledSegmenter(weights), []
    with stages("segmenter: Dice") as update:
        count = min(20, size.test)
        for index in range(count):
            _, volume, labels = scan(TEST_SEED + index)
            predicted = segmenter.segment(volume, segmenter.anatomies)
            scores.append(dice(predicted.labels, labels, len(segmenter.anatomies)))
            update(index + 1, count, None)
    means = np.nanmean(np.array(scores), axis=0)
    return {name: round(float(score), 4) for name, score in zip(segmenter.anatomies, means, strict=True)}
