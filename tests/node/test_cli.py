"""The commands as a person meets them: help, errors in one line, status 2, and no heavy import where none is needed."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from typer.testing import CliRunner

from config import Reason
from config.settings import Settings
from ct.phantom import DISEASES
from node.archive_scp import Archive
from node.cli import app
from node.database import Records, open_database
from node.migrations import upgrade
from node.records import Job, Series
from node.states import State

COMMANDS = [
    "demo", "init", "serve", "analyze", "phantom", "send", "check-sr", "doctor", "status", "jobs", "prioritise",
    "cancel", "retry", "rerun", "series", "clean", "model", "train", "findings", "search", "evaluate", "calibrate",
    "console",
]  # fmt: skip
ONE_KIND_EACH = (CTImageStorage, MRImageStorage)


def fvlm_node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that ended with status 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("Problem: ")
    assert done.stderr.count("\n") == 1
    assert " → " in done.stderr
    return done.stderr


def write_instance(path: Path, sop_class: str = CTImageStorage) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.PatientName = "Somebody^Else"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as running:
        yield running


def test_help_names_every_command() -> None:
    done = fvlm_node("--help")
    assert done.returncode == 0, done.stderr
    assert [name for name in COMMANDS if f" {name} " not in done.stdout] == []


GROUPS = ("model", "series", "train", "findings", "evaluate", "calibrate", "console")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in GROUPS])
def test_each_command_shows_an_example(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Example: fvlm-node" in done.output


@pytest.mark.parametrize("command", [("--help",), ("status",), ("jobs",), ("model", "show"), ("train", "--help")])
def test_a_command_loads_no_library_of_others(command: tuple[str, ...], tmp_path: Path) -> None:
    """Each costs a person seconds before the first line."""
    if command[0] in ("status", "jobs"):
        (tmp_path / "data").mkdir()
        (tmp_path / "node.yaml").write_text(f"data_dir: {tmp_path / 'data'}\n")
        upgrade(open_database(Settings.load(tmp_path / "node.yaml").database))
        command = (*command, "--config", str(tmp_path / "node.yaml"))
    code = (
        f"import sys; from node.cli import main; sys.argv = ['fvlm-node', *{command!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "others = {'torch', 'monai', 'transformers', 'scipy', 'pynetdicom', 'highdicom', 'celery', 'pandas'}\n"
        "loaded = others & sys.modules.keys()\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_init_writes_a_file_that_serves_and_overwrites_none(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    assert fvlm_node("init", file).returncode == 0
    assert Settings.load(file).dicom.ae_title == "FVLM"
    file.write_text("dicom: {port: 104}\n")
    assert "exists already" in told(fvlm_node("init", file))
    assert Settings.load(file).dicom.port == 104


def test_a_wrong_configuration_is_one_line_with_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("dicom: {prot: 104}\n")
    line = told(fvlm_node("serve", "--config", file))
    assert str(file) in line
    assert "dicom.prot" in line


def test_status_without_a_node_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(f"data_dir: {tmp_path / 'data'}\n")
    assert "no node has run" in told(fvlm_node("status", "--config", file))


def test_status_shows_series_and_why_they_ended(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    (tmp_path / "data").mkdir()
    file.write_text(f"data_dir: {tmp_path / 'data'}\n")
    engine = open_database(Settings.load(file).database)
    upgrade(engine)
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with Records(engine).session() as session:
        for uid, modality in (("1.2.3", "MR"), ("1.2.4", "CT")):
            series = Series(
                series_instance_uid=uid,
                study_instance_uid="1.2",
                modality=modality,
                source_ae="SCANNER7",
                first_at=moment,
                last_at=moment,
                state=State.RECEIVING,
            )
            series.move(State.COMPLETE)
            if modality == "MR":
                series.move(State.REJECTED, Reason.NOT_CT, "modality is MR")
            else:
                series.jobs.append(Job(release_digest="0" * 64, state=State.QUEUED))
            session.add(series)
    engine.dispose()
    shown = " ".join(fvlm_node("status", "--config", file).stdout.split())
    assert "SCANNER7" in shown
    assert "REJECTED" in shown
    assert "NOT_CT" in shown
    assert "QUEUED" in shown


def test_send_brings_every_dicom_file_of_a_folder(tmp_path: Path, archive: Archive) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number, sop_class in enumerate(ONE_KIND_EACH * 2):
        write_instance(folder / "sub" / f"{number}.dcm", sop_class)
    (folder / "notes.txt").write_text("not DICOM")
    done = fvlm_node("send", folder, "--to", f"127.0.0.1:{archive.port}", "--called", archive.ae_title)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 instances accepted" in done.stdout
    assert "1 files are not DICOM" in done.stdout
    sent = {dcmread(path).SOPInstanceUID for path in folder.rglob("*.dcm")}
    assert {dcmread(path).SOPInstanceUID for path in archive.files()} == sent
    assert "Somebody" not in done.stdout + done.stderr


def test_send_to_nobody_is_one_line(tmp_path: Path) -> None:
    write_instance(tmp_path / "1.dcm")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port
        line = told(fvlm_node("send", tmp_path, "--to", f"127.0.0.1:{taken.getsockname()[1]}"))
    assert "does not answer" in line


def test_send_to_the_wrong_ae_title_says_which_to_check(tmp_path: Path, archive: Archive) -> None:
    write_instance(tmp_path / "1.dcm")
    line = told(fvlm_node("send", tmp_path, "--to", f"127.0.0.1:{archive.port}", "--called", "WRONG"))
    assert "AE titles" in line


def test_phantom_writes_what_was_ordered(tmp_path: Path) -> None:
    done = fvlm_node("phantom", "--seed", "3", "--disease", "kidney.cyst", "--out", tmp_path, "--nifti")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Renal cyst" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.nii.gz", "labels.nii.gz", "report.txt"]
    assert "cyst" in (tmp_path / "report.txt").read_text().lower()


def test_an_unknown_disease_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    line = told(fvlm_node("phantom", "--disease", "kidney.banana", "--out", tmp_path))
    assert "kidney.banana" in line
    assert all(key in line for key in DISEASES)


@pytest.mark.parametrize("content", [b"no DICOM", b""])
def test_check_sr_of_something_else_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.dcm"
    file.write_bytes(content)
    assert "is not DICOM" in told(fvlm_node("check-sr", file))


def test_check_sr_of_an_image_is_one_line(tmp_path: Path) -> None:
    write_instance(tmp_path / "ct.dcm")
    assert "not a structured report" in told(fvlm_node("check-sr", tmp_path / "ct.dcm"))


def test_doctor_finds_what_is_wrong_and_says_how_to_mend_it(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file.write_text(
            f"data_dir: {tmp_path / 'data'}\n"
            f"dicom: {{port: {taken.getsockname()[1]}}}\n"
            f"model: {{release: {tmp_path / 'no-release'}}}\n"
            "broker_url: redis://:secret@127.0.0.1:9/0\n"
        )
        done = fvlm_node("doctor", "--config", file)
    assert done.returncode == 2
    problems = [line.split("  ")[1].strip() for line in done.stdout.splitlines() if line.startswith("problem")]
    assert problems == ["Model release", "Broker", "DICOM port"]
    assert done.stdout.count("→") == len(problems)
    assert "secret" not in done.stdout
    assert "DICOM validators" in done.stdout
