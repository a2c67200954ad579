"""Zero-shot evaluation: AUC per finding with bootstrap intervals, operating points chosen on other patients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.metrics import roc_auc_score, roc_curve

from fvlm.config import FindingConfig
from fvlm.tokenizer import tokenize
from training.learner import CLIPLearner, Learner, Pooled

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
RESAMPLES = 500
SPECIFICITY = 0.98
"""Of the operating points of the bundled release, on the patients they are chosen on."""


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
    threshold: float | None = None
    """The operating point, if one was asked for and both classes were seen."""
    sensitivity: float | None = None
    """At the operating point, on the patients it was chosen on."""
    specificity: float | None = None


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


def operating_point(positive: Bools, probability: Floats, specificity: float) -> float | None:
    """The lowest threshold that keeps a specificity; None without both classes.

    A reader is asked dozens of findings about each patient: few false alarms matter more than the balance.
    """
    if len(set(positive.tolist())) < 2:
        return None
    false_rate, _, thresholds = roc_curve(positive, probability, drop_intermediate=False)
    return float(np.clip(thresholds[false_rate <= 1 - specificity][-1], 0.0, 1.0))


def rate(
    learner: Learner, pooled: Pooled, findings: Sequence[FindingConfig], specificity: float | None
) -> list[FindingMetrics]:
    """Metrics of a learner on a set; with operating points of that specificity, if one is given."""
    return evaluate(truth(pooled, findings), probabilities(learner, pooled, findings), findings, specificity)


def evaluate(
    positive: Bools, probability: Floats, findings: Sequence[FindingConfig], specificity: float | None
) -> list[FindingMetrics]:
    """Metrics of each finding from truth and probabilities [N, F]; AUC is NaN where only one class was seen."""
    rows = []
    for column, finding in enumerate(findings):
        seen = ~np.isnan(probability[:, column])
        labels, scores = positive[seen, column], probability[seen, column]
        row = FindingMetrics(finding.finding, int(labels.sum()), int(seen.sum()), *_auc_with_interval(labels, scores))
        if specificity is not None and (threshold := operating_point(labels, scores, specificity)) is not None:
            called = scores >= threshold
            row = replace(
                row,
                threshold=threshold,
                sensitivity=float(called[labels].mean()),
                specificity=float((~called[~labels]).mean()),
            )
        rows.append(row)
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
