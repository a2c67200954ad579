"""What the terminal says about a reading, and which earlier results make room for it."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from config import Reason, Settings
from ct.anatomy import AlgorithmIdentity
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict
from node.analyze import analyze_folder
from node.demo import _forget_environment
from node.serve import _data_folder
from node.show import reading_table

_ALGORITHM = AlgorithmIdentity("test", "1", "0" * 64, test_only=True)
_EMPTY = Reading(_ALGORITHM, _ALGORITHM, (), (NotAssessed("lung", Reason.ANATOMY_ABSENT),), datetime.now(UTC))


def _with(*verdicts: Verdict) -> Reading:
    findings = tuple(Finding("lung.nodule", 0.4, verdict, 0.5) for verdict in verdicts)
    return replace(_EMPTY, anatomies=(AnatomyReading("lung", 5000.0, -800.0, findings),))


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (_EMPTY, "Summary: nothing was assessed: nothing is said about this series"),
        (_with(), "Summary: nothing was assessed: nothing is said about this series"),
        (
            _with(Verdict.NO_OPERATING_POINT),
            "Summary: 1 findings asked; none has an operating point, nothing is concluded",
        ),
        (_with(Verdict.ABSENT), "Summary: nothing present among 1 judged findings in 1 assessed anatomies"),
        (
            _with(Verdict.ABSENT, Verdict.UNDETERMINED),
            "Summary: nothing present among 2 judged findings in 1 assessed anatomies, 1 undetermined",
        ),
    ],
)
def test_the_summary_is_a_negative_only_where_something_was_judged(reading: Reading, said: str) -> None:
    assert reading_table("x", reading).caption == said


def test_analyze_removes_its_earlier_results_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.analyze.configure_logs", lambda *_: None)  # it would outlive the log file of this test
    out, empty = tmp_path / "out", tmp_path / "in"
    empty.mkdir()
    for folder, names in (
        ("series-1", ("SR.dcm", "SEG.dcm", "report.txt", "summary.png")),
        ("series-2", ("SR.dcm", "report.txt", "notes.txt")),
        ("series-3", ("SR.dcm", "image.dcm")),
        ("patient-1", ("SR.dcm", "report.txt")),
        ("series-x", ("SR.dcm", "report.txt")),
    ):
        (out / folder).mkdir(parents=True)
        for name in names:
            (out / folder / name).write_text("of another patient")
    analyze_folder(empty, out, Settings(data_dir=tmp_path), Console(quiet=True))
    left = sorted(str(path.relative_to(out)) for path in out.glob("*-*/*"))
    assert left == [
        "patient-1/SR.dcm", "patient-1/report.txt", "series-2/notes.txt", "series-3/SR.dcm", "series-3/image.dcm",
        "series-x/SR.dcm", "series-x/report.txt",
    ]  # fmt: skip
    assert not (out / "series-1").exists()


def test_the_demo_takes_nothing_but_the_model_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FVLM_DATA_DIR", "FVLM_DATABASE_URL", "fvlm_routing__destinations", "FVLM_MODEL__DEVICE"):
        monkeypatch.setenv(name, "x")
    _forget_environment()
    assert [name for name in os.environ if name.upper().startswith("FVLM_")] == ["FVLM_MODEL__DEVICE"]


def test_a_data_folder_that_was_there_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    with _data_folder(folder, ""):
        assert folder.stat().st_mode & 0o777 == 0o700
