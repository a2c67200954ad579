"""Seeded `kill -9` over receiver, its processes, worker, delivery and reconciler of one node at work."""

from pathlib import Path

import pytest
from kills import VICTIMS, kill_at_random

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("kills", [24, pytest.param(200, marks=pytest.mark.proof)])
def test_random_kills_lose_nothing_double_nothing_and_are_told(
    kills: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = kill_at_random(tmp_path, kills, seed=20261)
    with capsys.disabled():
        print(f"\n{summary.line()}")
    assert summary.kills.total() >= kills
    assert kills < 200 or set(summary.kills) == set(VICTIMS)
    assert summary.series >= 3, "the senders sent next to nothing: the kills hit an idle node"
    assert summary.associations > summary.series, "no association was cut off"
    assert summary.results_while_killing, "nothing was delivered between the kills"
