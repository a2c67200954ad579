"""Abnormal false negatives: patients with the same illness are no opposites, though their reports differ.

Each function takes the targets, and gives new ones in which some of the weight of an abnormal patient's row lies on
other abnormal patients. Rows of normal patients stay. `weight` in [0, 1] is alpha times the ramp: the share of the row
that is given to others (section 3.3: alpha 0.5, ramped up over the first two epochs).
"""

import torch
from torch import Tensor

from training.objective.pairs import AnatomyPairs, alike, among
from training.objective.targets import Targets, shares


def softened_by_peer(
    targets: Targets, pairs: AnatomyPairs, peer: AnatomyPairs, temperature: Tensor, weight: float
) -> Targets:
    """Co-teaching: the likenesses that another model sees between the same images and texts.

    y <- (1 - weight) y + weight p with p the peer's softmax over the abnormal patients, for images and for texts each.
    The paper's formula was not at hand: this is what its words say (alpha, two models, both directions).
    """
    scores = peer.scores(temperature).detach()
    abnormal = pairs.abnormal
    return Targets(
        _mixed(targets.texts, among(scores, abnormal), abnormal, weight),
        _mixed(targets.images, among(scores.mT, abnormal), abnormal, weight),
        targets.counted,
    )


def softened_by_texts(
    targets: Targets, pairs: AnatomyPairs, texts: Tensor, temperature: Tensor, weight: float
) -> Targets:
    """Momentum teacher: the likeness of the reports to a slow average of the text encoder, `texts` [B, A, E].

    RADAR's way: each abnormal pair's softmax of text with text is added to the positives, but for the patient's own,
    and rows are normalised; RADAR has `weight` 1. Own and equal captions stay as strong as each other.
    """
    abnormal = pairs.abnormal
    own = torch.eye(len(texts), dtype=torch.bool, device=texts.device)
    likeness = among(alike(texts, texts).detach() / temperature.detach(), abnormal).masked_fill(own, 0.0)

    def add(rows: Tensor) -> Tensor:
        positives = (rows > 0).to(rows.dtype)
        return torch.where(abnormal.any(-1, keepdim=True), shares(positives + weight * likeness), rows)

    return Targets(add(targets.texts), add(targets.images), targets.counted)


def softened_by_findings(targets: Targets, pairs: AnatomyPairs, overlap: Tensor, weight: float) -> Targets:
    """Label overlap: the share of findings that two reports have in common, `overlap` [A, B, B] of `finding_overlap`.

    y <- (1 - weight) y + weight times the row-normalised overlap with the abnormal patients.
    """
    abnormal = pairs.abnormal
    soft = shares(overlap * abnormal)
    return Targets(
        _mixed(targets.texts, soft, abnormal, weight),
        _mixed(targets.images, soft, abnormal, weight),
        targets.counted,
    )


def finding_overlap(findings: Tensor, anatomy: Tensor, anatomies: int) -> Tensor:
    """Jaccard index of the findings that two patients have in each anatomy, float [A, B, B]; 1 with oneself.

    Arguments: `findings` [B, F], 1 present, 0 absent, NaN where the report does not decide; `anatomy` int64 [F], the
    anatomy of each finding. What one of the two reports leaves open counts neither way; with nothing present: 0.
    """
    one_hot = torch.nn.functional.one_hot(anatomy, anatomies).T.to(findings.dtype)  # [A, F]
    known = (~findings.isnan()).to(findings.dtype)
    present = findings.nan_to_num() * known
    per_anatomy = one_hot[:, None] * present  # [A, B, F]
    together = per_anatomy @ present.T
    decided = (one_hot[:, None] * present) @ known.T  # present here, decided there
    either = decided + decided.mT - together
    jaccard = together / torch.where(either > 0, either, 1.0)
    own = torch.eye(len(findings), dtype=torch.bool, device=findings.device)
    return jaccard.masked_fill(own, 1.0)


def _mixed(rows: Tensor, soft: Tensor, abnormal: Tensor, weight: float) -> Tensor:
    """(1 - weight) rows + weight soft in the rows of abnormal patients."""
    ill = abnormal.any(-1, keepdim=True)
    return torch.where(ill, (1.0 - weight) * rows + weight * soft, rows)
