"""How well a model tells who has what, on patients that it never saw: AUC of each finding, with bootstrap intervals."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from ct.phantom.report import prompts
from training.benchmark.encode import Encoded
from training.benchmark.patients import ANATOMIES, FINDINGS
from training.benchmark.trainees import AnatomyStudent, LabelStudent, ScanStudent

Floats = npt.NDArray[np.float64]
Student = AnatomyStudent | ScanStudent | LabelStudent

_AT_ONCE = 50
_PLACES = [ANATOMIES.index(finding.split(".")[0]) for finding in FINDINGS]
"""The anatomy of each finding."""


@torch.inference_mode()
def scores(student: Student, data: Encoded) -> Floats:
    """[N, F], higher is likelier: zero-shot from the prompt pair, or the logits of the supervised model.

    NaN where the finding's anatomy is absent or cut: the same patients for every method.
    """
    training = student.training
    student.eval()
    patients = range(len(data))
    rows = [_rows(student, data, patients[first : first + _AT_ONCE]) for first in patients[::_AT_ONCE]]
    student.train(training)
    return np.concatenate(rows)


def _rows(student: Student, data: Encoded, chosen: Sequence[int]) -> Floats:
    batch = data.batch(chosen).to(student.model.temp.device)
    if isinstance(student, LabelStudent):
        answers = student.logits(batch)
    else:
        asked = [prompts()[finding] for finding in FINDINGS]
        direction = student.texts([yes for _, yes in asked]) - student.texts([no for no, _ in asked])
        image = student.image(batch)
        features = image[:, _PLACES] if isinstance(student, AnatomyStudent) else image[:, None]
        answers = (features * direction).sum(-1)
    return answers.masked_fill(~batch.usable[:, _PLACES], float("nan")).double().cpu().numpy()


@torch.inference_mode()
def image_features(student: AnatomyStudent, data: Encoded) -> Floats:
    """[N, F, E] of unit length: of each finding's anatomy; NaN where it is absent or cut."""
    student.eval()
    found = []
    for first in range(0, len(data), _AT_ONCE):
        batch = data.batch(range(first, min(first + _AT_ONCE, len(data)))).to(student.model.temp.device)
        image = student.image(batch)[:, _PLACES].masked_fill(~batch.usable[:, _PLACES, None], float("nan"))
        found.append(image.double().cpu().numpy())
    return np.concatenate(found)


def aucs(truth: npt.NDArray[np.bool_], answers: Floats) -> Floats:
    """[F]: AUC of each finding from truth and scores [N, F]; NaN where only one class was seen."""
    found = []
    for column in range(truth.shape[1]):
        seen = ~np.isnan(answers[:, column])
        labels = truth[seen, column]
        one_class = labels.all() or not labels.any()
        found.append(np.nan if one_class else roc_auc_score(labels, answers[seen, column]))
    return np.array(found)
