"""The demo, run as a person runs it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from peers import fvlm_node, until
from pydicom import dcmread

from ct.phantom import DISEASES
from dicom_sr import read
from dicom_sr.validate import validate

pytestmark = pytest.mark.timeout(600)


def demo_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("fvlm-demo-*"))


def children_of(pid: int) -> list[int]:
    """Process ids of all descendants."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(child) for child in listed.read_text().split()] if listed.exists() else []
    return [*direct, *(below for child in direct for below in children_of(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_two_phantoms_go_round_and_everything_is_written(tmp_path: Path) -> None:
    before, out = demo_folders(), tmp_path / "demo-output"
    done = fvlm_node("demo", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert demo_folders() == before
    for patient in ("patient-1", "patient-2"):
        assert sorted(path.name for path in (out / patient).iterdir()) == [
            "SEG.dcm",
            "SR.dcm",
            "report.txt",
            "summary.png",
        ]
        assert str(out / patient / "SR.dcm") in done.stdout.replace("\n", "")
        for name in ("SR.dcm", "SEG.dcm"):
            assert validate(out / patient / name).errors == ()
    healthy = read(dcmread(out / "patient-2" / "SR.dcm"))
    assert healthy.reading.positives == ()
    assert any(
        statement.startswith(("No finding of the model's list", "None of the ")) for statement in healthy.statements
    )
    asked = {f.key for a in healthy.reading.anatomies for f in a.findings}
    assert asked <= set(DISEASES)
    assert "Wall time" in done.stdout
    assert "Next:" in done.stdout


def test_a_failure_names_the_step_and_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "no-dicom"
    folder.mkdir()
    (folder / "a.txt").write_text("text")
    done = fvlm_node("demo", "--input", folder, "--out", tmp_path / "out", seconds=200)
    assert done.returncode == 2
    assert "holds no DICOM" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running_when_it_is_stopped(tmp_path: Path, number: int) -> None:
    before = demo_folders()
    with (tmp_path / "out.txt").open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "node", "demo", "--out", tmp_path / "out"],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            until(lambda: len(children_of(demo.pid)) >= 6, 120, "archive, node and its processes", tmp_path / "out.txt")
            started = children_of(demo.pid)
            os.kill(demo.pid, number)
            assert demo.wait(40) != 0
        finally:
            if demo.poll() is None:
                demo.kill()
                demo.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in started if alive(pid)] == []
    left = demo_folders() - before
    if number == signal.SIGKILL:  # nobody can clean up after that
        for folder in left:
            shutil.rmtree(folder)
    else:
        assert left == set()
