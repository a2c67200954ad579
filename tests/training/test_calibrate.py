"""Operating points and calibration, against what they promise."""

import numpy as np
import pytest
from scipy.special import expit, logit

from fvlm.reader import calibrate
from training.calibrate import OperatingPoints, calibrated, fit_calibration, fit_finding, operating_points


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


def test_platt_finds_what_was_bent() -> None:
    """Probabilities that are right, bent by a known slope and intercept, come back."""
    random = np.random.default_rng(3)
    right = random.uniform(0.02, 0.98, 20000)
    positive = random.random(len(right)) < right
    bent = expit((logit(right) - 1.5) / 0.5)  # right = sigmoid(0.5 * logit(bent) + 1.5)
    found = fit_calibration(positive, bent)
    assert found is not None
    assert (found.slope, found.intercept) == pytest.approx((0.5, 1.5), abs=0.1)
    assert calibrated(found, bent) == pytest.approx([calibrate(found, p) for p in bent], abs=1e-12)
    hot = expit(logit(right) / 0.25)
    temperature = fit_calibration(positive, hot, "temperature")
    assert temperature is not None
    assert temperature.intercept == 0.0
    assert temperature.slope == pytest.approx(0.25, abs=0.02)


def test_classes_apart_have_an_end() -> None:
    found = fit_calibration(np.arange(40) >= 20, np.linspace(0.01, 0.99, 40))
    assert found is not None
    assert 0 < found.slope < 50


def test_what_does_not_rise_is_not_calibrated() -> None:
    positive, probability = patients(2, -2.0)
    fit = fit_finding(positive, probability, [str(n) for n in range(400)], "platt", 0.9, 0.9)
    assert fit is not None
    assert (fit.calibration, fit.points, fit.check) == (None, None, None)
    assert fit.auc < 0.3


def test_a_fit_tells_how_it_does_on_others() -> None:
    positive, probability = patients(4, 2.0, 2000)
    overconfident = expit(4 * logit(probability))
    names = [f"p{n // 2}" for n in range(2000)]
    fit = fit_finding(positive, overconfident, names, "platt", 0.95, 0.95)
    assert fit is not None
    assert fit.check is not None
    assert fit.calibration is not None
    assert fit.points is not None
    assert fit.check.specificity == pytest.approx(0.95, abs=0.02)
    assert fit.check.missed == pytest.approx(0.05, abs=0.02)
    assert fit.check.brier_after < fit.check.brier_before - 0.01
    assert 0 < fit.check.undetermined < 0.6
    again = fit_finding(positive, overconfident, names, "platt", 0.95, 0.95)
    assert again == fit


def test_too_few_are_not_fitted() -> None:
    positive = np.array([True] * 9 + [False] * 50)
    assert fit_finding(positive, np.linspace(0, 1, 59), [str(n) for n in range(59)], "platt", 0.9, 0.9) is None
