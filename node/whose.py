"""Of which patient a study is, without saying who that is."""

import hashlib
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import structlog
from pydicom import Dataset

from node.pseudonyms import Pseudonyms

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Whose:
    """Of whom a study is, and when it was made."""

    patient: str
    """Keyed hash, 32 hexadecimal digits."""
    studied_at: str
    """Study Date and Time, `YYYYMMDDHHMMSS`, as the scanner's clock had it; compared as text."""


def whose(header: Dataset, data_dir: Path) -> Whose | None:
    """Of whom the study of an image is; None without a Patient ID or a Study Date, or if the key cannot be read."""
    patient_id, day = text_of(header, "PatientID"), text_of(header, "StudyDate")
    time = "".join(c for c in text_of(header, "StudyTime")[:6] if c.isdigit())
    if not patient_id or day_of(day) is None:
        return None
    known = (patient_id, *(text_of(header, name) for name in ("IssuerOfPatientID", "PatientBirthDate", "PatientSex")))
    try:
        patient = Pseudonyms(data_dir).of(hashlib.sha256("\\".join(known).encode()).hexdigest())
    except OSError as error:
        _log.warning("no_prior", error=error.strerror)
        return None
    return Whose(patient, day + time.ljust(6, "0"))


def day_of(text: str) -> date | None:
    """A DICOM date, `YYYYMMDD`; None if it is none."""
    try:
        return datetime.strptime(text, "%Y%m%d").date() if len(text) == 8 else None
    except ValueError:
        return None


def text_of(header: Dataset, keyword: str) -> str:
    """A value as text, empty if it is missing or cannot be decoded."""
    try:
        return str(header.get(keyword) or "").strip()
    except Exception:  # pydicom raises nearly any type on a value that cannot be decoded
        return ""
