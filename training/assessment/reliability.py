"""Whether 70 % means 70 of 100: calibration error and Brier score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fvlm.config import FindingConfig
from training.assessment.examined import Bools, Examined, Floats
from training.calibrate import calibrated

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """One finding. NaN without a case."""

    finding: str
    cases: int
    prevalence: float
    mean_probability: float
    ece: float
    """Expected calibration error: mean distance of share and probability over bins of equal width."""
    brier: float
    """Mean squared error of the probability."""
    calibrated: bool
    """The release calibrates this finding; else it is the bare zero-shot probability."""


def reliability(examined: Examined, probability: Floats, findings: Sequence[FindingConfig]) -> tuple[Reliability, ...]:
    """Of probabilities [N, F] before calibration, after that of the release."""
    rows = []
    for index, finding in enumerate(findings):
        keep = examined.known[:, index] & ~np.isnan(probability[:, index])
        scores, labels = probability[keep, index], examined.positive[keep, index]
        if finding.calibration is not None:
            scores = calibrated(finding.calibration, scores)
        rows.append(_rate(finding, labels, scores))
    return tuple(rows)


def _rate(finding: FindingConfig, labels: Bools, scores: Floats) -> Reliability:
    own = finding.calibration is not None
    if not len(labels):
        nothing = float("nan")
        return Reliability(finding.finding, 0, nothing, nothing, nothing, nothing, own)
    ece, brier = calibration_error(labels, scores), float(np.mean((scores - labels) ** 2))
    return Reliability(finding.finding, len(labels), float(labels.mean()), float(scores.mean()), ece, brier, own)


def calibration_error(labels: Bools, scores: Floats, bins: int = BINS) -> float:
    """Expected calibration error of probabilities [N], at least one, over bins of equal width."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    gap = np.bincount(place, scores, bins) - np.bincount(place, labels, bins)
    return float(np.abs(gap).sum() / len(labels))
