"""What benchmarks write can be read again and is what was measured."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from bench_result import Result


def test_the_file_holds_machine_figures_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("example", ("pydicom", "no-such-package"), {"repeats": 3})
    assert result.add("ratio_vs_peer_4", [2.0, 9.0, 1.0]) == 2.0
    result.figures["checked"] = 1
    file = result.finish(tmp_path / "results")
    read = json.loads(file.read_text())
    assert file.name == "example.json"
    assert read["figures"] == {"ratio_vs_peer_4": 2.0, "checked": 1}
    assert read["samples"] == {"ratio_vs_peer_4": [2.0, 9.0, 1.0]}
    assert read["conditions"] == {"repeats": 3}
    assert read["machine"]["cores"] >= 1
    assert read["machine"]["packages"]["pydicom"]
    assert read["machine"]["packages"]["no-such-package"] == ""
    assert "ratio_vs_peer_4" in capsys.readouterr().out
