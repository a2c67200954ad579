"""`fvlm-node train collect` from a folder: what is kept and dropped, no patient anywhere, killed and gone on with."""

import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from archive_patients import CLINICAL, PATIENTS, SLICES, hl7, leaks, part10, sr, write_series
from collected import (
    CSV,
    FHIR,
    HL7,
    KEPT,
    NONE,
    SR,
    collect,
    command,
    environment,
    here,
    make_archive,
    make_drop,
    pairs,
)
from pydicom import Dataset

from ct import load_series
from training.collection import Collection


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_archive(folder / "dicom")
    make_drop(folder / "drop")
    lines = [
        {"study_instance_uid": one.study, "series_instance_uid": one.series(name), "finding": "lung.nodule",
         "tracking_uid": one.series("track"), "release_digest": "abc", "probability": 0.8, "verdict": "present",
         "reader_verdict": "absent", "agrees": False, "source": "console", "said_by": "console:mumblecroft",
         "reader": "", "said_at": "2021-03-12T10:00:00+00:00", "taken_at": "2021-03-12T10:00:00+00:00"}
        for one, name in ((SR, "thin"), (SR, "thick"), (NONE, "thin"))
    ]  # fmt: skip
    (folder / "feedback.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_every_kind_of_report_is_paired_and_nobody_is_named(tmp_path: Path, archive: Path) -> None:
    out = tmp_path / "collection"
    told = ("--folder", archive / "dicom", "--reports", archive / "drop", "--feedback", archive / "feedback.jsonl")
    done = collect("--out", out, *told)
    assert done.returncode == 0, done.stderr
    collection = Collection.open(out)
    kept = list(collection)
    assert len(kept) == KEPT
    assert {one.report_source for one in kept} == {"sr", "pdf", "cda", "hl7", "fhir", "csv"}
    assert len({one.subject_id for one in kept}) == KEPT
    for pair in kept:
        text = " ".join(collection.text(pair).split())
        assert all(sentence in text for sentence in CLINICAL), text
        assert pair.slices == SLICES
        (volume,) = load_series(collection.images(pair))
        assert volume.hu.shape[0] == SLICES
        assert (pair.provenance.kernel, pair.provenance.slice_thickness_mm) == ("Br40d", 1.0)

    secrets = set[str]().union(*(patient.secrets() for patient in PATIENTS), {"Outlander", "84017"})
    assert len(leaks(archive, secrets)) > 100
    assert leaks(out, secrets) == []
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "all").write_text(done.stdout + done.stderr)
    assert leaks(tmp_path / "logs", secrets) == []

    private = tmp_path / "collection.private"
    assert {path.name for path in private.iterdir()} == {"salt", "ledger.sqlite"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (private, *private.iterdir()))
    rows = list(csv.DictReader((out / "dropped.csv").open()))
    assert sorted(row["reason"] for row in rows) == ["NO_REPORT", "NO_STUDY", "REPORT_DAMAGED"]
    assert all(row["reason"] in done.stdout for row in rows)
    dropped = next(row["pseudonym"] for row in rows if row["reason"] == "NO_REPORT")
    with sqlite3.connect(private / "ledger.sqlite") as ledger:
        found = ledger.execute("SELECT study_uid FROM study WHERE pseudonym = ?", (dropped,)).fetchall()
    assert found == [(NONE.study,)]

    verdicts = [json.loads(line) for line in (out / "feedback.jsonl").read_text().splitlines()]
    assert [one["same_series"] for one in verdicts] == [True, False]
    assert {one["pair_id"] for one in verdicts} == {next(one.pair_id for one in kept if one.report_source == "sr")}

    before = (out / "pairs.jsonl").read_bytes()
    late = tmp_path / "late.hl7"
    late.write_bytes(hl7(NONE, NONE.prose()))
    again = here("--out", out, *told, "--reports", late)
    assert again.exit_code == 0, again.output
    after = (out / "pairs.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(pairs(out)) == KEPT + 1


def test_killed_in_the_middle_it_goes_on_and_doubles_nothing(tmp_path: Path, archive: Path) -> None:
    out = tmp_path / "collection"
    told = ("--out", out, "--folder", archive / "dicom", "--reports", archive / "drop")
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command(*told, "--rate", "60"), stdout=log, stderr=log, env=environment())
    deadline = time.monotonic() + 60
    index = out / "pairs.jsonl"
    while not (index.exists() and index.read_bytes().count(b"\n") >= 2):
        assert running.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    first = pairs(out)
    assert 2 <= len(first) < KEPT

    done = here(*told)
    assert done.exit_code == 0, done.output
    kept = pairs(out)
    assert kept[: len(first)] == first
    assert len({str(one["pair_id"]) for one in kept}) == len(kept) == KEPT
    assert {path.name for path in (out / "images").iterdir()} == {one["pair_id"] for one in kept}
    assert {path.name for path in (tmp_path / "collection.private").iterdir()} == {"salt", "ledger.sqlite"}


def test_colliding_accessions_join_by_patient_and_day_or_not_at_all(tmp_path: Path) -> None:
    """Two patients share an accession number; a third has two studies of one day under another one."""
    other = replace(FHIR, day=HL7.day)
    assert other.accession == HL7.accession
    twins = [replace(CSV, number=number) for number in (20, 21)]
    for one in (HL7, other, *twins):
        write_series(one, tmp_path / "dicom")
    drop = tmp_path / "drop"
    drop.mkdir()
    for number, one in enumerate((HL7, other, twins[0])):
        (drop / f"{number}.hl7").write_bytes(hl7(one, f"FINDINGS:\nNumber {one.number}, {CLINICAL[1]}"))
    out = tmp_path / "collection"
    done = here("--out", out, "--folder", tmp_path / "dicom", "--reports", drop)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((out / "dropped.csv").open()))
    assert [row["reason"] for row in rows] == ["STUDY_AMBIGUOUS"] * 2
    collection = Collection.open(out)
    ages = {f"Number {one.number}": one.day.year - one.born.year - 1 for one in (HL7, other)}
    found = {collection.sections(pair)[0].text.split(",")[0]: pair.provenance.age_years for pair in collection}
    assert found == ages


