"""Other questions to a trained model than its pair of prompts: does the feature know more than the prompts ask?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from training.benchmark.encode import Encoded
from training.benchmark.patients import ANATOMIES, FINDINGS
from training.benchmark.scores import Floats, image_features
from training.benchmark.trainees import AnatomyStudent

_SENTENCES = 32
"""Captions of each answer to a finding that are averaged."""


def by_captions(student: AnatomyStudent, train: Encoded, asked: Sequence[Encoded]) -> list[Floats]:
    """[N, F] of each set: the mean of training captions with and without the finding takes the place of its prompts."""
    labels = _labels(train)
    texts = []
    for column, finding in enumerate(FINDINGS):
        place = ANATOMIES.index(finding.split(".")[0])
        for wanted in (0.0, 1.0):
            rows = np.flatnonzero(labels[:, column] == wanted)[:_SENTENCES]
            texts.append([train.scans.cases[row].captions[place] for row in rows])
    distinct = {text: number for number, text in enumerate(dict.fromkeys(text for some in texts for text in some))}
    student.eval()
    with torch.inference_mode():
        encoded = student.texts(list(distinct)).double().cpu().numpy()
    unknown = np.full(encoded.shape[1], np.nan)
    means = np.array([encoded[[distinct[text] for text in some]].mean(0) if some else unknown for some in texts])
    return [(image_features(student, data) * (means[1::2] - means[0::2])).sum(-1) for data in asked]


def by_probe(student: AnatomyStudent, train: Encoded, asked: Sequence[Encoded]) -> list[Floats]:
    """[N, F] of each set: a logistic regression on the training patients' features and their reports' findings."""
    learned, labels = image_features(student, train), _labels(train)
    features = [image_features(student, data) for data in asked]
    found = [np.full(rows.shape[:2], np.nan) for rows in features]
    for column in range(len(FINDINGS)):
        known = np.flatnonzero(~np.isnan(labels[:, column]) & ~np.isnan(learned[:, column]).any(-1))
        if len(set(labels[known, column].tolist())) < 2:
            continue
        fit = LogisticRegression(max_iter=1000).fit(learned[known, column], labels[known, column] > 0)
        for rows, out in zip(features, found, strict=True):
            seen = ~np.isnan(rows[:, column]).any(-1)
            out[seen, column] = fit.decision_function(rows[seen, column])
    return found


def _labels(data: Encoded) -> npt.NDArray[np.float64]:
    """[N, F]: 1, 0, NaN where the report does not decide."""
    return data.scans.said(range(len(data))).findings.double().numpy()
