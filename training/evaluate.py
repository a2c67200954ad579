"""Zero-shot evaluation on phantoms: AUC per finding with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.metrics import roc_auc_score

from fvlm.config import FindingConfig
from fvlm.tokenizer import tokenize
from training.learner import CLIPLearner, Learner, Pooled

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
RESAMPLES = 500


@dataclass(frozen=True)
class FindingMetrics:
    """How one finding is told on one set of patients."""

    finding: str
    positives: int
    patients: int
    """Assessed: the anatomy was in the window."""
    auc: float
    auc_low: float
    """95 % bootstrap interval over patients."""
    auc_high: float


def truth(data: Pooled, findings: Sequence[FindingConfig]) -> Bools:
    """[N, F]: the finding was drawn into the patient."""
    return np.array([[f.finding in patient.diseases for f in findings] for patient in data.patients])


@torch.inference_mode()
def probabilities(learner: Learner, pooled: Pooled, findings: Sequence[FindingConfig]) -> Floats:
    """Zero-shot probabilities [N, F] of patients; NaN where the anatomy is not usable.

    CLIP knows no anatomies: it answers from the whole scan, where fVLM answers from the finding's anatomy.
    """
    model = learner.model
    negative, positive = (
        model.text_features(*tokenize(learner.tokenizer, texts, model.config.text.max_tokens))
        for texts in ([f.negative for f in findings], [f.positive for f in findings])
    )
    index = [model.config.anatomies.index(f.finding.split(".")[0]) for f in findings]
    if isinstance(learner, CLIPLearner):
        features = learner.image_features(pooled.whole)[:, None].expand(-1, len(findings), -1)
    else:
        features = torch.stack(
            [F.normalize(proj(pooled.anatomies[:, k]), dim=-1) for k, proj in enumerate(model.vision_projs)], 1
        )[:, index]
    scores = model.probabilities(features, negative, positive)
    return scores.masked_fill(~pooled.usable[:, index], float("nan")).double().numpy()


def rate(learner: Learner, pooled: Pooled, findings: Sequence[FindingConfig]) -> list[FindingMetrics]:
    """Metrics of a learner on a set."""
    return evaluate(truth(pooled, findings), probabilities(learner, pooled, findings), findings)


def evaluate(positive: Bools, probability: Floats, findings: Sequence[FindingConfig]) -> list[FindingMetrics]:
    """Metrics of each finding from truth and probabilities [N, F]; AUC is NaN where only one class was seen."""
    rows = []
    for column, finding in enumerate(findings):
        seen = ~np.isnan(probability[:, column])
        labels, scores = positive[seen, column], probability[seen, column]
        rows.append(
            FindingMetrics(finding.finding, int(labels.sum()), int(seen.sum()), *_auc_with_interval(labels, scores))
        )
    return rows


def macro_auc(rows: Sequence[FindingMetrics]) -> float:
    """Mean AUC over the findings that have one."""
    return float(np.nanmean([row.auc for row in rows]))


def _auc_with_interval(labels: Bools, scores: Floats) -> tuple[float, float, float]:
    if len(set(labels.tolist())) < 2:
        return float("nan"), float("nan"), float("nan")
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(0, len(labels), len(labels))
        if len(set(labels[chosen].tolist())) == 2:
            resampled.append(roc_auc_score(labels[chosen], scores[chosen]))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(roc_auc_score(labels, scores)), float(low), float(high)
