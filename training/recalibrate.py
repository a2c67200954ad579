"""A release with calibration and operating points from a labelled table: another release, with another digest."""

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import load_vocabulary
from fvlm.config import FindingConfig
from fvlm.release import Release, derive_release, read_release
from training.calibrate import Bools, Fit, Floats, Method, fit_finding
from training.evaluation.data_set import DataError, flag
from training.evaluation.predictions import ABOUT, Prediction, read_predictions

_HEADING = "## Calibration and operating points"


@dataclass(frozen=True)
class Wish:
    """What is asked of the fit."""

    method: Method = "platt"
    specificity: float | None = 0.95
    """Of the verdict present; None: Youden's threshold."""
    sensitivity: float = 0.95
    """Share of the positives that the verdict absent must not touch."""


@dataclass(frozen=True)
class Recalibrated:
    """What came of it."""

    digest: str
    fits: dict[str, Fit]
    """By finding."""
    unchanged: dict[str, str]
    """Findings that keep what they had, and why."""


def recalibrate(release_dir: Path, labels: Path, predictions: Path, out: Path, wish: Wish) -> Recalibrated:
    """Fit every finding that both tables tell about, and write the new release to `out`.

    `labels` is a CSV file: volumes in the first column (with or without .nii.gz), then 0, 1 or nothing in columns named
    by findings, as keys (lung.nodule) or titles (Lung nodule). `predictions` is that of `fvlm-node evaluate` with the
    same release. Raises DataError or `fvlm.ReleaseError`.
    """
    release = read_release(release_dir)
    _same_release(predictions.with_name(ABOUT), release)
    table = _Table(labels, read_predictions(predictions), release)
    fits: dict[str, Fit] = {}
    unchanged: dict[str, str] = {}
    findings = []
    for config in release.findings:
        fit = table.fit(config.finding, wish)
        if isinstance(fit, Fit):
            fits[config.finding] = fit
            findings.append(_changed(config, fit))
        else:
            unchanged[config.finding] = fit
            findings.append(config)
    if not fits:
        raise DataError(
            f"{labels}: no finding could be fitted: " + "; ".join(f"{k}: {v}" for k, v in unchanged.items())
        )
    card = _card(release.card, table, fits, unchanged, wish, release)
    return Recalibrated(derive_release(release, findings, card, out), fits, unchanged)


def _changed(config: FindingConfig, fit: Fit) -> FindingConfig:
    return config.model_copy(
        update={
            "calibration": fit.calibration,
            "threshold": fit.points.present_from if fit.points else None,
            "absent_below": fit.points.absent_below if fit.points else None,
        }
    )


def _same_release(about: Path, release: Release) -> None:
    """Raises DataError unless the predictions were made by this release."""
    try:
        digest = json.loads(about.read_text(encoding="utf-8"))["release"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{about}: cannot be read ({type(error).__name__}); it lies beside predictions.csv of fvlm-node evaluate"
        ) from error
    if digest != release.digest:
        raise DataError(
            f"{about}: the predictions are those of release {digest[:12]}, not of {release.digest[:12]}; "
            "run fvlm-node evaluate with this release"
        )


class _Table:
    """Labels and probabilities of the same volumes."""

    def __init__(self, labels: Path, predictions: list[Prediction], release: Release) -> None:
        self.path = labels
        rows, self._columns = _read_labels(labels, release)
        self._pairs = [(p, rows[p.volume]) for p in predictions if p.volume in rows]
        if not self._pairs:
            raise DataError(f"{labels}: none of its {len(rows)} volumes has a prediction; its first column names them")
        self.volumes = len(self._pairs)
        self.patients = len({prediction.patient for prediction, _ in self._pairs})

    def fit(self, finding: str, wish: Wish) -> Fit | str:
        """The fit, or why there is none."""
        column = self._columns.get(finding)
        if column is None:
            return "no column of labels"
        positive, probability, patients = self._known(finding, column)
        count = int(positive.sum())
        fit = fit_finding(positive, probability, patients, wish.method, wish.specificity, wish.sensitivity)
        return fit or f"only {count} positive and {len(positive) - count} negative volumes"

    def _known(self, finding: str, column: str) -> tuple[Bools, Floats, list[str]]:
        """Volumes with a label and a probability."""
        taken = [
            (flag(self.path, column, row[column]), p.probability[finding], p.patient)
            for p, row in self._pairs
            if row[column].strip() and not np.isnan(p.probability[finding])
        ]
        positive, probability, patients = zip(*taken, strict=True) if taken else ((), (), ())
        return np.array(positive, dtype=bool), np.array(probability, dtype=np.float64), list(patients)


def _read_labels(path: Path, release: Release) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Rows by volume, and the column of each finding. Raises DataError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = list(reader.fieldnames or ())
            rows = {(row[header[0]] or "").strip().removesuffix(".nii.gz"): row for row in reader if header}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV file with labels") from error
    vocabulary, columns = load_vocabulary(), {}
    for finding in release.findings:
        for name in (finding.finding, vocabulary.finding(finding.finding).title):
            if name in header[1:]:
                columns[finding.finding] = name
                break
    if not columns:
        raise DataError(f"{path}: no column is named as a finding of the release; name them lung.nodule or Lung nodule")
    return rows, columns


def _card(
    card: str, table: _Table, fits: dict[str, Fit], unchanged: dict[str, str], wish: Wish, release: Release
) -> str:
    """The card with what was done; an earlier section of the same name is replaced."""
    kept = re.sub(rf"{_HEADING}\n.*?(?=^## |\Z)", "", card, flags=re.DOTALL | re.MULTILINE).rstrip()
    labels = hashlib.sha256(table.path.read_bytes()).hexdigest()
    present = "Youden's threshold" if wish.specificity is None else f"a specificity of {100 * wish.specificity:g} %"
    lines = [
        kept,
        "",
        _HEADING,
        "",
        f"Fitted on {table.volumes} volumes of {table.patients} patients, labels `{table.path.name}` (SHA-256 "
        f"{labels}), with the probabilities of release {release.digest}. Calibration: {wish.method}. Present from "
        f"{present} on; absent below the point that {100 * wish.sensitivity:g} % of the positives reach; undetermined "
        "between. The figures on the right are of patients that a fit did not see (5 folds by patient); *missed* are "
        "positives called absent. They hold for patients like these.",
        "",
        "| finding | positive / volumes | AUC | absent below | present from | sensitivity | specificity | missed "
        "| undetermined | Brier before, after |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(fits)),
    ]
    if unchanged:
        lines += ["", "Unchanged: " + "; ".join(f"{finding} ({why})" for finding, why in unchanged.items()) + "."]
    return "\n".join(lines) + "\n"


def rows(fits: dict[str, Fit]) -> list[list[str]]:
    """One line a finding, for card and terminal."""
    table = []
    for finding, fit in fits.items():
        points = ["never", "no operating point"]
        if fit.points is not None:
            points = [f"{fit.points.absent_below:.3f}", f"{fit.points.present_from:.3f}"]
        check = ["-"] * 5
        if fit.check is not None:
            c = fit.check
            shares = (c.sensitivity, c.specificity, c.missed, c.undetermined)
            check = [*(f"{share:.2f}" for share in shares), f"{c.brier_before:.3f}, {c.brier_after:.3f}"]
        table.append([finding, f"{fit.positives} / {fit.volumes}", f"{fit.auc:.3f}", *points, *check])
    return table
