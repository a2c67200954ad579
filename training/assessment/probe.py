"""The linear probe: what a logistic regression reads from a frozen feature, told on patients that it did not see."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.assessment.examined import Examined, Floats

FOLDS = 5
LEAST = 10
"""Cases of each class that a probe needs."""

Rows = npt.NDArray[np.int64]


def probe(examined: Examined, learned: Examined | None = None) -> Floats:
    """Probabilities [N, F] of a probe on patients that it did not learn from; NaN where there is none to be had.

    It learns from `learned`, of the same release, without the patients of `examined`; if None, by cross-validation from
    the other folds of patients.
    """
    found = np.full(examined.positive.shape, np.nan)
    for index in range(len(examined.findings)):
        parts = _folds(examined, index) if learned is None else _split(examined, learned, index)
        for source, learn, tell in parts:
            labels = source.positive[learn, index]
            if min(labels.sum(), (~labels).sum()) and len(tell):
                name = examined.findings[index]
                fit = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                fit.fit(source.of_finding(name)[learn], labels)
                found[tell, index] = fit.predict_proba(examined.of_finding(name)[tell])[:, 1]
    return found


def _folds(examined: Examined, index: int) -> Iterator[tuple[Examined, Rows, Rows]]:
    """The rows to learn from and to tell of each fold."""
    rows = _usable(examined, index)
    patients = [examined.subjects[row] for row in rows]
    if _enough(examined, rows, index) and len(set(patients)) >= FOLDS:
        for learn, tell in GroupKFold(FOLDS).split(rows, groups=patients):
            yield examined, rows[learn], rows[tell]


def _split(examined: Examined, learned: Examined, index: int) -> Iterator[tuple[Examined, Rows, Rows]]:
    """All rows to learn from, and all to tell."""
    told = set(examined.subjects)
    rows = np.array([row for row in _usable(learned, index) if learned.subjects[row] not in told], np.int64)
    if _enough(learned, rows, index):
        yield learned, rows, _usable(examined, index)


def _usable(examined: Examined, index: int) -> Rows:
    """Whose anatomy was assessed, and whose report decides."""
    features = examined.of_finding(examined.findings[index])
    return np.flatnonzero(examined.known[:, index] & ~np.isnan(features).any(-1))


def _enough(examined: Examined, rows: Rows, index: int) -> bool:
    labels = examined.positive[rows, index]
    return bool(min(labels.sum(), (~labels).sum()) >= LEAST)
