"""The metrics against scikit-learn, and the protocols against what they promise."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from training.evaluation.metrics import (
    Scored,
    as_published,
    at_operating_points,
    held_out,
    published_threshold,
    weighted_auc,
)


def scored(seed: int = 0, volumes: int = 600, distance: float = 1.2) -> Scored:
    """Two reconstructions a patient, three targets; the last is known for nobody positive. Every tenth not assessed."""
    random = np.random.default_rng(seed)
    positive = random.random((volumes, 3)) < (0.3, 0.1, 0.0)
    probability = 1 / (1 + np.exp(-random.normal(np.where(positive, distance, -0.5))))
    probability[::10, 0] = np.nan
    return Scored(("a", "b", "c"), tuple(f"p{n // 2}" for n in range(volumes)), positive, probability)


def by_hand(positive: np.ndarray, probability: np.ndarray) -> float:
    best, chosen = np.inf, 0.0
    for threshold in np.linspace(0, 1, 100):
        called = probability > threshold
        distance = np.sqrt((1 - called[positive].mean()) ** 2 + called[~positive].mean() ** 2)
        if distance <= best:
            best, chosen = distance, threshold
    return float(chosen)


@pytest.mark.parametrize("seed", range(5))
def test_published_threshold(seed: int) -> None:
    data = scored(seed)
    assert published_threshold(data.positive[:, 1], data.probability[:, 1]) == pytest.approx(
        by_hand(data.positive[:, 1], data.probability[:, 1])
    )


def test_ties_take_the_larger_threshold() -> None:
    assert published_threshold(np.array([False, True]), np.array([0.0, 1.0])) == pytest.approx(98 / 99)


@pytest.mark.parametrize("weighted", [False, True])
def test_auc_is_that_of_scikit_learn(weighted: bool) -> None:
    random = np.random.default_rng(1)
    positive, probability = random.random(80) < 0.4, random.integers(0, 12, 80) / 12
    weights = random.integers(0, 4, (7, 80)).astype(float) if weighted else np.ones((1, 80))
    expected = [roc_auc_score(positive, probability, sample_weight=row) for row in weights]
    assert weighted_auc(positive, probability, weights) == pytest.approx(expected)


def test_published_section_is_the_protocol() -> None:
    data = scored()
    section = as_published(data)
    zeroed = np.nan_to_num(data.probability, nan=0.0)
    for column, row in list(enumerate(section.rows))[:2]:
        labels, scores = data.positive[:, column], zeroed[:, column]
        assert row.threshold == pytest.approx(by_hand(labels, scores))
        called = scores > row.threshold
        expected = {
            "auc": roc_auc_score(labels, scores),
            "accuracy": accuracy_score(labels, called),
            "f1": f1_score(labels, called, average="weighted"),
            "precision": precision_score(labels, called),
            "sensitivity": recall_score(labels, called),
            "specificity": recall_score(~labels, ~called),
        }
        assert {name: estimate.value for name, estimate in row.metrics.items()} == pytest.approx(expected)
        for estimate in row.metrics.values():
            assert estimate.low < estimate.value < estimate.high
    assert [(row.volumes, row.not_assessed) for row in section.rows] == [(600, 60), (600, 0), (600, 0)]
    assert np.isnan(section.rows[2].metrics["auc"].value)
    means = np.mean([row.metrics["auc"].value for row in section.rows[:2]])
    assert section.macro["auc"].value == pytest.approx(means)


def test_held_out_thresholds_never_saw_the_patients() -> None:
    data = scored(volumes=3000)
    section = held_out(data)
    row = section.rows[0]
    assert row.volumes < 0.75 * 3000 * 0.9
    assert row.volumes + row.not_assessed < 0.75 * 3000
    assert section.rows[2].threshold is None
    assert np.isnan(section.rows[2].metrics["accuracy"].value)
    # another truth for the judged patients changes no threshold
    from training.evaluation.metrics import _chooses

    judged = np.array([not _chooses(patient) for patient in data.patients])
    flipped = data.positive.copy()
    flipped[judged] = ~flipped[judged]
    other = held_out(Scored(data.targets, data.patients, flipped, data.probability))
    assert [r.threshold for r in other.rows[:2]] == [r.threshold for r in section.rows[:2]]
    assert 0.6 < judged.mean() < 0.73


def test_published_thresholds_flatter_on_noise() -> None:
    """Scores that know nothing: choosing on the test labels looks better than it is, on held-out data it does not."""
    gains = []
    for seed in range(12):
        noise = scored(seed, volumes=120, distance=-0.5)
        pair = [section.macro for section in (as_published(noise), held_out(noise))]
        gains.append([m["sensitivity"].value + m["specificity"].value - 1 for m in pair])
    flattered, honest = np.mean(gains, 0)
    assert flattered > 0.03
    assert honest < flattered - 0.03


def test_the_bootstrap_resamples_patients() -> None:
    """The same volume thrice a patient tells no more than once: the interval stays as wide."""
    once = scored(volumes=100)
    patients = tuple(f"p{n}" for n in range(100))
    single = as_published(Scored(once.targets, patients, once.positive, once.probability))
    thrice = as_published(
        Scored(once.targets, patients * 3, np.tile(once.positive, (3, 1)), np.tile(once.probability, (3, 1)))
    )
    for a, b in zip(single.rows[:2], thrice.rows[:2], strict=True):
        assert a.metrics["auc"] == pytest.approx(b.metrics["auc"]) or a.metrics["auc"].low == pytest.approx(
            b.metrics["auc"].low
        )


def test_the_release_calls_present_at_its_threshold() -> None:
    data = Scored(("a",), ("p", "q", "r"), np.array([[True], [False], [True]]), np.array([[0.5], [0.49], [np.nan]]))
    row = at_operating_points(data, [0.5]).rows[0]
    assert (row.threshold, row.volumes, row.not_assessed) == (0.5, 2, 1)
    assert (row.metrics["sensitivity"].value, row.metrics["specificity"].value) == (1.0, 1.0)
