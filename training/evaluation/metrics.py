"""The published protocol's metrics, and the same with thresholds that never saw the patients they are judged on.

Published (arXiv 2501.14548, as CT-CLIP's): the threshold is the best of 100 on the very labels that it is then judged
by, and a volume whose anatomy was not assessed counts with probability 0. Both flatter or blur; so everything is also
given with thresholds from other patients, on what was assessed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
METRICS = ("auc", "accuracy", "f1", "precision", "sensitivity", "specificity")
RESAMPLES = 500
_GRID = np.linspace(0.0, 1.0, 100)


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % bootstrap interval over patients; NaN where it cannot be told."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One target."""

    target: str
    volumes: int
    """That were counted."""
    positives: int
    not_assessed: int
    """Volumes without a probability: counted as 0, or left out; the section says which."""
    threshold: float | None
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Section:
    """All targets under one protocol."""

    title: str
    protocol: str
    """What was done, in words."""
    rows: tuple[Row, ...]
    macro: dict[str, Estimate]
    """Means over the targets that have the metric."""


@dataclass(frozen=True)
class Scored:
    """What is compared: N volumes, T targets."""

    targets: tuple[str, ...]
    patients: tuple[str, ...]
    """Of each volume."""
    positive: Bools
    """[N, T]."""
    probability: Floats
    """[N, T]; NaN where the anatomy was not assessed."""

    def take(self, chosen: Bools) -> "Scored":
        patients = tuple(p for p, keep in zip(self.patients, chosen, strict=True) if keep)
        return Scored(self.targets, patients, self.positive[chosen], self.probability[chosen])


def published_threshold(positive: Bools, probability: Floats) -> float:
    """Of 100 thresholds in 0..1 the one whose point on the ROC curve is nearest to (0, 1); of equals the largest."""
    called = probability > _GRID[:, None]
    true_rate = called[:, positive].mean(1) if positive.any() else np.zeros(len(_GRID))
    false_rate = called[:, ~positive].mean(1) if (~positive).any() else np.zeros(len(_GRID))
    distance = np.hypot(1 - true_rate, false_rate)
    return float(_GRID[np.flatnonzero(np.isclose(distance, distance.min(), rtol=0, atol=1e-12))[-1]])


def as_published(scored: Scored) -> Section:
    """Thresholds on the same labels; what was not assessed counts with probability 0."""
    zeroed = Scored(scored.targets, scored.patients, scored.positive, np.nan_to_num(scored.probability, nan=0.0))
    thresholds = [published_threshold(*column) for column in _columns(zeroed)]
    return _section(
        "As published",
        "Threshold: the best of 100 on these same volumes, so it flatters. Not assessed counts as probability 0.",
        scored,
        zeroed,
        thresholds,
    )


def held_out(scored: Scored) -> Section:
    """Thresholds from a third of the patients by the published rule, metrics on the others; assessed volumes only."""
    choosing = np.array([_chooses(patient) for patient in scored.patients], dtype=bool)
    others, thresholds = scored.take(~choosing), []
    for positive, probability in _columns(scored.take(choosing)):
        assessed = ~np.isnan(probability)
        both = len(set(positive[assessed].tolist())) == 2
        thresholds.append(published_threshold(positive[assessed], probability[assessed]) if both else None)
    chose, judged = len(set(scored.patients)) - len(set(others.patients)), len(set(others.patients))
    return _section(
        "Held out",
        f"Threshold: chosen by the same rule on {chose} patients (a third, by the SHA-256 of their names); metrics on "
        f"the {judged} others. Not assessed is left out.",
        others,
        others,
        thresholds,
    )


def at_operating_points(scored: Scored, thresholds: Sequence[float | None]) -> Section:
    """At the release's own operating points; assessed volumes only. Probabilities must be calibrated already."""
    return _section(
        "Operating points of the release",
        "Called present at or above the release's threshold; undetermined counts as not present. Not assessed is left "
        "out.",
        scored,
        scored,
        [None if t is None else float(np.nextafter(t, -1.0)) for t in thresholds],
        shown=thresholds,
    )


