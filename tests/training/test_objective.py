"""The objective against plain re-statements of the formulas, with loops over patients, and its skip rules.

The losses of the public code itself: `tests/fvlm/test_fvlm_parity.py::test_training_losses`.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch import Tensor

from training.objective import (
    AnatomyPairs,
    Targets,
    anatomy_losses,
    clip_loss,
    contrastive_loss,
    corrected_targets,
    finding_overlap,
    multi_label_loss,
    own_targets,
    softened_by_findings,
    softened_by_peer,
    softened_by_texts,
)

TEMPERATURE = torch.tensor(0.07)
Softening = Callable[[AnatomyPairs, float], Targets]


def _pairs(seed: int = 0, patients: int = 5, anatomies: int = 2) -> AnatomyPairs:
    generator = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(patients, anatomies, 8, generator=generator), dim=-1) for _ in range(2))
    normal = torch.tensor([[True, False]] * 2 + [[False, True]] * (patients - 2))
    caption = torch.arange(patients * anatomies).view(patients, anatomies)
    return AnatomyPairs(image, text, torch.ones(patients, anatomies, dtype=torch.bool), normal, caption)


def _random(seed: int) -> AnatomyPairs:
    """Seven patients, three anatomies; anatomies cut, normal and captions equal as the dice fall."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(7, 3, 8, generator=generator), dim=-1) for _ in range(2))
    usable, normal = (torch.rand(7, 3, generator=generator) < share for share in (0.8, 0.5))
    caption = torch.randint(0, 4, (7, 3), generator=generator) + 10 * normal
    return AnatomyPairs(image, text, usable, normal, caption)


def _softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def _restated(image: Tensor, text: Tensor, rows: list[list[float]], columns: list[list[float]]) -> float:
    """Section 3.2 with loops over patients: targets of images over texts, and of texts over images."""
    n = len(image)
    scores = [[float(image[i] @ text[j]) / float(TEMPERATURE) for j in range(n)] for i in range(n)]
    total = 0.0
    for i in range(n):
        texts = _softmax(scores[i])
        images = _softmax([scores[j][i] for j in range(n)])
        total -= sum(rows[i][j] * math.log(texts[j]) + columns[i][j] * math.log(images[j]) for j in range(n))
    return total / (2 * n)


def _hard(pairs: AnatomyPairs, chosen: list[int], k: int) -> list[list[float]]:
    """Section 3.3: a patient's own report, normal with normal, equal captions."""
    rows = []
    for i in chosen:
        row = [
            float(
                i == j
                or bool(pairs.normal[i, k] & pairs.normal[j, k])
                or bool(pairs.caption[i, k] == pairs.caption[j, k])
            )
            for j in chosen
        ]
        rows.append([value / sum(row) for value in row])
    return rows


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_losses_are_the_formula(seed: int) -> None:
    """Whatever is cut, normal or said twice: each anatomy's loss is that of its usable patients alone."""
    pairs = _random(seed)
    losses = anatomy_losses(pairs, TEMPERATURE)
    for k in range(3):
        chosen = [i for i in range(7) if pairs.usable[i, k]]
        rows = _hard(pairs, chosen, k)
        ill = any(not pairs.normal[i, k] for i in chosen)
        all_positive = all(value > 0 for row in rows for value in row)
        assert bool(losses.counted[k]) == (ill and not all_positive)
        expected = _restated(pairs.image[chosen, k], pairs.text[chosen, k], rows, rows) if losses.counted[k] else 0.0
        assert float(losses.each[k]) == pytest.approx(expected, abs=1e-5)
    assert float(losses.total) == pytest.approx(float(losses.each.sum()))


def test_targets_join_normals_and_equal_captions() -> None:
    normal, caption = torch.tensor([[True], [True], [False], [False]]), torch.tensor([[0], [1], [2], [2]])
    same = torch.ones(4, 1, 2)
    targets = corrected_targets(AnatomyPairs(same, same, torch.ones(4, 1, dtype=torch.bool), normal, caption))
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    assert torch.equal(targets.texts[0], expected)
    assert torch.equal(targets.images[0], expected)