def spoil(number: int, index: int, ds: Dataset) -> None:
    """What is wrong with the images of patient `number`."""
    if number == 1 and index == 3:
        ds.BurnedInAnnotation = "YES"
    elif number == 2:
        ds.ImagePositionPatient, ds.AcquisitionNumber = [-10.0, -20.0, float(index // 2)], str(index % 2)
        ds.ConvolutionKernel = f"B30 {PATIENTS[1].family}"[:16] if index % 2 else "B30"
    elif number == 3:
        ds.PatientID = ""
    elif number == 4:
        ds.RescaleType = f"HU {PATIENTS[3].family}"[:16]
    elif number == 5 and index == 0:
        ds.PatientID = "SOMEBODY-ELSE"
    elif number == 6:
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    elif number == 7:
        ds.ImagePositionPatient = [-10.0, -20.0, float(index + 4 * (index > 9))]


def test_what_cannot_be_taken_is_told_without_quoting_it(tmp_path: Path) -> None:
    table = ["study_instance_uid,text"]
    for patient in PATIENTS:
        write_series(patient, tmp_path / "dicom", change=partial(spoil, patient.number))
        table.append(f"{patient.study},No effusion in {patient.family}.")
    (tmp_path / "table.csv").write_text("\n".join(table) + "\n")
    (tmp_path / "dicom" / "broken.dcm").write_bytes(b"DICM")
    out = tmp_path / "collection"
    done = here("--out", out, "--folder", tmp_path / "dicom", "--reports", tmp_path / "table.csv")
    assert done.exit_code == 0, done.output
    reasons = {row["reason"] for row in csv.DictReader((out / "dropped.csv").open())}
    assert reasons == {
        "BURNED_IN", "GEOM_DUPLICATE", "NO_PATIENT_ID", "BAD_RESCALE", "MIXED_PATIENT", "NO_ORIGINAL_SERIES",
        "GEOM_GAP",
    }  # fmt: skip
    assert pairs(out) == []
    assert "unreadable files (.dcm)" in done.output
    secrets = set[str]().union(*(patient.secrets() for patient in PATIENTS))
    assert leaks(out, secrets) == []
    assert not any(secret.lower() in done.output.lower() for secret in secrets)


def test_a_collection_keeps_its_salt_and_its_splits(tmp_path: Path) -> None:
    write_series(SR, tmp_path / "dicom")
    part10(sr(SR, SR.prose()), tmp_path / "dicom" / "report.dcm")
    told = ("--out", tmp_path / "c", "--folder", tmp_path / "dicom")
    assert here(*told).exit_code == 0
    first = (tmp_path / "c" / "pairs.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "c")
    assert here(*told).exit_code == 0
    assert (tmp_path / "c" / "pairs.jsonl").read_bytes() == first
    (tmp_path / "shares.yaml").write_text("test_share: 0.5\n")
    done = here(*told, "--config", tmp_path / "shares.yaml")
    assert (done.exit_code, "subjects would change their split" in done.output) == (2, True)
    done = here(*told, "--private", tmp_path / "other")
    assert (done.exit_code, "no salt in it" in done.output) == (2, True)
    (tmp_path / "c.private" / "ledger.sqlite").write_bytes(b"not a database, but long enough for one" * 40)
    done = here(*told)
    assert (done.exit_code, "the ledger in the private folder cannot be used" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out", "c"), "name one archive"),
        (("--folder", "f"), "out: Field required"),
        (("--out", "c", "--folder", "nowhere"), "nowhere is no folder"),
        (("--out", "c", "--folder", "f", "--reports", "nowhere"), "nowhere is not there"),
        (("--out", "c", "--folder", "f", "--reports", "f/wrong.csv"), "needs study_instance_uid"),
        (("--out", "c", "--folder", "f", "--feedback", "f/wrong.csv"), "wrong.csv, line 1: no verdict"),
        (("--out", "c", "--folder", "f", "--feedback", "f/named.jsonl"), "never writes"),
        (("--out", "c", "--folder", "f", "--private", "c/secret"), "must not travel"),
        (("--out", "c", "--pacs", "PACS"), "is not AET@HOST:PORT"),
        (("--out", "c", "--folder", "f", "--retrieve", "move"), "belong to --pacs"),
        (("--out", "c", "--folder", "f", "--night", "late"), "is not HH:MM-HH:MM"),
        (("--out", "c", "--config", "f/wrong.yaml"), "speed: Extra inputs"),
        (("--out", "old", "--folder", "f"), "is not the private folder of old"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "wrong.csv").write_text("name,text\na,b\n")
    named = {"study_instance_uid": "1", "series_instance_uid": "2", "finding": "John Smith", "reader_verdict": "x"}
    (tmp_path / "f" / "named.jsonl").write_text(json.dumps(named) + "\n")
    (tmp_path / "f" / "wrong.yaml").write_text("speed: 9\nfolder: f\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "collection.json").write_text('{"salt": "lost"}')
    result = here(*arguments)
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert "Traceback" not in result.output
