"""Why the order is what it is: supervised and fVLM again with one thing changed, and other ways to ask."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.benchmark.data import Scans
from training.benchmark.encode import Encoded
from training.benchmark.figures import Ablation, ablation
from training.benchmark.learn import Answers, Ground, Stages, answers, keep, learned
from training.benchmark.patients import ANATOMIES, FINDINGS, Case
from training.benchmark.readouts import by_captions, by_probe
from training.benchmark.trainees import WITHOUT_MASKS, AnatomyStudent

SUPERVISED, CONTRAST = "supervised", "fvlm+normal"


@dataclass(frozen=True)
class Trial:
    """One thing that is otherwise in training."""

    key: str
    """Name of its folder."""
    change: str
    methods: tuple[str, ...]
    """The first is the supervised one."""
    ground: Callable[[Ground], Ground]


def _longer(ground: Ground) -> Ground:
    return _sized(ground, epochs=2 * ground.size.epochs)


def _broader(ground: Ground) -> Ground:
    return _sized(ground, batch=2 * ground.size.batch)


def _fewer(ground: Ground) -> Ground:
    """The same steps."""
    half = _sized(ground, patients=ground.size.patients // 2, epochs=2 * ground.size.epochs)
    return replace(half, train=first_patients(ground.train, half.size.patients))


def _sized(ground: Ground, **changes: int) -> Ground:
    return replace(ground, size=replace(ground.size, **changes))  # type: ignore[arg-type]


def _told_alike(ground: Ground) -> Ground:
    scans = ground.train.scans
    told = Scans(scans.images, scans.labels, tuple(as_contrast_is_told(case) for case in scans.cases))
    return replace(ground, train=replace(ground.train, scans=told))


def as_contrast_is_told(case: Case) -> Case:
    """What the normal correction is told: an anatomy of which the impression says nothing has no disease."""
    normal = dict(zip(ANATOMIES, case.normal, strict=True))
    labels = (there and not normal[finding.split(".")[0]] for finding, there in zip(FINDINGS, case.truth, strict=True))
    return replace(case, labels=tuple(labels))


def first_patients(data: Encoded, count: int) -> Encoded:
    """The first patients of a set."""
    scans = Scans(data.scans.images[:count], data.scans.labels[:count], data.scans.cases[:count])
    first = data.first[: count + 1]
    return replace(data, scans=scans, first=first, of_tokens=data.of_tokens[:count], usable=data.usable[:count])


BOTH = (SUPERVISED, CONTRAST)
TRIALS = (
    Trial(
        "without-masks",
        "supervised without masks: every query looks at the whole scan",
        (WITHOUT_MASKS,),
        lambda ground: ground,
    ),
    Trial("told-alike", "supervised by labels as the normal correction sees the report", (SUPERVISED,), _told_alike),
    Trial("longer", "twice the epochs", BOTH, _longer),
    Trial("batch", "batches twice as large, as many epochs", BOTH, _broader),
    Trial("fewer", "half of the patients, as many steps", BOTH, _fewer),
)
READOUTS = {
    "captions": ("asked by the mean of 32 training captions with and without the finding", by_captions),
    "probe": ("read by a logistic regression on the training patients' features and findings", by_probe),
}


def ablations(ground: Ground, out: Path, stages: Stages) -> tuple[Ablation, ...]:
    """All of them; the unchanged methods first. What is finished in `out` is not done again."""
    seeds = ground.size.seeds

    def trained(trial: Trial | None, method: str) -> list[Answers]:
        folder = out / "runs" / ("plain" if trial is None else trial.key)
        there = ground if trial is None else trial.ground(ground)
        found = []
        for seed in seeds:
            with stages(f"{method}, seed {seed}" + (f", {trial.change}" if trial else "")) as update:
                found.append(answers(there, folder, method, seed, update))
        return found

    plain = {method: trained(None, method) for method in BOTH}
    rows = [_row(ground, "unchanged", SUPERVISED, plain[SUPERVISED], None, None)]
    rows.append(_row(ground, "unchanged", CONTRAST, plain[CONTRAST], None, plain[SUPERVISED]))
    for trial in TRIALS:
        changed = {method: trained(trial, method) for method in trial.methods}
        beside = changed[trial.methods[0]]
        for method, found in changed.items():
            unchanged = plain.get(method, plain[SUPERVISED])
            rows.append(_row(ground, trial.change, method, found, unchanged, None if found is beside else beside))
        if CONTRAST not in changed:
            rows.append(_row(ground, trial.change, CONTRAST, plain[CONTRAST], None, beside))
    for key, (change, _) in READOUTS.items():
        asked = [_read(ground, out, key, seed, stages) for seed in seeds]
        rows.append(_row(ground, change, CONTRAST, asked, plain[CONTRAST], plain[SUPERVISED]))
    return tuple(rows)


def _read(ground: Ground, out: Path, key: str, seed: int, stages: Stages) -> Answers:
    """The answers of a trained model to other questions; its weights are those of the unchanged training."""
    file = out / "runs" / key / f"{CONTRAST}-{seed}.npz"
    if not file.is_file():
        with stages(f"{CONTRAST}, seed {seed}, {key}") as update:
            student = learned(ground, out / "runs" / "plain", CONTRAST, seed, update)
            assert isinstance(student, AnatomyStudent)
            _, read = READOUTS[key]
            validation, test = read(student, ground.train, (ground.validation, ground.test))
            file.parent.mkdir(parents=True, exist_ok=True)
            keep(file, Answers(validation, test, 0.0))
    with np.load(file) as kept:
        return Answers(kept["validation"], kept["test"], float(kept["seconds"]))


def _row(
    ground: Ground,
    change: str,
    method: str,
    found: list[Answers],
    unchanged: list[Answers] | None,
    supervised: list[Answers] | None,
) -> Ablation:
    return ablation(
        change,
        method,
        [each.test for each in found],
        [each.validation for each in found],
        (ground.test.scans.truth, ground.validation.scans.truth),
        None if unchanged is None else [each.test for each in unchanged],
        None if supervised is None else [each.test for each in supervised],
    )
