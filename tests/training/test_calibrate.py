"""Operating points and calibration, against what they promise."""

import numpy as np
import pytest

from training.calibrate import OperatingPoints, operating_points


def patients(seed: int, distance: float, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    positive = random.random(count) < 0.3
    return positive, 1 / (1 + np.exp(-random.normal(np.where(positive, distance, 0.0))))


@pytest.mark.parametrize("distance", [-1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize(("specificity", "sensitivity"), [(0.98, 0.95), (0.8, 0.8), (1.0, 1.0), (0.5, 0.5)])
def test_points_keep_what_they_promise_and_are_the_tightest(
    distance: float, specificity: float, sensitivity: float
) -> None:
    positive, probability = patients(1, distance)
    points = operating_points(positive, probability, specificity, sensitivity)
    assert points is not None
    assert points.absent_below <= points.present_from
    assert np.mean(probability[~positive] < points.present_from) >= specificity - 1e-9
    assert np.mean(probability[positive] >= points.absent_below) >= sensitivity - 1e-9
    if points.absent_below < points.present_from:
        lower = probability[probability < points.present_from].max()
        higher = probability[probability > points.absent_below].min()
        assert np.mean(probability[~positive] < lower) < specificity
        assert np.mean(probability[positive] >= higher) < sensitivity


def test_classes_apart_leave_nothing_undetermined() -> None:
    points = operating_points(np.array([False, False, True, True]), np.array([0.1, 0.2, 0.8, 0.9]), 1.0, 1.0)
    assert points == OperatingPoints(0.8, 0.8)
    points = operating_points(np.array([False, True, False, True]), np.array([0.1, 0.4, 0.6, 0.9]), 0.5, 0.5)
    assert points is not None
    assert points.absent_below == points.present_from


def test_youden() -> None:
    positive = np.array([False, False, True, False, True, True])
    points = operating_points(positive, np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), None, 1.0)
    assert points == OperatingPoints(0.3, 0.3)


def test_what_was_not_assessed_is_left_out() -> None:
    positive = np.array([False, True, True, False])
    probability = np.array([0.2, 0.7, np.nan, np.nan])
    assert operating_points(positive, probability, 0.9, 0.9) == operating_points(
        positive[:2], probability[:2], 0.9, 0.9
    )


@pytest.mark.parametrize("positive", [[], [True, True], [False, False]])
def test_one_class_gives_no_points(positive: list[bool]) -> None:
    labels = np.array(positive, dtype=bool)
    assert operating_points(labels, np.full(len(labels), 0.5), 0.9, 0.9) is None


def test_a_useless_score_calls_nobody_present() -> None:
    """All the same score: no threshold tells the classes apart."""
    points = operating_points(np.array([True, False] * 10), np.full(20, 0.7), 0.9, 0.9)
    assert points == OperatingPoints(0.7, 1.0)
    assert operating_points(np.array([True, False] * 10), np.ones(20), 0.9, 0.9) is None
