"""What a probability means: Platt scaling and operating points, fitted on labelled patients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve
from sklearn.model_selection import GroupKFold

from fvlm.config import Calibration

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Method = Literal["platt", "temperature"]
LEAST = 10
"""Patients' volumes of each class that a fit needs."""
FOLDS = 5
_ROUNDING = 1e-9
"""Shares like 1 - 0.98 are not exact."""


@dataclass(frozen=True)
class OperatingPoints:
    """Where a finding is absent, undetermined, present; `absent_below <= present_from`."""

    absent_below: float
    """Absent below it, undetermined from it to `present_from`."""
    present_from: float
    """Present at or above it."""


def operating_points(
    positive: Bools, probability: Floats, specificity: float | None, sensitivity: float
) -> OperatingPoints | None:
    """Two thresholds from labels and probabilities [N] (NaN: not assessed, left out).

    None without both classes, or where so many negatives have probability 1 that no threshold keeps `specificity`.
    `present_from` is the lowest threshold that at least `specificity` of the negatives stay below; None takes
    Youden's (most sensitivity + specificity). `absent_below` is the highest threshold that at least `sensitivity`
    of the positives reach: only so many may be missed by a verdict "absent". Where the classes are so far apart that
    the two would cross, both are the middle between them, which keeps both promises and leaves nothing undetermined.
    """
    assessed = ~np.isnan(probability)
    labels, scores = positive[assessed], probability[assessed]
    if len(set(labels.tolist())) < 2:
        return None
    false_rate, true_rate, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    if specificity is None:
        chosen = int(np.argmax(true_rate - false_rate))
    else:
        chosen = int(np.flatnonzero(false_rate <= 1 - specificity + _ROUNDING)[-1])
    if chosen == 0 and scores.max() >= 1.0:
        return None
    present_from = min(float(thresholds[chosen]), 1.0)  # roc_curve starts at infinity: nobody is present
    absent_below = float(thresholds[true_rate >= sensitivity - _ROUNDING][0])
    if absent_below > present_from:
        absent_below = present_from = (absent_below + present_from) / 2
    return OperatingPoints(absent_below, present_from)


def fit_calibration(positive: Bools, probability: Floats, method: Method = "platt") -> Calibration | None:
    """Logistic regression of labels on the log-odds of probabilities [N]; None if the slope would not be positive.

    `platt` fits slope and intercept, `temperature` the slope only. Targets are Platt's, (n+ + 1) / (n+ + 2) and
    1 / (n- + 2), so that classes that are apart give no endless slope.
    """
    scores = logit(probability.clip(1e-6, 1 - 1e-6))[:, None]
    count = int(positive.sum())
    target = np.where(positive, (count + 1) / (count + 2), 1 / (len(positive) - count + 2))
    fit = LogisticRegression(C=np.inf, fit_intercept=method == "platt")
    fit.fit(
        np.vstack([scores, scores]),
        np.repeat([True, False], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope, intercept = float(fit.coef_[0, 0]), float(np.ravel(fit.intercept_)[0])
    return Calibration(slope=slope, intercept=intercept) if slope > 0 else None


def calibrated(calibration: Calibration, probability: Floats) -> Floats:
    """Probabilities [N] after calibration, as `fvlm.reader.calibrate`; NaN stays NaN."""
    scores = calibration.slope * logit(probability.clip(1e-6, 1 - 1e-6)) + calibration.intercept
    return np.asarray(expit(scores), dtype=np.float64)


@dataclass(frozen=True)
class Check:
    """How a fit does on patients that it did not see (5 folds of patients)."""

    sensitivity: float
    """Of the verdict present."""
    specificity: float
    """Of the verdict present."""
    missed: float
    """Share of the positives that are called absent."""
    undetermined: float
    """Share of all volumes."""
    brier_before: float
    brier_after: float
    """Mean squared error of the probability, before and after calibration."""


@dataclass(frozen=True)
class Fit:
    """Calibration and operating points of one finding."""

    volumes: int
    """With a label and a probability."""
    positives: int
    auc: float
    calibration: Calibration | None
    """None: the probabilities do not rise with the finding."""
    points: OperatingPoints | None
    check: Check | None


def fit_finding(
    positive: Bools,
    probability: Floats,
    patients: Sequence[str],
    method: Method,
    specificity: float | None,
    sensitivity: float,
) -> Fit | None:
    """Calibration and operating points from labels, probabilities and patients [N]; None with too few of a class."""
    count = int(positive.sum())
    if min(count, len(positive) - count) < LEAST:
        return None
    auc = float(roc_auc_score(positive, probability))
    calibration = fit_calibration(positive, probability, method)
    if calibration is None:
        return Fit(len(positive), count, auc, None, None, None)
    points = operating_points(positive, calibrated(calibration, probability), specificity, sensitivity)
    check = _check(positive, probability, patients, method, specificity, sensitivity)
    return Fit(len(positive), count, auc, calibration, points, check)


def _check(
    positive: Bools,
    probability: Floats,
    patients: Sequence[str],
    method: Method,
    specificity: float | None,
    sensitivity: float,
) -> Check | None:
    """None where a fold could not be fitted, or there are fewer patients than folds."""
    if len(set(patients)) < FOLDS:
        return None
    present, absent = np.zeros(len(positive), dtype=bool), np.zeros(len(positive), dtype=bool)
    after = np.zeros(len(positive))
    for chosen, others in GroupKFold(FOLDS).split(positive, groups=list(patients)):
        if len(set(positive[chosen].tolist())) < 2:
            return None
        calibration = fit_calibration(positive[chosen], probability[chosen], method)
        if calibration is None:
            return None
        fitted = calibrated(calibration, probability[chosen])
        points = operating_points(positive[chosen], fitted, specificity, sensitivity)
        if points is None:
            return None
        after[others] = calibrated(calibration, probability[others])
        present[others] = after[others] >= points.present_from
        absent[others] = after[others] < points.absent_below
    return Check(
        sensitivity=float(present[positive].mean()),
        specificity=float((~present[~positive]).mean()),
        missed=float(absent[positive].mean()),
        undetermined=float((~present & ~absent).mean()),
        brier_before=float(brier_score_loss(positive, probability)),
        brier_after=float(brier_score_loss(positive, after)),
    )
