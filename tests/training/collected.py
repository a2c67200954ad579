"""An archive with a report of every kind, and the command that collects from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from archive_patients import (
    PATIENTS,
    Planted,
    cda,
    dose_report,
    encapsulated,
    fhir,
    hl7,
    part10,
    sr,
    write_series,
)
from pydicom import Dataset
from typer.testing import CliRunner, Result

from dicom_sr.identity import MANUFACTURER
from training.cli import app

SR, PDF, CDA, HL7, FHIR, CSV, NONE = PATIENTS
"""Patients by where their report is; the last one has none."""
KEPT = 6


def pdf(text: str) -> bytes:
    """One page of plain text."""
    escaped = text.replace("(", r"\(").replace(")", r"\)")
    shown = "".join(f"({line}) Tj T* " for line in escaped.split("\n"))
    stream = f"BT /F1 9 Tf 11 TL 30 760 Td {shown}ET".encode("latin-1")
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 900 842]/Contents 4 0 R/Resources<</Font<</F1"
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
    ]
    made, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return made + b"xref\n0 5\n0000000000 65535 f \n%strailer<</Size 5/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        len(made),
    )


def make_archive(folder: Path) -> None:
    """Seven CT studies; beside the thin series of the first one thicker, sharper, reformatted and machine-made ones."""
    for patient in PATIENTS:
        write_series(patient, folder)
    write_series(SR, folder, "thick", 2.0)
    write_series(SR, folder, "sharp", 0.6, "Br64f")
    write_series(SR, folder, "reformat", 0.5, change=_reformat)
    for name, made in (
        ("report", sr(SR, SR.prose())),
        ("ours", sr(SR, "Nodule of lung: 83 %", "ours", MANUFACTURER)),
        ("dose", dose_report(SR)),
    ):
        part10(made, folder / str(SR.number) / f"{name}.dcm")
    part10(encapsulated(PDF, pdf(PDF.prose())), folder / str(PDF.number) / "report.dcm")
    part10(encapsulated(CDA, cda(CDA), cda=True), folder / str(CDA.number) / "report.dcm")


def _reformat(_: int, ds: Dataset) -> None:
    ds.ImageType = ["DERIVED", "SECONDARY", "MPR"]


def make_drop(folder: Path) -> None:
    """The reports that are not in the archive, and three that nobody needs."""
    folder.mkdir()
    stranger = Planted(9, "Outlander", "Nobody", "PID9-1", "ACC-9", HL7.day, HL7.born)
    batch = b"FHS|^~\\&\rBHS|^~\\&\r" + hl7(HL7, HL7.prose()) + hl7(stranger, stranger.prose()) + b"BTS|2\rFTS|1\r"
    (folder / "batch.hl7").write_bytes(batch)
    (folder / "report.json").write_bytes(fhir(FHIR))
    (folder / "broken.json").write_bytes(b"{")
    prose = CSV.prose().replace('"', "")
    (folder / "reports.csv").write_text(f'study_instance_uid,text\n{CSV.study},"{prose}"\n', encoding="utf-8")


def collect(*arguments: str | Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """`fvlm-node train collect` as a process of its own."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=seconds, check=False, env=environment()
    )


def here(*arguments: str | Path) -> Result:
    """The same in this process: without the seconds that a start costs."""
    return CliRunner().invoke(app, ["collect", *map(str, arguments)], env={"COLUMNS": "300"})


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "node", "train", "collect", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def pairs(collection: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (collection / "pairs.jsonl").read_text().splitlines()]
