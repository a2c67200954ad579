"""The whole benchmark: patients, stem, every method with every seed, figures. What is done is not done again."""

import json
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import BertTokenizer

from fvlm.cells import Cells
from training.benchmark.data import Done, Scans, prepare
from training.benchmark.encode import Encoded, encode
from training.benchmark.figures import Figures, figures
from training.benchmark.patients import FINDINGS
from training.benchmark.scores import Floats, Student, scores
from training.benchmark.sections import SectionLesson
from training.benchmark.size import TEST_SEED, TRAIN_SEED, VALIDATION_SEED, Size
from training.benchmark.stem import StemLesson
from training.benchmark.trainees import METHODS, State, students
from training.pretrain import Recipe
from training.pretrain import fit as teach
from training.pretraining.config import (
    BatchConfig,
    CheckpointConfig,
    OptimizerConfig,
    RecipeConfig,
    ScheduleConfig,
)
from training.pretraining.distributed import World
from training.pretraining.loop import fit
from training.vocabulary_text import build_tokenizer

Update = Callable[[int, int, float | None], None]


class Stages(Protocol):
    """Shows one stage of the work with its progress."""

    def __call__(self, title: str) -> AbstractContextManager[Update]:
        """A context that gives `update(done, total, loss)`."""
        ...


@dataclass(frozen=True)
class Answers:
    """What one trained model says of the held-out patients."""

    validation: Floats
    """[N, F]"""
    test: Floats
    """[N, F]"""
    seconds: float
    """CPU time of its training."""


def run(out: Path, size: Size, processes: int, stages: Stages, device: torch.device) -> Figures:
    """Compute what is missing in `out` and give the figures. Raises ValueError if `out` belongs to another size."""
    out.mkdir(parents=True, exist_ok=True)
    _claim(out / "size.json", size)
    sets = {
        "train": range(TRAIN_SEED, TRAIN_SEED + size.patients),
        "validation": range(VALIDATION_SEED, VALIDATION_SEED + size.validation),
        "test": range(TEST_SEED, TEST_SEED + size.test),
    }
    scans: dict[str, Scans] = {}
    for name, seeds in sets.items():
        with stages(f"patients: {name}") as update:
            scans[name] = prepare(out / "data" / name, seeds, processes, _counted(update))
    tokenizer = build_tokenizer(text for case in scans["train"].cases for text in (*case.captions, case.report))
    stem = _stem(out / "stem", size, scans["train"], len(tokenizer), stages)
    texts = _texts(out / "text", size, scans["train"], tokenizer, stages)
    encoded: dict[str, Encoded] = {}
    for name, data in scans.items():
        with stages(f"stem: {name}") as update:
            encoded[name] = encode(
                stem,
                size.model(len(tokenizer)),
                data,
                out / "data" / name,
                _counted(update),
            )
    answers: dict[str, list[Answers]] = {method: [] for method in METHODS}
    for seed in size.seeds:
        for method in METHODS:
            with stages(f"{method}, seed {seed}") as update:
                answers[method].append(
                    _answers(out / "runs", method, seed, size, encoded, tokenizer, texts, update, device)
                )
    return figures(
        {method: [each.test for each in rows] for method, rows in answers.items()},
        {method: [each.validation for each in rows] for method, rows in answers.items()},
        scans["test"].truth,
        scans["validation"].truth,
        {method: [each.seconds for each in rows] for method, rows in answers.items()},
    )


def _counted(update: Update) -> Done:
    """For work that has no loss."""
    return lambda done, total: update(done, total, None)


def _claim(file: Path, size: Size) -> None:
    """The folder belongs to one size; seeds may be added to it."""
    wanted = {name: value for name, value in json.loads(json.dumps(asdict(size))).items() if name != "seeds"}
    if not file.is_file():
        file.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    if other := [f"{name} {found.get(name)}" for name in wanted if found.get(name) != wanted[name]]:
        raise ValueError(f"{file.parent} belongs to a run of another size ({', '.join(other)}); choose another --out")


def _stem(folder: Path, size: Size, data: Scans, words: int, stages: Stages) -> Cells:
    torch.manual_seed(0)
    lesson = StemLesson(size.model(words), data)
    with stages("stem") as update:
        recipe = Recipe("stem", size.stem_steps, batch=8, peak_lr=4e-3, seed=0)
        done = teach(lesson, len(data), recipe, folder, lambda step, loss: update(step, size.stem_steps, loss))
    return done.cells


def _texts(folder: Path, size: Size, data: Scans, tokenizer: BertTokenizer, stages: Stages) -> State:
    """The text side's weights."""
    torch.manual_seed(0)
    lesson = SectionLesson(size.model(len(tokenizer)), tokenizer, data.cases)
    with stages("text") as update:
        recipe = Recipe("text", size.text_steps, batch=min(64, len(data)), peak_lr=4e-3, seed=0)
        teach(lesson, len(data), recipe, folder, lambda step, loss: update(step, size.text_steps, loss))
    return {name: rows for name, rows in lesson.model.state_dict().items() if name.startswith("text_")}


def _answers(
    folder: Path,
    method: str,
    seed: int,
    size: Size,
    data: dict[str, Encoded],
    tokenizer: BertTokenizer,
    texts: State,
    update: Update,
    device: torch.device,
) -> Answers:
    """Train one method with one seed, or take its answers."""
    file = folder / f"{method}-{seed}.npz"
    if not file.is_file():
        began = time.process_time()
        trainees, correction = students(
            method, size.model(len(tokenizer)), tokenizer, texts, FINDINGS, seed, size.ramp_epochs
        )
        learned = fit(
            trainees,
            data["train"],
            _recipe(size, seed),
            folder / f"{method}-{seed}",
            World(device=device),
            correction,
            progress=update,
        )
        seconds = time.process_time() - began
        best = learned[0].best
        assert isinstance(best, Student)
        validation, test = scores(best, data["validation"]), scores(best, data["test"])
        partial = folder / f"{method}-{seed}.part.npz"
        np.savez(partial, seconds=np.array(seconds), validation=validation, test=test)
        partial.replace(file)
    with np.load(file) as kept:
        return Answers(kept["validation"], kept["test"], float(kept["seconds"]))


def _recipe(size: Size, seed: int) -> RecipeConfig:
    return RecipeConfig(
        seed=10 * seed,
        optimizer=OptimizerConfig(peak_lr=size.peak_lr, weight_decay=0.05),
        schedule=ScheduleConfig(epochs=size.epochs, warmup_steps=30, start_lr=1e-5, final_lr=0.0),
        batch=BatchConfig(size=size.batch, micro=size.batch),
        checkpoints=CheckpointConfig(every_steps=100, keep=1),
    )


def machine() -> str:
    """Where the figures were computed, for the page."""
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}"
