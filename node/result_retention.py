"""What may be deleted, and why the rest stays: only what every destination keeps. `fvlm-node clean` is made of this.

A job is safe to forget when each of its objects is where it has to be: committed at every destination that is asked for
commitment, stored at the others. Results without a destination are the only copy there is: their files stay.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session

from config import Settings
from node.database import Records
from node.records import Delivery, Job, Result, now
from node.states import State

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A file, or a group of files, that is old enough to be looked at."""

    what: str
    """`segment NAME` or `results of job N`."""
    bytes: int
    why: str = ""
    """Why it stays; empty: it may go."""


def unkept(asked: Collection[str]) -> ColumnElement[bool]:
    """For a query of jobs: an object of the job is not yet where it has to be. (One that was refused for good has made
    the job FAILED, unless it is a companion, which nobody waits for.)

    `asked`: destinations that are asked for commitment by the settings in force. One that is so no longer, or that is
    no longer in the settings, has it when it has stored.
    """
    of_job = select(Delivery.id).join(Result).where(Result.job_id == Job.id)
    missing = (Delivery.sent_at.is_(None) & Delivery.refused.is_(False)) | (
        Delivery.asked & Delivery.committed_at.is_(None) & Delivery.destination.in_(asked)
    )
    return exists(of_job.where(missing))


def asked_by(settings: Settings) -> frozenset[str]:
    """Names of the destinations that are asked for commitment."""
    return frozenset(name for name, each in settings.destinations.items() if each.commitment)


def old_results(session: Session, settings: Settings, before: datetime) -> list[tuple[int, Candidate]]:
    """Result files of jobs that did not change since `before`: job ids and what may go or has to stay."""
    waiting = unkept(asked_by(settings)).label("waiting")
    delivered = exists(select(Delivery.id).join(Result).where(Result.job_id == Job.id))
    there = exists().where(Result.job_id == Job.id, Result.removed_at.is_(None))
    rows = session.execute(
        select(Job.id, Job.state, Job.reason, waiting, delivered)
        .where(there, Job.changed_at < before, Job.state != State.RUNNING)
        .order_by(Job.id)
    ).tuples()
    found = []
    for job_id, state, reason, missing, sent in rows.all():
        files = _files(session, settings.results_dir, job_id)
        size = sum(path.stat().st_size for path in files if path.is_file())
        why = _why(State(state), reason, missing, sent)
        found.append((job_id, Candidate(f"results of job {job_id}", size, why)))
    return found


def _why(state: State, reason: str | None, missing: bool, delivered: bool) -> str:
    if state == State.SUPERSEDED:
        return ""
    if state not in (State.SENT, State.COMMITTED):
        return f"job is {state}"
    if not delivered:
        return "no destination: it is the only copy"
    if missing:
        return f"not committed: {reason or 'waits for the answer'}"
    return ""


def remove_results(records: Records, settings: Settings, before: datetime) -> list[Candidate]:
    """Delete the result files of old jobs that may go; what went. The rows stay, and say so.

    First the rows say so, then the files go: a crash in between leaves files that nobody needs. Raises OSError,
    sqlalchemy.exc.DBAPIError.
    """
    with records.reading() as session:
        candidates = old_results(session, settings, before)
    removed = []
    for job_id, candidate in candidates:
        if candidate.why:
            continue
        with records.session() as session:
            job = session.get_one(Job, job_id, with_for_update=True)
            if job.changed_at >= before:
                continue
            files = _files(session, settings.results_dir, job_id)
            for result in job.results:
                result.removed_at = now()
        for path in files:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in files}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        _log.info("results_removed", job=job_id, bytes=candidate.bytes)
        removed.append(candidate)
    return removed


def _files(session: Session, results_dir: Path, job_id: int) -> list[Path]:
    """The files of a job that lie in the results folder, whatever a row says."""
    rows = session.scalars(select(Result.path).where(Result.job_id == job_id, Result.removed_at.is_(None)))
    root = results_dir.resolve()
    paths = [(root / path).resolve() for path in rows]
    return [path for path in paths if path.is_relative_to(root)]
