"""Two real thorax CTs and a real brain MR: in as DICOM, out as objects. Nothing is asserted about a diagnosis."""

from pathlib import Path

import pytest
from peers import fvlm_node
from pydicom import Dataset, dcmread

from config import Reason
from dicom_sr import TEST_MARKER, read
from dicom_sr.validate import validate, validate_set
from tests.real_ct import FetchError, fetch, read_nrrd, write_dicom

pytestmark = pytest.mark.timeout(600)

ANATOMIES = 15
LUNGS = ("lung1", "lung2")


def first(folder: Path) -> Dataset:
    """Header of the first slice."""
    return dcmread(folder / "0000.dcm", stop_before_pixels=True)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lung1, lung2 (CT) and brain1 (MR) as DICOM."""
    folder = tmp_path_factory.mktemp("real")
    try:
        files = fetch()
    except FetchError as error:
        pytest.fail(f"the real CTs of the tests cannot be fetched: {error}")
    for name, path in files.items():
        write_dicom(read_nrrd(path), folder / name, "MR" if name.startswith("brain") else "CT")
    return folder


def assert_honest(folder: Path, real: Path) -> None:
    """Valid, unverified, marked as test model, and every anatomy either read or left out with a reason."""
    report = dcmread(folder / "SR.dcm")
    others = [dcmread(path) for path in folder.glob("*.dcm") if path.name != "SR.dcm"]
    (sources,) = (real / name for name in LUNGS if first(real / name).StudyInstanceUID == report.StudyInstanceUID)
    parsed = read(report)
    reading = parsed.reading
    assert not parsed.verified
    assert TEST_MARKER in parsed.statements
    said = [anatomy.anatomy for anatomy in reading.anatomies] + [entry.anatomy for entry in reading.not_assessed]
    assert len(set(said)) == len(said) == ANATOMIES
    assert all(isinstance(entry.reason, Reason) for entry in reading.not_assessed)
    for anatomy in reading.anatomies:
        assert all(0.0 <= finding.probability <= 1.0 for finding in anatomy.findings)
    for dataset in (report, *others):
        assert validate(dataset).errors == ()
    assert validate_set([*sources.glob("*.dcm"), report, *others]).errors == ()
    if reading.anatomies:
        assert sorted(str(dataset.Modality) for dataset in others) == ["OT", "SEG", "SR"]


def assert_both_read(out: Path, real: Path) -> None:
    """One result each for the two CTs, none for the MR."""
    results = list(out.glob("series-*"))
    studies = sorted(str(dcmread(folder / "SR.dcm").StudyInstanceUID) for folder in results)
    assert studies == sorted(str(first(real / name).StudyInstanceUID) for name in LUNGS)
    for folder in results:
        assert_honest(folder, real)


def test_analyze_reads_the_cts_and_refuses_the_mr(real: Path, tmp_path: Path) -> None:
    done = fvlm_node("analyze", real, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    problems = [line for line in done.stdout.splitlines() if line.startswith(tuple(Reason))]
    assert len(problems) == 1
    assert problems[0].startswith("NOT_CT  ")
    assert "brain1" in problems[0]
    assert_both_read(tmp_path / "out", real)


@pytest.mark.slow
@pytest.mark.proof
def test_the_same_over_c_store(real: Path, tmp_path: Path) -> None:
    done = fvlm_node("demo", "--input", real, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_both_read(tmp_path / "out", real)
    refused = [line for line in (done.stdout + done.stderr).splitlines() if "NOT_CT" in line]
    assert len(refused) == 1, done.stdout + done.stderr
