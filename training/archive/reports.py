"""Reports, wherever they come from: objects of the archive, files that a RIS or an interface engine dropped, tables."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from config import Reason
from dicom_sr.identity import MANUFACTURER
from dicom_sr.reports_in import LARGEST, ObserverKind, Report, ReportError, Status, read_report, text
from training.archive.entries import CollectError, day_of, word
from training.archive.identifiers import Known, known, of_report
from training.archive.storage import REPORT_CLASSES

_MEASUREMENTS = frozenset({("126000", "DCM"), ("126001", "DCM")})
"""Root concepts of measurement reports (TID 1500)."""
_COLUMNS = (
    "study_instance_uid", "accession_number", "patient_id", "study_date", "findings", "impression", "text", "language",
)  # fmt: skip
_TEXTS = ("findings", "impression", "text")


@dataclass(frozen=True)
class FoundReport:
    """One report, ready to be paired. All of it is private."""

    key: str
    """SHA-256 of what it was read from, hex."""
    source: str
    """sr, pdf, cda, hl7, fhir or csv."""
    study_uid: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    examined: date | None = field(default=None, repr=False)
    issued: datetime | None = field(default=None, repr=False)
    status: Status = Status.FINAL
    by_machine: bool = False
    language: str = ""
    sections: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """(title, text) in order."""
    known: Known = field(default_factory=Known)


@dataclass(frozen=True)
class Unread:
    """What could not be read as a report."""

    key: str
    reason: Reason


def of_archive(file: Path) -> FoundReport | Unread:
    """An object of the archive that may be a report."""
    data = file.read_bytes()
    return _read(data) if len(data) <= LARGEST else Unread(_key(data), Reason.REPORT_TOO_LARGE)


def of_drop(
    where: Path, columns: Mapping[str, str], seen: Callable[[str], bool] = lambda _: False
) -> Iterator[FoundReport | Unread]:
    """Everything in a file or below a folder: CSV by its suffix, `.ndjson` a resource a line, HL7 a message each, FHIR
    Bundles a report each. Of what `seen` says that it is known, by its key, nothing is read again.

    Raises CollectError if it is not there, or a CSV lacks the columns that it needs.
    """
    if not where.exists():
        raise CollectError(f"{where} is not there; name a file or folder with reports")
    for file in sorted(path for path in where.rglob("*") if path.is_file()) if where.is_dir() else [where]:
        if file.suffix.lower() == ".csv":
            yield from _of_csv(file, columns, seen)
            continue
        try:
            with file.open("rb") as stream:
                data = stream.read(LARGEST + 1)
        except OSError as error:
            raise CollectError(f"{where}: a file cannot be read: {error.strerror}") from error
        for part in _parts(file, data):
            key = _key(part)
            if seen(key):
                continue
            yield _read(part) if len(part) <= LARGEST else Unread(key, Reason.REPORT_TOO_LARGE)


def _parts(file: Path, data: bytes) -> Iterable[bytes]:
    """One report each: batches of HL7 messages and lines of JSON are split. `data`: the file, or how it begins."""
    if file.suffix.lower() == ".ndjson":
        return _lines(file)
    if re.match(rb"[\x0b\s]*(?:MSH|FHS|BHS)", data):
        messages = re.split(rb"(?:^|(?<=[\r\n\x0b]))(?=MSH)", file.read_bytes())
        return [re.split(rb"[\r\n](?=BTS|FTS)", one)[0] for one in messages if one.startswith(b"MSH")]
    return _single(data) if data.lstrip().startswith(b"{") else [data]


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        yield from (line for line in stream if line.strip())


def _single(data: bytes) -> list[bytes]:
    """A FHIR Bundle with several reports as bundles with one each and what it refers to; anything else as it is."""
    try:
        bundle = json.loads(data)
        entries: list[dict[str, Any]] = [one for one in bundle["entry"] if isinstance(one["resource"], dict)]
        reports = [one for one in entries if one["resource"]["resourceType"] == "DiagnosticReport"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return [data]
    if len(reports) < 2:
        return [data]
    by_name = {name: one for one in entries for name in _names(one)}
    return [json.dumps(bundle | {"entry": _with_references(report, by_name)}).encode() for report in reports]


def _with_references(report: dict[str, Any], by_name: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found, waiting = [report], _references(report)
    while waiting:
        entry = by_name.get(waiting.pop())
        if entry is not None and entry not in found and entry["resource"].get("resourceType") != "DiagnosticReport":
            found.append(entry)
            waiting += _references(entry)
    return found


def _names(entry: dict[str, Any]) -> list[str]:
    """Under which others refer to an entry."""
    resource = entry["resource"]
    return [str(entry.get("fullUrl")), f"{resource.get('resourceType')}/{resource.get('id')}"]


def _references(entry: dict[str, Any]) -> list[str]:
    return re.findall(r'"reference": "([^"#]+)"', json.dumps(entry))


def _read(data: bytes) -> FoundReport | Unread:
    key = _key(data)
    try:
        dataset = _dataset(data)
        if dataset is not None and dataset.get("SOPClassUID") not in REPORT_CLASSES:
            return Unread(key, Reason.NOT_A_REPORT)
        report = read_report(data)
    except ReportError as error:
        return Unread(key, error.reason)
    if not any(section.text.strip() for section in report.sections):
        return Unread(key, Reason.REPORT_NO_TEXT)
    return FoundReport(
        key,
        report.source.value,
        report.study_instance_uid.strip(),
        report.accession_number.strip(),
        report.patient_id.strip(),
        report.examined,
        report.issued,
        report.status,
        _by_machine(report, dataset),
        report.language,
        tuple((section.title, section.text) for section in report.sections),
        of_report(data) | known([report.observer_name], [report.accession_number, report.patient_id]),
    )


def _by_machine(report: Report, dataset: Dataset | None) -> bool:
    """Whether no radiologist wrote it: our own results in any shape, measurement reports, what a device observed."""
    if report.observer is ObserverKind.DEVICE:
        return True
    if dataset is None:
        return False
    if word(dataset.get("Manufacturer")) == MANUFACTURER:
        return True
    titles = dataset.get("ConceptNameCodeSequence") or []
    named = {(word(one.get("CodeValue")), word(one.get("CodingSchemeDesignator"))) for one in titles}
    return bool(named & _MEASUREMENTS) and report.observer is not ObserverKind.PERSON


def _dataset(data: bytes) -> Dataset | None:
    """The header, if it is DICOM. Raises ReportError."""
    if data[128:132] != b"DICM":
        return None
    try:
        return dcmread(BytesIO(data), defer_size=1024)
    except Exception as error:  # pydicom raises nearly any type on damaged data
        raise ReportError(Reason.REPORT_DAMAGED, f"it cannot be read ({type(error).__name__})") from error


def _of_csv(file: Path, columns: Mapping[str, str], seen: Callable[[str], bool]) -> Iterator[FoundReport | Unread]:
    """A report a row. Raises CollectError."""
    wrong = sorted(set(columns) - set(_COLUMNS))
    if wrong:
        raise CollectError(f"columns: there is no {', '.join(wrong)}; there are {', '.join(_COLUMNS)}")
    names = {column: columns.get(column, column) for column in _COLUMNS}
    csv.field_size_limit(16 * 2**20)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            present = set(rows.fieldnames or ())
            keyed = (
                names["study_instance_uid"] in present or {names["accession_number"], names["patient_id"]} <= present
            )
            if not keyed or not present & {names[one] for one in _TEXTS}:
                raise CollectError(
                    f"{file}: needs study_instance_uid, or accession_number with patient_id (and study_date), and one "
                    f"of {', '.join(_TEXTS)}; other names go under `columns` in the configuration"
                )
            for row in rows:
                values = {column: (row.get(name) or "").strip() for column, name in names.items()}
                if not seen(_row_key(values)):
                    yield _of_row(values)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CollectError(f"{file} cannot be read as CSV in UTF-8 ({type(error).__name__})") from error


def _of_row(row: dict[str, str]) -> FoundReport | Unread:
    key = _row_key(row)
    sections = [(title.capitalize(), row[title]) for title in ("findings", "impression") if row[title]]
    if row["text"]:
        sections += [(one.title, one.text) for one in text.split("", text.plain(row["text"]))]
    if not sections:
        return Unread(key, Reason.REPORT_NO_TEXT)
    return FoundReport(
        key,
        "csv",
        row["study_instance_uid"],
        row["accession_number"],
        row["patient_id"],
        day_of(row["study_date"].replace("-", "")),
        language=row["language"],
        sections=tuple(sections),
        known=known((), [row["accession_number"], row["patient_id"]]),
    )


def _row_key(row: dict[str, str]) -> str:
    return _key(json.dumps(row, sort_keys=True).encode())


def _key(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
