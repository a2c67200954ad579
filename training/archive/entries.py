"""What an archive lists, and what every kind of archive can do."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Protocol

from pydicom import Dataset

from config import Reason


class ArchiveAwayError(ConnectionError):
    """The archive does not answer or refuses everything; the text holds nothing of a patient."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class CollectError(ValueError):
    """The command cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Days:
    """From one day to another, both included; None: open."""

    first: date | None = None
    last: date | None = None

    def __contains__(self, day: date | None) -> bool:
        """A study without a date is only within days without ends."""
        if day is None:
            return self.first is None and self.last is None
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)

    @property
    def dicom(self) -> str:
        """Range matching (PS3.4 C.2.2.2.5); empty: universal."""
        if self.first is None and self.last is None:
            return ""
        ends = [f"{day:%Y%m%d}" if day else "" for day in (self.first, self.last)]
        return "-".join(ends)


@dataclass(frozen=True)
class StudyEntry:
    """One study as the archive lists it. Nothing of it is ever logged."""

    study_uid: str = field(repr=False)
    patient_id: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    day: date | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SeriesEntry:
    """One series as the archive lists it."""

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    modality: str = ""
    instances: int | None = None
    """How many there are, if the archive says it."""


class Archive(Protocol):
    """Where studies come from. Every method raises ArchiveAwayError."""

    def studies(self, days: Days) -> Iterator[StudyEntry]:
        """CT studies of these days."""
        ...

    def series(self, study_uid: str) -> list[SeriesEntry]:
        """All series of a study."""
        ...

    def peek(self, series: SeriesEntry) -> Dataset | None:
        """The header, without pixels, of one image from the middle of a series; None if the archive gives none."""
        ...

    def fetch(self, series: SeriesEntry, into: Path) -> int:
        """Bring a series into an empty folder, as DICOM files; how many came."""
        ...

    def close(self) -> None:
        """End what listens or is connected."""
        ...


def day_of(text: object) -> date | None:
    """A DICOM date (VR DA), also as older systems write it (`2021.03.02`); None if it is none."""
    try:
        return datetime.strptime(str(text or "").replace(".", "").strip()[:8], "%Y%m%d").date()
    except ValueError:
        return None


def word(text: object) -> str:
    """A value of a text VR without the padding of senders."""
    return str(text if text is not None else "").strip(" \0")
