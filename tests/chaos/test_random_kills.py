"""At least 200 seeded `kill -9` over receiver, its processes, worker, delivery and reconciler of one node at work."""

from pathlib import Path

import pytest
from kills import VICTIMS, kill_at_random

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_200_random_kills_lose_nothing_double_nothing_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = kill_at_random(tmp_path, kills=200, seed=20261)
    with capsys.disabled():
        print(f"\n{summary.line()}")
    assert summary.kills.total() >= 200
    assert set(summary.kills) == set(VICTIMS)
    assert summary.series >= 3, "the senders sent next to nothing: the kills hit an idle node"
    assert summary.associations > summary.series, "no association was cut off"
    assert summary.results_while_killing, "nothing was delivered between the kills"