def test_without_correction_only_the_own_report_is_positive() -> None:
    pairs = replace(_pairs(), normal=torch.ones(5, 2, dtype=torch.bool), caption=torch.zeros(5, 2, dtype=torch.long))
    targets = own_targets(pairs)
    assert torch.equal(targets.texts, torch.eye(5).expand(2, 5, 5))
    assert targets.counted.tolist() == [True, True]
    loss = anatomy_losses(pairs, TEMPERATURE, targets)
    for k in range(2):
        assert float(loss.each[k]) == pytest.approx(float(clip_loss(pairs.image[:, k], pairs.text[:, k], TEMPERATURE)))
    assert float(anatomy_losses(pairs, TEMPERATURE).total) == 0.0  # corrected: nobody is ill, nothing to learn


def test_anatomy_without_abnormal_patient_is_skipped() -> None:
    pairs = _pairs()
    normal = pairs.normal.clone()
    normal[:, 0] = True
    assert anatomy_losses(replace(pairs, normal=normal), TEMPERATURE).counted.tolist() == [False, True]


def test_an_abnormal_patient_who_is_cut_does_not_count() -> None:
    pairs = _pairs()
    normal, usable = pairs.normal.clone(), pairs.usable.clone()
    normal[:, 0] = True
    normal[3, 0] = usable[3, 0] = False
    losses = anatomy_losses(replace(pairs, normal=normal, usable=usable), TEMPERATURE)
    assert losses.counted.tolist() == [False, True]


def test_single_usable_patient_is_skipped_and_unusable_patients_do_not_count() -> None:
    pairs = _pairs()
    usable = pairs.usable.clone()
    usable[1:, 0] = False
    usable[4, 1] = False
    losses = anatomy_losses(replace(pairs, usable=usable), TEMPERATURE)
    assert losses.counted.tolist() == [False, True]
    four = AnatomyPairs(pairs.image[:4], pairs.text[:4], usable[:4], pairs.normal[:4], pairs.caption[:4])
    torch.testing.assert_close(losses.each[1], anatomy_losses(four, TEMPERATURE).each[1])


@pytest.mark.parametrize("usable", [True, False])
def test_gradients_are_finite_and_only_of_usable_patients(usable: bool) -> None:
    """Anatomies that nobody has whole, zeros for features that are absent: nothing turns into NaN."""
    pairs = _pairs()
    flags = torch.full((5, 2), usable)
    flags[0] = False
    image = (pairs.image * flags[..., None]).requires_grad_()
    temperature = torch.tensor(0.07, requires_grad=True)
    loss = anatomy_losses(replace(pairs, image=image, usable=flags), temperature).total
    of_image, of_temperature = torch.autograd.grad(loss, [image, temperature])
    assert of_image.isfinite().all()
    assert of_temperature.isfinite()
    assert not of_image[0].any()
    assert bool(of_image[1:].any()) is usable


def _by_peer(pairs: AnatomyPairs, weight: float) -> Targets:
    return softened_by_peer(corrected_targets(pairs), pairs, _random(99), TEMPERATURE, weight)


def _by_texts(pairs: AnatomyPairs, weight: float) -> Targets:
    return softened_by_texts(corrected_targets(pairs), pairs, _random(99).text, TEMPERATURE, weight)


def _by_findings(pairs: AnatomyPairs, weight: float) -> Targets:
    findings = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]).float()
    overlap = finding_overlap(findings, torch.tensor([0, 0, 2]), 3)
    return softened_by_findings(corrected_targets(pairs), pairs, overlap, weight)


SOFTENINGS = [_by_peer, _by_texts, _by_findings]


@pytest.mark.parametrize("soften", SOFTENINGS)
@pytest.mark.parametrize("seed", range(4))
def test_softened_targets(soften: Softening, seed: int) -> None:
    """Rows still sum to 1, those of normal patients stay, weight goes to abnormal ones alone, without weight none."""
    pairs = _random(seed)
    hard, soft = corrected_targets(pairs), soften(pairs, 0.5)
    for before, after, none in (
        (hard.texts, soft.texts, soften(pairs, 0.0).texts),
        (hard.images, soft.images, soften(pairs, 0.0).images),
    ):
        torch.testing.assert_close(none, before)
        torch.testing.assert_close(after.sum(-1), pairs.usable.T.float())
        ill = (pairs.usable & ~pairs.normal).T
        torch.testing.assert_close(after[~ill], before[~ill])
        assert not (after - before)[~pairs.abnormal & (before == 0)].any()
    assert torch.equal(hard.counted, soft.counted)


