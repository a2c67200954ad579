"""The demo, run as a person runs it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import MakeSeries, fvlm_node, until
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from ct.phantom import DISEASES
from dicom_sr import read
from dicom_sr.validate import validate

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its folder: others may run one at the same time. Short, for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="fvlm-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def demo_folders(temporary: Path) -> list[Path]:
    return list(temporary.glob("fvlm-demo-*"))


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
def test_two_phantoms_go_round_and_everything_is_written(tmp_path: Path, temporary: Path) -> None:
    out = tmp_path / "demo-output"
    done = fvlm_node("demo", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert demo_folders(temporary) == []
    for patient in ("patient-1", "patient-2"):
        assert sorted(path.name for path in (out / patient).iterdir()) == [
            "SC.dcm",
            "SEG.dcm",
            "SR.dcm",
            "TEXT.dcm",
            "report.txt",
            "summary.png",
        ]
        assert str(out / patient / "SR.dcm") in done.stdout.replace("\n", "")
        for name in ("SR.dcm", "SEG.dcm", "SC.dcm", "TEXT.dcm"):
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


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ({"a.txt": b"text"}, [("NOT_DICOM", "DIR:")]),
        ({"a.dcm": b"text", "b.dcm": b""}, [("NOT_DICOM", "a.dcm:"), ("NOT_DICOM", "b.dcm:")]),
    ],
)
def test_a_folder_without_dicom_is_told_line_by_line_before_anything_starts(
    tmp_path: Path, content: dict[str, bytes], problems: list[tuple[str, str]]
) -> None:
    folder = tmp_path / "no-dicom"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    done = fvlm_node("demo", "--input", folder, "--out", tmp_path / "out", seconds=200)
    assert done.returncode == 2
    told = re.findall(r"^([A-Z_]+)  (\S+)", done.stdout.replace(str(folder), "DIR"), re.MULTILINE)
    assert told == problems
    assert f"Problems: {len(problems)}." in done.stdout
    assert done.stdout.count(" → ") == len(problems)
    assert done.stderr == ""


def test_files_and_series_of_ones_own_that_cannot_be_read_are_told_with_their_reason(
    tmp_path: Path, make_series: MakeSeries
) -> None:
    folder = tmp_path / "in"
    good = make_series(folder=folder / "short")
    files = sorted(good.rglob("*.dcm"), key=lambda path: dcmread(path).ImagePositionPatient[2])
    for path in files[10:]:
        path.unlink()
    (folder / "broken.dcm").write_bytes(files[0].read_bytes()[:2000])
    capture = dcmread(files[1])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.SOPInstanceUID = capture.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    capture.SeriesInstanceUID, capture.Modality = "2.25.2", "OT"
    capture.save_as(folder / "z.dcm")
    done = fvlm_node("demo", "--input", folder, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr == ""
    told = re.findall(r"^([A-Z_]+)  (.*?):", done.stdout, re.MULTILINE)
    assert told[0] == ("TRUNCATED", "broken.dcm")
    assert sorted(told[1:]) == [
        ("NOT_CT", "Series 2 (1 images, the first z.dcm)"),
        ("TOO_FEW_SLICES", f"Series 1 (10 images, the first short/{min(path.name for path in files[:10])})"),
    ]
    assert "Series read: 0 of 2. Problems: 3." in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running_when_it_is_stopped(tmp_path: Path, temporary: Path, number: int) -> None:
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
    if number != signal.SIGKILL:  # nobody can clean up after that
        assert demo_folders(temporary) == []
