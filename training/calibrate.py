"""What a probability means: Platt scaling and operating points, fitted on labelled patients."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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


_ROUNDING = 1e-9
"""Shares like 1 - 0.98 are not exact."""
