"""How far each study has come, and every report that was dropped here: a SQLite file, so that a killed run goes on.

It holds patient data (identifiers and report texts as they came), lies in the private folder, mode 0600, and is the
only place where pseudonyms and real UIDs stand beside each other.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ForeignKey, Index, and_, create_engine, event, func, or_, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from config import Reason
from dicom_sr.reports_in import Status
from training.archive.entries import StudyEntry
from training.archive.identifiers import Known
from training.archive.pairing import identifier
from training.archive.reports import FoundReport, Unread

_RETRY = frozenset(
    {
        Reason.NO_REPORT,
        Reason.REPORT_PRELIMINARY,
        Reason.REPORT_BY_MACHINE,
        Reason.INCOMPLETE_FETCH,
        Reason.ARCHIVE_REFUSED,
    }
)
"""Reasons that time may mend: such studies are looked at again by the next run."""


class State(StrEnum):
    """Of a study."""

    FOUND = "found"
    KEPT = "kept"
    DROPPED = "dropped"


class _Base(DeclarativeBase):
    pass


class _Study(_Base):
    __tablename__ = "study"

    study_uid: Mapped[str] = mapped_column(primary_key=True)
    pseudonym: Mapped[str] = mapped_column(index=True)
    patient_id: Mapped[str]
    accession: Mapped[str]
    join_key: Mapped[str] = mapped_column(index=True)
    day: Mapped[date | None]
    state: Mapped[str] = mapped_column(default=State.FOUND.value)
    reason: Mapped[str] = mapped_column(default="")
    detail: Mapped[str] = mapped_column(default="")
    series_uid: Mapped[str] = mapped_column(default="", index=True)
    pair_id: Mapped[str] = mapped_column(default="")


class _Report(_Base):
    __tablename__ = "report"

    key: Mapped[str] = mapped_column(primary_key=True)
    pseudonym: Mapped[str] = mapped_column(index=True)
    source: Mapped[str] = mapped_column(default="")
    study_uid: Mapped[str] = mapped_column(default="", index=True)
    join_key: Mapped[str] = mapped_column(default="", index=True)
    reason: Mapped[str] = mapped_column(default="")
    """Why it could not be read; empty: it was."""
    content: Mapped[str] = mapped_column(default="{}")
    """JSON of the rest of a FoundReport."""


class _Used(_Base):
    """Which dropped report went into which study's decision."""

    __tablename__ = "used"

    key: Mapped[str] = mapped_column(ForeignKey("report.key"), primary_key=True)
    study_uid: Mapped[str] = mapped_column(ForeignKey("study.study_uid"), primary_key=True)


Index("study_open", _Study.state)


@dataclass(frozen=True)
class Outcome:
    """What became of one study, or of one report that no study took."""

    pseudonym: str
    what: str
    """`study` or `report`."""
    reason: Reason


