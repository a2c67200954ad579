"""Where scores look: what counts as a hit, and the measurement on the bundled model."""

import numpy as np
import pytest

from ct.phantom import PhantomPatient
from node.release import BUNDLED
from training.localise import LEAST_MM, Located, is_hit, localise
from training.phantom import LOCALISATION_SEED

HEAT = np.arange(100, dtype=np.float16)


@pytest.mark.parametrize(
    ("lesion", "hit"),
    [([95], True), ([90], True), ([88], False), ([3, 97], True), ([3, 50], False), ([], False), (range(100), True)],
)
def test_a_hit_is_a_lesion_among_the_hottest_tenth(lesion: list[int], hit: bool) -> None:
    place = np.zeros(100, bool)
    place[list(lesion)] = True
    assert is_hit(HEAT, place) is hit


def test_heat_that_tells_nothing_or_is_not_there_hits_nothing() -> None:
    everywhere = np.ones(100, bool)
    assert not is_hit(np.full(100, 2.0, np.float16), everywhere)
    assert not is_hit(np.full(100, np.nan, np.float16), everywhere)
    cold = np.where(np.arange(100) < 10, np.nan, HEAT).astype(np.float16)
    assert not is_hit(cold, np.arange(100) < 10)


def test_the_bundled_model_is_measured_one_lesion_a_seed() -> None:
    seen: list[tuple[int, int]] = []
    seeds = range(LOCALISATION_SEED, LOCALISATION_SEED + 6)
    rows = localise(BUNDLED, seeds, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
    assert rows[-1].finding == "all"
    assert rows[-1].lesions == 6 == sum(row.lesions for row in rows[:-1])
    assert rows[-1].hits >= 5  # its card has the share of 100 seeds, these among them
    assert rows[-1].hits == sum(row.hits for row in rows[:-1])
    for row in rows[:-1]:
        assert any(
            lesion.balls and lesion.size_mm >= LEAST_MM
            for seed in seeds
            for lesion in PhantomPatient.draw(seed, [row.finding]).lesions(row.finding)
        )
        assert 0.0 <= row.chance <= 1.0
    assert Located("lung.nodule", 4, 3, 0.2).share == 0.75
