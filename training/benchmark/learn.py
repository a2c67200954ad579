"""One training of the benchmark and what it answers. What is done is not done again."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import BertTokenizer

from training.benchmark.encode import Encoded
from training.benchmark.patients import FINDINGS
from training.benchmark.scores import Floats, Student, scores
from training.benchmark.size import Size
from training.benchmark.trainees import State, students
from training.pretraining.config import BatchConfig, CheckpointConfig, OptimizerConfig, RecipeConfig, ScheduleConfig
from training.pretraining.distributed import World
from training.pretraining.loop import fit

Update = Callable[[int, int, float | None], None]


class Stages(Protocol):
    """Shows one stage of the work with its progress."""

    def __call__(self, title: str) -> AbstractContextManager[Update]:
        """A context that gives `update(done, total, loss)`."""
        ...


@dataclass(frozen=True)
class Ground:
    """What all trainings share."""

    size: Size
    train: Encoded
    validation: Encoded
    test: Encoded
    tokenizer: BertTokenizer
    texts: State
    """The text side's first weights."""
    device: torch.device


@dataclass(frozen=True)
class Answers:
    """What one trained model says of the held-out patients."""

    validation: Floats
    """[N, F]"""
    test: Floats
    """[N, F]"""
    seconds: float
    """CPU time of its training."""


def answers(ground: Ground, folder: Path, method: str, seed: int, update: Update) -> Answers:
    """Train one method with one seed, or take its answers."""
    file = folder / f"{method}-{seed}.npz"
    if not file.is_file():
        began = time.process_time()
        best = learned(ground, folder, method, seed, update)
        seconds = time.process_time() - began
        keep(file, Answers(scores(best, ground.validation), scores(best, ground.test), seconds))
    with np.load(file) as kept:
        return Answers(kept["validation"], kept["test"], float(kept["seconds"]))


def keep(file: Path, found: Answers) -> None:
    """Write answers, whole or not at all."""
    partial = file.with_suffix(".part.npz")
    np.savez(partial, seconds=np.array(found.seconds), validation=found.validation, test=found.test)
    partial.replace(file)


def learned(ground: Ground, folder: Path, method: str, seed: int, update: Update) -> Student:
    """The trained model; one that was trained before comes from its checkpoint."""
    size = ground.size
    trainees, correction = students(
        method, size.model(len(ground.tokenizer)), ground.tokenizer, ground.texts, FINDINGS, seed, size.ramp_epochs
    )
    place, world = folder / f"{method}-{seed}", World(device=ground.device)
    best = fit(trainees, ground.train, _recipe(size, seed), place, world, correction, progress=update)[0].best
    assert isinstance(best, Student)
    return best


def _recipe(size: Size, seed: int) -> RecipeConfig:
    return RecipeConfig(
        seed=10 * seed,
        optimizer=OptimizerConfig(peak_lr=size.peak_lr, weight_decay=0.05),
        schedule=ScheduleConfig(epochs=size.epochs, warmup_steps=30, start_lr=1e-5, final_lr=0.0),
        batch=BatchConfig(size=size.batch, micro=size.batch),
        checkpoints=CheckpointConfig(every_steps=100, keep=1),
    )