class Ledger:
    """One writer at a time: `training.collection` sees to it."""

    def __init__(self, file: Path) -> None:
        """Opens it, or makes it with mode 0600. Raises OSError, sqlalchemy.exc.SQLAlchemyError."""
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        self._engine: Engine = create_engine(f"sqlite:///{file}", hide_parameters=True)
        event.listen(self._engine, "connect", _prepare)
        _Base.metadata.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def found(self, entry: StudyEntry, pseudonym: str) -> None:
        """A study of the archive; what is known of it already stays, its identifiers are brought up to date."""
        with Session(self._engine) as session, session.begin():
            row = session.get(_Study, entry.study_uid)
            if row is None:
                row = _Study(study_uid=entry.study_uid, pseudonym=pseudonym)
                session.add(row)
            row.patient_id, row.accession, row.day = entry.patient_id, entry.accession, entry.day
            row.join_key = _join_key(entry.accession, entry.patient_id)

    def open_studies(self) -> list[StudyEntry]:
        """What is to be done: new studies, and those whose reason time may have mended; in order of day."""
        query = (
            select(_Study)
            .where(or_(_Study.state == State.FOUND, _Study.reason.in_([reason.value for reason in _RETRY])))
            .order_by(_Study.day, _Study.study_uid)
        )
        with Session(self._engine) as session:
            return [_entry(row) for row in session.scalars(query)]

    def recall(self, there: Callable[[str], bool]) -> None:
        """Studies whose pair is no longer `there` are to be done again: somebody deleted the collection, perhaps."""
        with Session(self._engine) as session, session.begin():
            for row in session.scalars(select(_Study).where(_Study.state == State.KEPT)):
                if not there(row.pair_id):
                    row.state, row.pair_id = State.FOUND.value, ""

    def kept(self, study_uid: str, series_uid: str, pair_id: str) -> None:
        """The study is in the collection."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(_Study, study_uid)
            row.state, row.reason, row.detail = State.KEPT.value, "", ""
            row.series_uid, row.pair_id = series_uid, pair_id

    def dropped(self, study_uid: str, reason: Reason, detail: str = "") -> None:
        """The study is not taken."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(_Study, study_uid)
            row.state, row.reason, row.detail = State.DROPPED.value, reason.value, detail

    def has(self, key: str) -> bool:
        """Whether a report was dropped here before."""
        with Session(self._engine) as session:
            return session.get(_Report, key) is not None

    def took(self, report: FoundReport | Unread, pseudonym: str) -> None:
        """A report that was dropped here. One that is known stays as it is."""
        with Session(self._engine) as session, session.begin():
            if session.get(_Report, report.key) is not None:
                return
            row = _Report(key=report.key, pseudonym=pseudonym)
            if isinstance(report, Unread):
                row.reason = report.reason.value
            else:
                row.source, row.study_uid = report.source, report.study_uid
                row.join_key = "" if report.study_uid else _join_key(report.accession, report.patient_id)
                row.content = json.dumps(_to_json(report))
            session.add(row)

    def candidates(self, study: StudyEntry) -> list[FoundReport]:
        """Dropped reports that name the study, or its accession number and patient."""
        key = _join_key(study.accession, study.patient_id)
        same = [_Report.study_uid == study.study_uid, *([_Report.join_key == key] if key else [])]
        with Session(self._engine) as session:
            return [_from_json(row) for row in session.scalars(select(_Report).where(or_(*same)))]

    def namesakes(self, study: StudyEntry) -> list[StudyEntry]:
        """All studies with the same accession number and patient, this one among them."""
        key = _join_key(study.accession, study.patient_id)
        with Session(self._engine) as session:
            return [_entry(row) for row in session.scalars(select(_Study).where(_Study.join_key == key))]

    def used(self, study_uid: str, keys: list[str]) -> None:
        """These dropped reports fit the study, whatever was decided then."""
        with Session(self._engine) as session, session.begin():
            for key in keys:
                session.merge(_Used(key=key, study_uid=study_uid))

    def unused(self) -> list[tuple[FoundReport, StudyEntry]]:
        """Reports that went into no decision, with each study that they name: they came after it, perhaps."""
        same_number = and_(_Report.join_key != "", _Report.join_key == _Study.join_key)
        query = (
            select(_Report, _Study)
            .join(_Study, or_(_Report.study_uid == _Study.study_uid, same_number))
            .where(_Report.reason == "", _Report.key.not_in(select(_Used.key)))
        )
        with Session(self._engine) as session:
            return [(_from_json(report), _entry(study)) for report, study in session.execute(query).tuples()]

    def pair_of(self, study_uid: str) -> tuple[str, str] | None:
        """(pair, Series Instance UID) of a study that was kept."""
        with Session(self._engine) as session:
            row = session.get(_Study, study_uid)
            return (row.pair_id, row.series_uid) if row is not None and row.pair_id else None

    def counts(self) -> dict[tuple[State, str], int]:
        """Studies by state and reason."""
        query = select(_Study.state, _Study.reason, func.count()).group_by(_Study.state, _Study.reason)
        with Session(self._engine) as session:
            return {(State(state), reason): count for state, reason, count in session.execute(query).tuples()}

    def report_counts(self) -> dict[str, int]:
        """Dropped reports by what became of them: a reason code, or empty for those that fitted a study."""
        counts: dict[str, int] = {}
        with Session(self._engine) as session:
            for reason, uid in session.execute(self._reports_with_study()).tuples():
                told = reason or ("" if uid else Reason.NO_STUDY.value)
                counts[told] = counts.get(told, 0) + 1
        return counts

    def outcomes(self) -> Iterator[Outcome]:
        """Studies and reports that were not taken."""
        with Session(self._engine) as session:
            dropped = select(_Study).where(_Study.state == State.DROPPED).order_by(_Study.pseudonym)
            for row in session.scalars(dropped):
                yield Outcome(row.pseudonym, "study", Reason(row.reason))
            unused = select(_Report).where(_Report.key.not_in(select(_Used.key))).order_by(_Report.pseudonym)
            for report in session.scalars(unused):
                yield Outcome(report.pseudonym, "report", Reason(report.reason or Reason.NO_STUDY))

    @staticmethod
    def _reports_with_study() -> Any:
        first = select(_Used.key, func.min(_Used.study_uid).label("uid")).group_by(_Used.key).subquery()
        return select(_Report.reason, first.c.uid).outerjoin(first, first.c.key == _Report.key)


def _prepare(connection: Any, _: object) -> None:
    """A crash of the machine may cost the last entries; the collection has their pairs, and they are entered again."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=20000", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _join_key(accession: str, patient_id: str) -> str:
    parts = (identifier(accession), identifier(patient_id))
    return json.dumps(parts) if all(parts) else ""


def _entry(row: _Study) -> StudyEntry:
    return StudyEntry(row.study_uid, row.patient_id, row.accession, row.day)


def _to_json(report: FoundReport) -> dict[str, Any]:
    return {
        "accession": report.accession,
        "patient_id": report.patient_id,
        "examined": report.examined.isoformat() if report.examined else None,
        "issued": report.issued.isoformat() if report.issued else None,
        "status": report.status.value,
        "by_machine": report.by_machine,
        "language": report.language,
        "sections": report.sections,
        "known": report.known.to_json(),
    }


def _from_json(row: _Report) -> FoundReport:
    values = json.loads(row.content)
    return FoundReport(
        row.key,
        row.source,
        row.study_uid,
        values["accession"],
        values["patient_id"],
        date.fromisoformat(values["examined"]) if values["examined"] else None,
        datetime.fromisoformat(values["issued"]) if values["issued"] else None,
        Status(values["status"]),
        values["by_machine"],
        values["language"],
        tuple((title, text) for title, text in values["sections"]),
        Known.from_json(values["known"]),
    )
