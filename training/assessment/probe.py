"""The linear probe: what a logistic regression reads from a frozen feature, told on patients that it did not see."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.assessment.examined import Examined, Floats

FOLDS = 5
LEAST = 10
"""Cases of each class that a probe needs."""


def probe(examined: Examined) -> Floats:
    """Probabilities [N, F] of a probe on the other folds of patients; NaN where there is none to be had."""
    found = np.full(examined.positive.shape, np.nan)
    for index, finding in enumerate(examined.findings):
        features = examined.of_finding(finding)
        keep = np.flatnonzero(examined.known[:, index] & ~np.isnan(features).any(-1))
        labels, patients = examined.positive[keep, index], [examined.subjects[row] for row in keep]
        if min(labels.sum(), (~labels).sum()) < LEAST or len(set(patients)) < FOLDS:
            continue
        for learn, tell in GroupKFold(FOLDS).split(keep, groups=patients):
            if len(set(labels[learn].tolist())) == 2:
                fit = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                fit.fit(features[keep[learn]], labels[learn])
                found[keep[tell], index] = fit.predict_proba(features[keep[tell]])[:, 1]
    return found
