"""The objective against a plain re-statement of the paper's formulas, and its skip rules."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from training.objective import AnatomyPairs, anatomy_losses, clip_loss, contrastive_loss, corrected_targets
from training.phantom_data import touches_border

GOLDEN = Path(__file__).parents[1] / "fvlm" / "golden"

TEMPERATURE = torch.tensor(0.07)


def _pairs(seed: int = 0, patients: int = 5, anatomies: int = 2) -> AnatomyPairs:
    generator = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(patients, anatomies, 8, generator=generator), dim=-1) for _ in range(2))
    normal = torch.tensor([[True, False]] * 2 + [[False, True]] * (patients - 2))
    caption = torch.arange(patients * anatomies).view(patients, anatomies)
    return AnatomyPairs(image, text, torch.ones(patients, anatomies, dtype=torch.bool), normal, caption)


def _restated(image: torch.Tensor, text: torch.Tensor, positive: list[list[bool]]) -> float:
    """Section 3.3 with loops over patients."""
    n = len(image)
    scores = [[float(image[i] @ text[j]) / 0.07 for j in range(n)] for i in range(n)]
    total = 0.0
    for i in range(n):
        weight = 1 / sum(positive[i])
        row = math.log(sum(math.exp(s) for s in scores[i]))
        column = math.log(sum(math.exp(scores[j][i]) for j in range(n)))
        for j in range(n):
            if positive[i][j]:
                total -= weight * (scores[i][j] - row) + weight * (scores[j][i] - column)
    return total / (2 * n)


def test_loss_is_the_formula() -> None:
    pairs = _pairs()
    losses = anatomy_losses(pairs, TEMPERATURE)
    assert sorted(losses) == [0, 1]
    for anatomy, loss in losses.items():
        normal = pairs.normal[:, anatomy].tolist()
        positive = [[i == j or (a and b) for j, b in enumerate(normal)] for i, a in enumerate(normal)]
        expected = _restated(pairs.image[:, anatomy], pairs.text[:, anatomy], positive)
        assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_targets_join_normals_and_equal_captions() -> None:
    normal = torch.tensor([True, True, False, False])
    caption = torch.tensor([0, 1, 2, 2])
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    assert torch.equal(corrected_targets(normal, caption), expected)


def test_anatomy_without_abnormal_patient_is_skipped() -> None:
    pairs = _pairs()
    normal = pairs.normal.clone()
    normal[:, 0] = True
    changed = AnatomyPairs(pairs.image, pairs.text, pairs.usable, normal, pairs.caption)
    assert sorted(anatomy_losses(changed, TEMPERATURE)) == [1]


def test_single_usable_patient_is_skipped_and_unusable_patients_do_not_count() -> None:
    pairs = _pairs()
    usable = pairs.usable.clone()
    usable[1:, 0] = False
    usable[4, 1] = False
    losses = anatomy_losses(AnatomyPairs(pairs.image, pairs.text, usable, pairs.normal, pairs.caption), TEMPERATURE)
    assert sorted(losses) == [1]
    without = anatomy_losses(
        AnatomyPairs(pairs.image[:4], pairs.text[:4], usable[:4], pairs.normal[:4], pairs.caption[:4]), TEMPERATURE
    )
    assert torch.equal(losses[1], without[1])


def test_clip_has_only_the_own_report_as_positive() -> None:
    pairs = _pairs()
    image, text = pairs.image[:, 0], pairs.text[:, 0]
    own = [[i == j for j in range(5)] for i in range(5)]
    assert float(clip_loss(image, text, TEMPERATURE)) == pytest.approx(_restated(image, text, own), abs=1e-5)


def test_gradient_pulls_pairs_together() -> None:
    pairs = _pairs()
    image = pairs.image[:, 0].clone().requires_grad_()
    loss = contrastive_loss(image, pairs.text[:, 0], torch.eye(5), TEMPERATURE)
    loss.backward()
    moved = image.detach() - 0.01 * image.grad
    assert float(contrastive_loss(moved, pairs.text[:, 0], torch.eye(5), TEMPERATURE)) < float(loss)


def test_the_parity_fixture_teaches_the_same_anatomies() -> None:
    """`golden/fvlm_parity.json`, part `objective`: which anatomies the reference gave a loss, from captions and masks.

    Its losses themselves need token ids of the captions, which the fixture does not hold.
    """
    golden = json.loads((GOLDEN / "fvlm_parity.json").read_text(encoding="utf-8"))["objective"]
    anatomies = list(golden["captions"])
    axes = [torch.arange(n, dtype=torch.float32) for n in (112, 256, 352)]
    labels = torch.zeros(3, 112, 256, 352, dtype=torch.uint8)
    for patient, organs in enumerate(golden["ellipsoids"]):
        for label, box in organs.items():
            z, y, x = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, box[:3], box[3:], strict=True))
            labels[patient][z[:, None, None] + y[:, None] + x <= 1] = int(label)
    usable = ~touches_border(labels, len(anatomies))
    assert usable.sum(0).tolist() == [3, 3, 3, 2]
    captions = [[golden["captions"][name][patient] for name in anatomies] for patient in range(3)]
    normal = [[text.startswith(f"{n} shows no") for n, text in zip(anatomies, row, strict=True)] for row in captions]
    known = sorted({text for row in captions for text in row})
    same = torch.zeros(3, 4, 8)
    same[..., 0] = 1.0
    pairs = AnatomyPairs(
        same,
        same,
        usable,
        torch.tensor(normal),
        torch.tensor([[known.index(text) for text in row] for row in captions]),
    )
    losses = {f"{anatomies[k]}_itc": float(loss) for k, loss in anatomy_losses(pairs, TEMPERATURE).items()}
    assert losses.keys() == golden["losses"].keys()
    for name, loss in losses.items():  # all features alike: the logarithm of how many patients count, near the golden
        assert loss == pytest.approx(golden["losses"][name], rel=0.08)
    assert sum(golden["losses"].values()) == pytest.approx(golden["total"], abs=1e-5)
