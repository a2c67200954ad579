"""The short soak: SOAK_MINUTES (here 5; `make soak` takes 120) at twice the rate of one GPU."""

import os
from pathlib import Path

import pytest
from rich.console import Console
from soak import SERIES_PER_S, Sample, _trend, soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "5"))


@pytest.mark.peers
@pytest.mark.proof
@pytest.mark.timeout(900 + 90 * MINUTES)
def test_memory_threads_and_handles_stay_flat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = soak(tmp_path, MINUTES, SERIES_PER_S)
    report.write(tmp_path / "soak.json")
    with capsys.disabled():
        print()
        Console(width=140).print(report.table())
    assert report.problems == []
    assert report.series == round(MINUTES * 60 * SERIES_PER_S)
    assert {"serve", "receiver", "reconciler", "deliver", "analyze"} <= {trend.process for trend in report.trends}


def test_a_leak_is_called_one() -> None:
    steady = [Sample(at_s=2.0 * n, rss_mb=100 + n % 3, handles=20, threads=4) for n in range(60)]
    leaking = [Sample(at_s=2.0 * n, rss_mb=100 + n, handles=20 + n, threads=4) for n in range(60)]
    assert _trend("steady", steady).flat
    found = _trend("leaking", leaking)
    assert not found.flat
    assert found.slope_mb_per_h == pytest.approx(1800)
    assert found.more_handles > 20
