"""The run: deterministic, resumable bit for bit, readable from top to bottom."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.pretraining import checkpoints
from training.pretraining.batches import Batches
from training.pretraining.config import PLAIN, CorrectionConfig, PretrainError, RecipeConfig
from training.pretraining.distributed import ALONE, World
from training.pretraining.log import Log
from training.pretraining.schedule import ramp
from training.pretraining.student import Learnt, Student
from training.pretraining.trainees import Trainee

Progress = Callable[[int, int, float | None], None]
"""Called with steps done, steps in all, and the loss."""


def fit(
    trainees: Sequence[Trainee],
    data: Batches,
    recipe: RecipeConfig,
    folder: Path,
    world: World = ALONE,
    correction: CorrectionConfig = PLAIN,
    workers: int = 0,
    identity: dict[str, Any] | None = None,
    progress: Progress = lambda *_: None,
) -> list[Student]:
    """Train one trainee, or two that teach each other, or go on from the newest checkpoint in `folder`.

    The same trainees, data, recipe and folder give the same weights, interrupted or not. `identity` says what else
    decides the numbers: a checkpoint of another one is refused. Raises PretrainError.
    """
    per_epoch = len(data) // recipe.batch.size
    if per_epoch < 1:
        raise PretrainError(f"batch.size {recipe.batch.size} is more than the {len(data)} studies; make it smaller")
    steps = recipe.schedule.epochs * per_epoch
    students = _students(trainees, recipe, steps, world, correction)
    known: dict[str, Any] = {"studies": len(data), **(identity or {})}
    known |= {"recipe": recipe.model_dump(mode="json"), "correction": correction.model_dump(mode="json")}
    start = _resume(folder, students, known)
    streams = [student.batches(data, start, workers) for student in students]
    world.wait()  # a checkpoint is read by all before one writes the next
    log = Log(folder, start) if world.is_first else None
    for step in range(start, steps):
        began = time.perf_counter()
        weight = ramp(correction.ramp_epochs, step, per_epoch)
        learnt = [
            student.learn(next(batches), step, weight) for student, batches in zip(students, streams, strict=True)
        ]
        _check(learnt, step, folder)
        if log is not None:
            log.write(step + 1, _scalars(learnt, recipe.batch.size / (time.perf_counter() - began)))
        if (step + 1) % recipe.checkpoints.every_steps == 0 or step + 1 == steps:
            if world.is_first:
                state = {"known": known, "students": [student.state() for student in students]}
                checkpoints.save(folder / "checkpoints", step + 1, state, recipe.checkpoints.keep)
            world.wait()
        progress(step + 1, steps, sum(one.loss for one in learnt) / len(learnt))
    if log is not None:
        log.close()
    return students


def _students(
    trainees: Sequence[Trainee], recipe: RecipeConfig, steps: int, world: World, correction: CorrectionConfig
) -> list[Student]:
    """Each with its teacher: none, the other one (co-teaching), or its own slow average."""
    momentum = correction.momentum if correction.abnormal == "momentum" else None
    students = [Student(trainee, recipe, steps, world, number, momentum) for number, trainee in enumerate(trainees)]
    if correction.abnormal == "co-teaching":
        one, other = students
        one.teacher, other.teacher = other.trainee, one.trainee
    return students


def _resume(folder: Path, students: Sequence[Student], known: dict[str, Any]) -> int:
    """Steps already done; 0 without a checkpoint. Raises PretrainError if it belongs to another run."""
    files = checkpoints.saved(folder / "checkpoints")
    if not files:
        return 0
    state = checkpoints.load(files[-1])
    if differing := sorted(_differing(state["known"], known)):
        raise PretrainError(
            f"{files[-1]}: belongs to another run, {'; '.join(differing)}; put it back, or choose another --out"
        )
    for student, saved in zip(students, state["students"], strict=True):
        student.restore(saved)
    return int(state["step"])


def _differing(was: Any, now: Any, path: str = "") -> list[str]:
    """What two trees of settings do not share, by dotted name."""
    if isinstance(was, dict) and isinstance(now, dict):
        return [
            line
            for key in was.keys() | now.keys()
            for line in _differing(was.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if was == now else [f"{path} was {was}, is {now}"]


def _check(learnt: Sequence[Learnt], step: int, folder: Path) -> None:
    """Raises PretrainError if a loss or gradient is no number any more: nothing after it would be one."""
    if all(math.isfinite(one.loss) and math.isfinite(one.gradient) for one in learnt):
        return
    raise PretrainError(
        f"step {step + 1}: the loss or its gradient is not finite; lower recipe.optimizer.peak_lr or set "
        f"recipe.precision: float32, and go on from the checkpoint in {folder / 'checkpoints'}"
    )


def _scalars(learnt: Sequence[Learnt], studies_per_s: float) -> dict[str, float]:
    """One step for the log; of two students, the second's names end in `_2`."""
    scalars = {"speed/studies_per_s": studies_per_s}
    for end, one in zip(("", "_2"), learnt, strict=False):
        scalars |= {f"loss/total{end}": one.loss, f"optimizer/gradient{end}": one.gradient, "optimizer/lr": one.lr}
        scalars |= {f"loss/{name}{end}": part for name, part in one.parts.items()}
    return scalars
