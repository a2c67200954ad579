"""The recipe of the two bundled networks: phantoms -> segmenter -> fVLM and its CLIP baseline -> metrics -> release."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import BertTokenizer

from config import load_vocabulary
from ct.bundled import WEIGHTS, BundledSegmenter
from ct.phantom import PhantomPatient
from fvlm.checkpoint import load_release
from fvlm.config import CellsConfig, FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig, TextConfig
from fvlm.engine import Precision
from fvlm.model import FVLM
from training.calibrate import operating_points
from training.card import SENSITIVITY, SPECIFICITY, Figures, Operating, write_card
from training.cells import CellLesson
from training.evaluate import probabilities, rate, truth
from training.features import FeatureSet, encode_set
from training.learner import Learner, Method, Pooled, build, pool_set
from training.localise import localise
from training.phantom_data import PhantomSet, describe, prepare_set, scan
from training.pretrain import Recipe, fit
from training.queries import QueryLesson
from training.release.product import Product
from training.segmenter import dice, train_segmenter
from training.size import Size
from training.supervise import Lesson, Supervised
from training.vocabulary_text import build_tokenizer

NAME, VERSION = "fVLM phantom", "3"
VALIDATION_SEED, TEST_SEED, LOCALISATION_SEED = 2_000_000, 3_000_000, 4_000_000
"""First seeds of the patients for operating points, metrics and heat maps; training starts at 0."""
LOCALISED = 100
"""Patients with one lesion whose heat maps are looked at."""


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
            image_shape=(104, 72, 96),
            patch=(8, 12, 12),
            width=128,
            depth=4,
            heads=4,
            levels=(0, 1, 2),
            embedding=128,
            dropout=0.0,
            stem="conv",
            stem_channels=(24, 48, 64, 64),
            stem_strides=((2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
            cells=CellsConfig(
                windows=((0.0, 1.0), (0.0, 0.3), (0.73, 0.96), (0.75, 0.83)),
                channels=(32, 64),
                strides=((2, 2, 2), (2, 2, 2)),
                blocks=2,
            ),
            text=TextConfig(vocab_size=vocabulary_size, width=128, depth=2, heads=4, max_positions=384, max_tokens=384),
        ),
        preprocess=PreprocessConfig(
            spacing=(6.0, 4.0, 4.0), hu_window=(-1000.0, 300.0), window=(104, 72, 96), windows="whole", antialias=True
        ),
    )


def train_phantom(out: Path, size: Size, stages: Stages, start: Path | None = None) -> Path:
    """Train everything into `out`, going on where an earlier call stopped; returns the release folder.

    `out/segmenter/` holds the segmenter's weights, `out/release/` the release, `out/metrics.json` the figures.
    Validation and test patients are segmented by the trained segmenter, as in the node. With a release to `start` from,
    its image trunk is taken as it is and the bundled segmenter stays. Raises ReleaseError (`start`).
    """
    former = None if start is None else load_release(start)
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
    encoder = _trunk(out, training, config, findings, size, stages) if former is None else _taken(former, config)
    _school_cells(out, encoder, training, findings, size, stages)
    drawn = {ball.finding for balls in training.balls for ball in balls}
    focal = [f.finding for f in findings if f.finding in drawn]
    encoded = {"train": _encode(out, "train", encoder, training.first(size.aligned), focal, stages, "bfloat16")}
    _school_queries(out, encoder, encoded["train"], findings, focal, size, stages)
    pooled = {"train": pool_set(encoder, encoded["train"], lambda *_: None)}
    methods: tuple[Method, ...] = ("fvlm", "clip")
    learners = {m: _align(out, m, encoder, tokenizer, pooled["train"], size, stages) for m in methods}
    if former is None:
        with stages("segmenter: training") as update:
            segmenter = train_segmenter(out / "segmenter", size.segmenter_steps, update)
    else:
        segmenter = WEIGHTS
    held_out = {
        "validation": _set(
            out, "validation", _seeds(VALIDATION_SEED, size.validation), config, stages, size, segmenter
        ),
        "test": _set(out, "test", _seeds(TEST_SEED, size.test), config, stages, size, segmenter),
    }
    for name, data in held_out.items():
        encoded[name] = _encode(out, name, encoder, data, focal, stages, "float32")
        pooled[name] = pool_set(encoder, encoded[name], lambda *_: None)
    operating = _operating(learners["fvlm"], pooled["validation"], pooled["test"], findings)
    judged = [
        finding.model_copy(update={"threshold": row.points.present_from, "absent_below": row.points.absent_below})
        if row.points
        else finding
        for finding, row in zip(findings, operating, strict=True)
    ]

    def save(folder: Path, card: str) -> None:
        Product(learners["fvlm"].model, config, tuple(judged), tokenizer).write(folder, card)

    save(out / "draft", "# Draft, to be measured\n")
    with stages("localisation") as update:
        located = localise(
            out / "draft", _seeds(LOCALISATION_SEED, LOCALISED), lambda done, total: update(done, total, None)
        )
    figures = Figures(
        auc={m: rate(learners[m], pooled["test"], findings) for m in methods},
        operating=operating,
        dice=_segmenter_dice(segmenter, size, stages),
        located=located,
    )
    (out / "metrics.json").write_text(json.dumps({"size": asdict(size), **asdict(figures)}, indent=1))
    began = None if former is None or former.release is None else former.release.identity
    save(out / "release", write_card(config, size, figures, began))
    return out / "release"


def _operating(learner: Learner, chosen_on: Pooled, shown_on: Pooled, findings: list[FindingConfig]) -> list[Operating]:
    """Operating points chosen on some patients, and what they do on others."""
    positive, probability = truth(chosen_on, findings), probabilities(learner, chosen_on, findings)
    points = [
        operating_points(positive[:, k], probability[:, k], SPECIFICITY, SENSITIVITY) for k in range(len(findings))
    ]
    positive, probability = truth(shown_on, findings), probabilities(learner, shown_on, findings)
    return [Operating.of(points[k], positive[:, k], probability[:, k]) for k in range(len(findings))]


def _seeds(first: int, count: int) -> range:
    return range(first, first + count)


def _trunk(
    out: Path,
    data: PhantomSet,
    config: ReleaseConfig,
    findings: list[FindingConfig],
    size: Size,
    stages: Stages,
) -> FVLM:
    """A model whose stem, transformer and anatomy attention are schooled."""
    torch.manual_seed(0)
    supervised = Supervised(config.model, [f.finding for f in findings], data)
    lessons: dict[Lesson, Recipe] = {
        "stem": Recipe("stem", size.stem_steps, batch=8, peak_lr=3e-3),
        "trunk": Recipe("trunk", size.trunk_steps),
    }
    for supervised.lesson, recipe in lessons.items():
        with stages(f"{recipe.name}: supervised") as update:
            fit(supervised, size.patients, recipe, out / recipe.name, partial(_report, update, recipe.steps))
    return supervised.model


def _taken(former: FVLM, config: ReleaseConfig) -> FVLM:
    """A model with the image trunk of another one."""
    torch.manual_seed(0)
    model = FVLM(config.model)
    for mine, its in ((model.visual_encoder, former.visual_encoder), (model.attention, former.attention)):
        mine.load_state_dict({**mine.state_dict(), **its.state_dict()})
    with torch.no_grad():
        model.query_tokens.copy_(former.query_tokens)
    return model.eval()


def _school_cells(
    out: Path, model: FVLM, data: PhantomSet, findings: list[FindingConfig], size: Size, stages: Stages
) -> None:
    torch.manual_seed(0)
    lesson = CellLesson(model.config, [f.finding for f in findings], data)
    recipe = Recipe("cells", size.cell_steps, batch=48, peak_lr=3e-3)
    with stages("cells: supervised") as update:
        fit(lesson, size.patients, recipe, out / "cells", partial(_report, update, recipe.steps))
    model.visual_encoder.cells = lesson.cells


def _school_queries(
    out: Path,
    model: FVLM,
    data: FeatureSet,
    findings: list[FindingConfig],
    focal: list[str],
    size: Size,
    stages: Stages,
) -> None:
    lesson = QueryLesson(model, [f.finding for f in findings], focal, data)
    recipe = Recipe("queries", size.query_steps, peak_lr=1e-3)
    with stages("queries: supervised") as update:
        fit(lesson, len(data.patients), recipe, out / "queries", partial(_report, update, recipe.steps))


def _report(update: Callable[[int, int, float | None], None], steps: int, step: int, loss: float) -> None:
    update(step, steps, loss)


def _encode(
    out: Path, name: str, model: FVLM, data: PhantomSet, focal: list[str], stages: Stages, precision: Precision
) -> FeatureSet:
    with stages(f"{name}: features") as update:
        folder = out / name / "features"
        return encode_set(model, data, focal, folder, lambda done, total: update(done, total, None), precision)


def _align(
    out: Path, method: Method, trunk: FVLM, tokenizer: BertTokenizer, pooled: Pooled, size: Size, stages: Stages
) -> Learner:
    learner = build(trunk, tokenizer, pooled, method, seed=0)
    with stages(f"{method}: alignment") as update:
        recipe = Recipe(method, size.steps, batch=32)
        return fit(learner, len(pooled.patients), recipe, out / method, partial(_report, update, recipe.steps))


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
