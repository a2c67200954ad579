"""Feedback in SQL: what jobs said of findings, what readers said of that, and how it is exported."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import ReaderVerdict
from node.records import Feedback, Job, ReportedFinding, Series, now


def judge_on_console(
    session: Session, series_id: int, tracking_uid: str, verdict: ReaderVerdict, reader: str
) -> Feedback | None:
    """A reader's verdict on a finding of the newest job of a series; another one of the same reader is replaced.

    None if there is no such finding.
    """
    finding = newest_findings(session, series_id).get(tracking_uid)
    if finding is None:
        return None
    job, said_by = session.get_one(Job, finding.job_id), f"console:{reader}"
    query = select(Feedback).where(
        Feedback.said_by == said_by, Feedback.job_id == job.id, Feedback.tracking_uid == tracking_uid
    )
    row = session.scalar(query.with_for_update())
    if row is None:
        row = new_row(job, finding, verdict)
        row.source, row.said_by, row.reader = "console", said_by, reader
        session.add(row)
    row.reader_verdict, row.said_at = verdict.value, now()
    session.flush()
    return row


def newest_findings(session: Session, series_id: int) -> dict[str, ReportedFinding]:
    """What the newest job of a series that has been read says, by Tracking UID, the most probable first."""
    newest = (
        select(ReportedFinding.job_id)
        .join(Job, Job.id == ReportedFinding.job_id)
        .where(Job.series_id == series_id)
        .order_by(Job.id.desc())
        .limit(1)
    )
    job_id = session.scalar(newest)
    return reported_findings(session, job_id) if job_id is not None else {}


def verdicts_of(session: Session, job_id: int) -> list[Feedback]:
    """Everything that readers said of a job, the oldest first."""
    return list(session.scalars(select(Feedback).where(Feedback.job_id == job_id).order_by(Feedback.id)))


def agrees(row: Feedback) -> bool | None:
    """Whether the reader says what we said; None if one of the two said nothing that can be compared."""
    reader = ReaderVerdict.ABSENT if row.reader_verdict == ReaderVerdict.REMOVED else row.reader_verdict
    comparable = (ReaderVerdict.PRESENT, ReaderVerdict.ABSENT)
    return row.verdict == reader if row.verdict in comparable and reader in comparable else None


def reported_findings(session: Session, job_id: int) -> dict[str, ReportedFinding]:
    """What a job says, by Tracking UID, the most probable first."""
    query = select(ReportedFinding).where(ReportedFinding.job_id == job_id)
    rows = session.scalars(query.order_by(ReportedFinding.probability.desc(), ReportedFinding.id))
    return {row.tracking_uid: row for row in rows}


def new_row(job: Job, finding: ReportedFinding | None, verdict: ReaderVerdict) -> Feedback:
    """What is said of a finding of a job, or (None) of its result as a whole; who says it is left to the caller."""
    return Feedback(
        job_id=job.id,
        finding=finding.finding if finding else "",
        tracking_uid=finding.tracking_uid if finding else "",
        release_digest=job.release_digest,
        probability=finding.probability if finding else None,
        verdict=finding.verdict if finding else "",
        reader_verdict=verdict.value,
    )


@dataclass(frozen=True)
class Exported:
    """One line of the export."""

    study_instance_uid: str
    series_instance_uid: str
    finding: str
    tracking_uid: str
    release_digest: str
    probability: float | None
    verdict: str
    reader_verdict: str
    agrees: bool | None
    source: str
    said_by: str
    reader: str
    said_at: datetime | None
    taken_at: datetime


def export(session: Session) -> Iterator[Exported]:
    """Every row, the oldest first."""
    query = select(Feedback, Series).join(Job, Job.id == Feedback.job_id).join(Series).order_by(Feedback.id)
    for row, series in session.execute(query).tuples():
        yield Exported(
            series.study_instance_uid,
            series.series_instance_uid,
            row.finding,
            row.tracking_uid,
            row.release_digest,
            row.probability,
            row.verdict,
            row.reader_verdict,
            agrees(row),
            row.source,
            row.said_by,
            row.reader,
            row.said_at,
            row.taken_at,
        )