def _chooses(patient: str) -> bool:
    """A third of all patients, always the same whatever else is in the set."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % 3 == 0


def _columns(scored: Scored) -> list[tuple[Bools, Floats]]:
    return list(zip(scored.positive.T, scored.probability.T, strict=True))


def _section(
    title: str,
    protocol: str,
    original: Scored,
    counted: Scored,
    thresholds: Sequence[float | None],
    shown: Sequence[float | None] | None = None,
) -> Section:
    """Metrics of `p > threshold`; `original` tells what was not assessed, NaN in `counted` is left out."""
    rows, resampled = [], []
    multiplicity = _multiplicity(counted.patients)
    for index, (positive, probability) in enumerate(_columns(counted)):
        keep = ~np.isnan(probability)
        labels, scores = positive[keep], probability[keep]
        weights = np.vstack([np.ones(len(labels)), multiplicity[:, keep]])
        values = _metrics(labels, scores, thresholds[index], weights)
        resampled.append(values)
        rows.append(
            Row(
                counted.targets[index],
                len(labels),
                int(labels.sum()),
                int(np.isnan(original.probability[:, index]).sum()),
                (shown or thresholds)[index],
                {name: _estimate(column) for name, column in values.items()},
            )
        )
    macro = {name: _estimate(_mean([values[name] for values in resampled])) for name in METRICS}
    return Section(title, protocol, tuple(rows), macro)


def _multiplicity(patients: Sequence[str]) -> Floats:
    """[RESAMPLES, N]: how often a bootstrap sample of patients holds each volume; those of a patient go together."""
    names, owner = np.unique(np.array(patients, dtype=str), return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / max(1, len(names))), RESAMPLES)
    return drawn[:, owner].astype(np.float64)


def _metrics(positive: Bools, probability: Floats, threshold: float | None, weights: Floats) -> dict[str, Floats]:
    """Each metric under each row of weights [R, N]: arrays [R]."""
    nothing = np.full(len(weights), np.nan)
    values = dict.fromkeys(METRICS, nothing) | {"auc": weighted_auc(positive, probability, weights)}
    if threshold is None or not len(positive):
        return values
    called = probability > threshold
    tp, fp = weights @ (called & positive), weights @ (called & ~positive)
    fn, tn = weights @ (~called & positive), weights @ (~called & ~positive)
    of_positive, of_negative = tp + fn, fp + tn
    f1 = _ratio(2 * tp, 2 * tp + fp + fn, 0.0) * of_positive + _ratio(2 * tn, 2 * tn + fn + fp, 0.0) * of_negative
    return values | {
        "accuracy": _ratio(tp + tn, of_positive + of_negative),
        "f1": _ratio(f1, of_positive + of_negative),
        "precision": _ratio(tp, tp + fp, 0.0),
        "sensitivity": _ratio(tp, of_positive),
        "specificity": _ratio(tn, of_negative),
    }


def weighted_auc(positive: Bools, probability: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve under each row of weights [R, N], ties counted half; NaN without both classes.

    All resamples share one sorting: 100 times faster than as many calls of scikit-learn, which tests hold it against.
    """
    if not len(positive):
        return np.full(len(weights), np.nan)
    order = np.argsort(probability)
    starts = np.flatnonzero(np.diff(probability[order], prepend=np.nan) != 0)
    positives = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    negatives = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    below = negatives.cumsum(1) - negatives / 2
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def _ratio(top: Floats, bottom: Floats, otherwise: float = float("nan")) -> Floats:
    out = np.full(np.broadcast(top, bottom).shape, otherwise)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def _mean(columns: list[Floats]) -> Floats:
    """Mean over targets [R], of those that have the metric."""
    stacked = np.array(columns)
    known = ~np.isnan(stacked)
    return _ratio(np.where(known, stacked, 0.0).sum(0), known.sum(0).astype(np.float64))


def _estimate(values: Floats) -> Estimate:
    """The first value, and percentiles of the resampled others."""
    resampled = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(resampled):
        return Estimate(float(values[0]), float("nan"), float("nan"))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(values[0]), float(low), float(high))
