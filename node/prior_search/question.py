"""Whose earlier reading is looked for, and what an archive has to be able to answer."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom import Dataset

from config import Reason
from node.retrieve.plan import RetrieveError
from node.whose import Whose, text_of, whose

_WILDCARDS = frozenset("*?\\")


@dataclass(frozen=True)
class Question:
    """The study that is about to be read."""

    patient_id: str
    issuer: str
    whose: Whose
    study: str
    """Study Instance UID."""
    release: str
    """Digest of the release that will read it."""

    @property
    def day(self) -> str:
        """Study Date."""
        return self.whose.studied_at[:8]


def question_of(header: Dataset, data_dir: Path, release: str) -> Question | None:
    """From an image's header; None if the patient is not known well enough, or has a Patient ID that would match
    others' too (PS3.4 C.2.2.2.4: wild cards).
    """
    study = whose(header, data_dir)
    patient_id = text_of(header, "PatientID")
    if study is None or _WILDCARDS & set(patient_id):
        return None
    return Question(
        patient_id, text_of(header, "IssuerOfPatientID"), study, text_of(header, "StudyInstanceUID"), release
    )


@dataclass(frozen=True)
class OlderStudy:
    """A study that an archive lists; what it leaves out is empty."""

    uid: str
    day: str
    time: str
    patient_id: str
    issuer: str

    @property
    def studied_at(self) -> str:
        """As `Whose.studied_at`."""
        return self.day + "".join(c for c in self.time[:6] if c.isdigit()).ljust(6, "0")

    def may_answer(self, question: Question) -> bool:
        """Whether it can be an older study of the patient; the report itself is looked at more closely."""
        same = self.patient_id == question.patient_id and self.issuer in ("", question.issuer)
        return same and self.uid != question.study and self.studied_at < question.whose.studied_at


def may_be_ours(series_number: str) -> bool:
    """Whether an SR series can be one of our reports: its Series Number, if the archive tells it."""
    from dicom_sr.identity import Kind  # a second and a hundred MB: only where an archive lists reports

    return series_number in ("", str(Kind.SR.series_number))


class Deadline:
    """Until when an answer is of use."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Raises RetrieveError (PEER_SILENT) if it has passed."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise RetrieveError("the archive answers too slowly (priors.wait_s)", Reason.PEER_SILENT)
        return left


class Archive(Protocol):
    """Every method raises RetrieveError."""

    def studies(self, question: Question) -> list[OlderStudy]:
        """Studies with an SR under this Patient ID, made on the day of the question's study or before. It may list
        more.
        """

    def report_series(self, study: str) -> list[str]:
        """SR series of a study that may be ours."""

    def reports(self, study: str, series: str) -> Iterator[bytes]:
        """The objects of such a series as Part 10 streams."""
