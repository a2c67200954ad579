"""The figures: AUC of each finding, anatomy and method, with bootstrap intervals over the patients, and differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.benchmark.patients import ANATOMIES, FINDINGS
from training.benchmark.scores import Floats, aucs

Bools = npt.NDArray[np.bool_]
RESAMPLES = 1000

STEPS = (
    ("fvlm", "clip"),
    ("supervised", "clip"),
    ("fvlm", "supervised"),
    ("fvlm+normal", "supervised"),
    ("fvlm+normal", "fvlm"),
    ("fvlm+normal+coteaching", "fvlm+normal"),
    ("fvlm+normal+momentum", "fvlm+normal"),
    ("fvlm+normal+jaccard", "fvlm+normal"),
)
"""Pairs of which the paper's expectation is that the first is better."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval over patients, the mean of all seeds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Method:
    """One method."""

    macro: Interval
    seeds: tuple[float, ...]
    """Macro AUC of each seed."""
    validation: tuple[float, ...]
    """The same on the validation patients."""
    anatomies: dict[str, Interval]
    findings: dict[str, Interval]
    cpu_seconds: float
    """Of one training, the mean of the seeds."""


@dataclass(frozen=True)
class Ablation:
    """One method with one thing changed."""

    change: str
    method: str
    macro: Interval
    seeds: tuple[float, ...]
    """Macro AUC of each seed."""
    validation: tuple[float, ...]
    unchanged: Interval | None
    """How much better than the same method unchanged, with the same seeds and patients; None: it is unchanged."""
    supervised: Interval | None
    """How much better than supervised with the same change, or unchanged; None: it is supervised."""


@dataclass(frozen=True)
class Figures:
    """Everything that the page shows."""

    methods: dict[str, Method]
    differences: dict[str, Interval]
    """Of macro AUC, `one - other`, on the same resampled patients."""
    positives: dict[str, int]
    """Test patients who have the finding."""


def figures(
    test: Mapping[str, Sequence[Floats]],
    validation: Mapping[str, Sequence[Floats]],
    truth: Bools,
    validation_truth: Bools,
    seconds: Mapping[str, Sequence[float]],
) -> Figures:
    """From the answers [N, F] of each method's seeds."""
    tables = {method: _table(truth, rows) for method, rows in test.items()}
    methods = {
        method: Method(
            macro=_interval(_means(table)),
            seeds=_each(truth, test[method]),
            validation=_each(validation_truth, validation[method]),
            anatomies={name: _interval(_means(table[:, _of(name)])) for name in ANATOMIES},
            findings={name: _interval(table[:, column]) for column, name in enumerate(FINDINGS)},
            cpu_seconds=float(np.mean(seconds[method])),
        )
        for method, table in tables.items()
    }
    macro = {method: _means(table) for method, table in tables.items()}
    differences = {f"{one} - {other}": _interval(macro[one] - macro[other]) for one, other in STEPS}
    positives = dict(zip(FINDINGS, (int(count) for count in truth.sum(0)), strict=True))
    return Figures(methods, differences, positives)


def ablation(
    change: str,
    method: str,
    test: Sequence[Floats],
    validation: Sequence[Floats],
    truths: tuple[Bools, Bools],
    unchanged: Sequence[Floats] | None,
    supervised: Sequence[Floats] | None,
) -> Ablation:
    """From the answers [N, F] of each seed; `truths` of the test and validation patients, the last two of the test."""
    truth, validation_truth = truths
    own = _means(_table(truth, test))

    def better_than(other: Sequence[Floats] | None) -> Interval | None:
        return None if other is None else _interval(own - _means(_table(truth, other)))

    return Ablation(
        change=change,
        method=method,
        macro=_interval(own),
        seeds=_each(truth, test),
        validation=_each(validation_truth, validation),
        unchanged=better_than(unchanged),
        supervised=better_than(supervised),
    )


def resampled_aucs(truth: Bools, answers: Floats, weights: npt.NDArray[np.int64]) -> Floats:
    """AUC [R, F] of truth and answers [N, F] with each patient as often as `weights` [R, N] says.

    NaN without both classes. Patients without an answer (NaN) do not count; equal answers count half.
    """
    out = np.full((len(weights), truth.shape[1]), np.nan)
    for column in range(truth.shape[1]):
        seen = np.flatnonzero(~np.isnan(answers[:, column]))
        order = seen[np.argsort(answers[seen, column], kind="stable")]
        values, labels, count = answers[order, column], truth[order, column], weights[:, order]
        positive, negative = count * labels, count * ~labels
        first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.array([], int)
        if not len(first):
            continue
        positive, negative = (np.add.reduceat(rows, first, axis=1) for rows in (positive, negative))
        below = np.cumsum(negative, axis=1) - negative
        pairs = positive.sum(1) * negative.sum(1)
        wins = (positive * (below + 0.5 * negative)).sum(1)
        out[:, column] = np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return out


def _table(truth: Bools, rows: Sequence[Floats]) -> Floats:
    """AUC [1 + R, F], the mean over seeds."""
    weights = _weights(len(truth))
    table: Floats = np.mean([resampled_aucs(truth, answers, weights) for answers in rows], axis=0)
    return table


def _each(truth: Bools, rows: Sequence[Floats]) -> tuple[float, ...]:
    """Macro AUC of each seed."""
    return tuple(float(np.nanmean(aucs(truth, answers))) for answers in rows)


def _weights(patients: int) -> npt.NDArray[np.int64]:
    """Resamples [1 + R, N]; the first is the sample itself."""
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES)
    return np.concatenate([np.ones((1, patients), np.int64), drawn])


def _interval(rows: Floats) -> Interval:
    """Of [1 + R]: the sample itself, then its resamples."""
    known = rows[1:][~np.isnan(rows[1:])]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Interval(float(rows[0]), float(low), float(high))


def _means(table: Floats) -> Floats:
    """Of each row, without what is NaN; NaN where all is."""
    known = ~np.isnan(table)
    count = known.sum(1)
    means: Floats = np.divide(np.nansum(table, axis=1), count, out=np.full(len(table), np.nan), where=count > 0)
    return means


def _of(anatomy: str) -> list[int]:
    return [column for column, finding in enumerate(FINDINGS) if finding.startswith(f"{anatomy}.")]