def test_co_teaching_is_the_formula() -> None:
    """y <- (1 - alpha) y + alpha p, p the peer's softmax over abnormal patients, of images over texts and back."""
    pairs, peer = _random(1), _random(99)
    soft = _by_peer(pairs, 0.5)
    for k in range(3):
        ill = [i for i in range(7) if pairs.usable[i, k] and not pairs.normal[i, k]]
        for i in ill:
            to_texts = _softmax([float(peer.image[i, k] @ peer.text[j, k]) / 0.07 for j in ill])
            to_images = _softmax([float(peer.image[j, k] @ peer.text[i, k]) / 0.07 for j in ill])
            hard = corrected_targets(pairs).texts[k, i, ill]
            for found, likeness in ((soft.texts, to_texts), (soft.images, to_images)):
                torch.testing.assert_close(found[k, i, ill], 0.5 * hard + 0.5 * torch.tensor(likeness))


def test_momentum_teacher_is_radars_formula() -> None:
    """Softmax of text with text, 0 on the diagonal, added to the positives, then rows normalised."""
    pairs, texts = _random(1), _random(99).text
    soft = _by_texts(pairs, 1.0)
    for k in range(3):
        ill = [i for i in range(7) if pairs.usable[i, k] and not pairs.normal[i, k]]
        for i in ill:
            likeness = _softmax([float(texts[i, k] @ texts[j, k]) / 0.07 for j in ill])
            row = [
                float(i == j or bool(pairs.caption[i, k] == pairs.caption[j, k])) + (0.0 if i == j else p)
                for j, p in zip(ill, likeness, strict=True)
            ]
            torch.testing.assert_close(soft.texts[k, i, ill], torch.tensor(row) / sum(row))


def test_overlap_is_jaccards_index_within_the_anatomy() -> None:
    nan = float("nan")
    findings = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, nan, 1, 1]])
    overlap = finding_overlap(findings, torch.tensor([0, 0, 0, 1]), 2)
    #                 shared / either, of what both reports decide
    expected = [[1, 1 / 2, 0, 1 / 2], [1 / 2, 1, 0, 1 / 2], [0, 0, 1, 0], [1 / 2, 1 / 2, 0, 1]]
    torch.testing.assert_close(overlap[0], torch.tensor(expected))
    torch.testing.assert_close(overlap[1], torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]))


def test_teachers_get_no_gradient() -> None:
    pairs, peer = _random(1), _random(99)
    image = peer.image.clone().requires_grad_()
    text = peer.text.clone().requires_grad_()
    temperature = torch.tensor(0.07, requires_grad=True)
    taught = replace(peer, image=image, text=text)
    targets = softened_by_peer(corrected_targets(pairs), pairs, taught, temperature, 0.5)
    targets = softened_by_texts(targets, pairs, text, temperature, 0.5)
    assert not targets.texts.requires_grad
    assert not targets.images.requires_grad


def test_gradient_pulls_pairs_together() -> None:
    pairs = _pairs()
    image = pairs.image[:, 0].clone().requires_grad_()
    loss = contrastive_loss(image, pairs.text[:, 0], torch.eye(5), TEMPERATURE)
    (gradient,) = torch.autograd.grad(loss, [image])
    moved = image.detach() - 0.01 * gradient
    assert float(contrastive_loss(moved, pairs.text[:, 0], torch.eye(5), TEMPERATURE)) < float(loss.detach())


def test_multi_label_loss_is_the_mean_over_what_is_known() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.4, 1.5]])
    truth = torch.tensor([[1.0, float("nan")], [0.0, 1.0], [1.0, 0.0]])
    usable = torch.tensor([[True, True], [True, True], [False, True]])
    known = [(0, 0), (1, 0), (1, 1), (2, 1)]
    expected = log_loss([float(truth[at]) for at in known], [float(logits[at].sigmoid()) for at in known])
    assert float(multi_label_loss(logits, truth, usable)) == pytest.approx(expected, abs=1e-6)
    assert float(multi_label_loss(logits, truth, torch.zeros_like(usable))) == 0.0
