"""`fvlm-node analyze` on folders as people have them: good series beside everything else."""

import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from peers import MakeSeries, fvlm_node
from PIL import Image
from planting import PATIENT_ID, PLANTED, leaks, plant
from pydicom import dcmread
from pydicom.uid import MRImageStorage, generate_uid

from dicom_sr import TEST_MARKER, read
from dicom_sr.validate import validate

pytestmark = pytest.mark.timeout(600)


def as_mr(source: Path, target: Path) -> None:
    """The same slices as an MR series of their own."""
    target.mkdir()
    series = generate_uid()
    for path in source.rglob("*.dcm"):
        dataset = dcmread(path)
        dataset.Modality, dataset.SeriesInstanceUID = "MR", series
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(target / path.name)


@dataclass(frozen=True)
class Mixed:
    """What `analyze` made of a folder with a good series and everything else."""

    good: Path
    out: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, make_series: MakeSeries) -> Mixed:
    folder, out = tmp_path_factory.mktemp("mixed") / "in", tmp_path_factory.mktemp("mixed") / "out"
    good = make_series(folder=folder / "good")
    plant(good)
    as_mr(good, folder / "mr")
    (folder / "broken.dcm").write_bytes(next(good.rglob("*.dcm")).read_bytes()[:2000])
    (folder / "notes.dcm").write_text("not DICOM at all")
    (folder / "notes.txt").write_text("nor this")
    return Mixed(good, out, fvlm_node("analyze", folder, "--out", out))


def test_each_problem_is_one_line_with_its_reason_and_the_status_is_2(mixed: Mixed) -> None:
    assert mixed.done.returncode == 2, mixed.done.stderr
    problems = re.findall(r"^([A-Z_]+)  (\S+)", mixed.done.stdout, re.MULTILINE)
    assert sorted(problems) == [("NOT_CT", "series-2"), ("NOT_DICOM", "notes.dcm:"), ("TRUNCATED", "broken.dcm:")]
    assert "1 file is no DICOM image" in mixed.done.stdout
    assert mixed.done.stderr == ""


def test_the_good_series_is_read_all_the_same(mixed: Mixed) -> None:
    results = mixed.out / "series-1"
    dicom = ("SC.dcm", "SEG.dcm", "SR.dcm", "TEXT.dcm")
    assert sorted(path.name for path in results.iterdir()) == [*dicom, "report.txt", "summary.png"]
    assert not (mixed.out / "series-2").exists()
    report = dcmread(results / "SR.dcm")
    assert report.StudyInstanceUID == dcmread(next(mixed.good.rglob("*.dcm"))).StudyInstanceUID
    reading = read(report).reading
    assert len(reading.anatomies) + len(reading.not_assessed) == 15
    assert "Lung" in mixed.done.stdout
    assert TEST_MARKER in (results / "report.txt").read_text()
    for name in dicom:
        assert validate(results / name).errors == ()
    with Image.open(results / "summary.png") as page:
        assert page.size == (1536, 1536)


def test_it_says_no_name(mixed: Mixed) -> None:
    assert dcmread(mixed.out / "series-1" / "SR.dcm").PatientID == PATIENT_ID
    assert [word for word in PLANTED if word.decode() in mixed.done.stdout + mixed.done.stderr] == []
    assert leaks(mixed.out, ("*.log", "report.txt")) == []


def test_a_second_run_on_the_same_files_writes_the_same_objects(mixed: Mixed, tmp_path: Path) -> None:
    done = fvlm_node("analyze", mixed.good, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("SR.dcm", "SEG.dcm", "SC.dcm", "TEXT.dcm"):
        assert (tmp_path / "series-1" / name).read_bytes() == (mixed.out / "series-1" / name).read_bytes()
    newest = max(path.stat().st_mtime for path in mixed.good.rglob("*.dcm"))
    assert read(dcmread(tmp_path / "series-1" / "SR.dcm")).reading.analysed_at == datetime.fromtimestamp(newest, UTC)


@pytest.mark.parametrize("content", [{}, {"a.txt": b"text", "b.bin": bytes(5000)}])
def test_a_folder_without_dicom_is_told_so_without_loading_a_model(tmp_path: Path, content: dict[str, bytes]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    done = fvlm_node("analyze", folder, "--out", tmp_path / "out", seconds=200)
    assert done.returncode == 2
    assert done.stdout.startswith("NOT_DICOM")
    assert done.stderr == ""


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = fvlm_node("analyze", tmp_path / "nowhere", "--out", tmp_path / "out", seconds=200)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is no folder" in done.stderr
