"""`fvlm-node retry`: a job that ended without success, or was cancelled, gets all its attempts again."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from config import Reason
from node import commitment_due, leases, outbox
from node.database import Records
from node.errors import CommandError
from node.messages import rows as messages
from node.records import Job, Series
from node.releases import binding, registry
from node.states import State

_ENDED = (State.FAILED, State.QUARANTINED)


def retry(records: Records, which: str) -> int:
    """FAILED or QUARANTINED -> QUEUED for a job id, or for the newest job of a Series Instance UID; the job's id.

    Without results it is read as a new series of its study would be: with the study's release or the one in force.
    Its refused deliveries and messages are opened again; what was delivered is not sent twice. A SENT or COMMITTED job
    is not read again: only what was refused is sent, and the commitment that a destination did not give asked for.
    Raises CommandError if there is no such job, if it did not fail, or if the database is away.
    """
    with database_answers(), records.session() as session:
        in_force = registry.hold(session)
        job = find_job(session, which)
        unheard = messages.refused(session, job.id)
        messages.reopen(unheard)
        refused = [delivery for result in job.results for delivery in result.deliveries if delivery.refused]
        if job.state == State.SENT:
            for delivery in refused:
                outbox.reopen(delivery)
            session.flush()
            if commitment_due.ask_anew(session, job.id) or refused:
                return job.id
        if job.state in (State.SENT, State.COMMITTED) and unheard:
            return job.id
        refuse_skipped(job)
        if job.state not in _ENDED:
            raise CommandError(
                f"Job {job.id} is {job.state}: only {' and '.join(_ENDED)} jobs can be run again.",
                "See what the node is doing with it: fvlm-node status",
            )
        if not job.results and in_force is not None:
            binding.bind_anew(session, job, in_force)
        queue_again(job)
        for delivery in refused:
            outbox.reopen(delivery)
        return job.id


def refuse_skipped(job: Job) -> None:
    """Raises CommandError for a job that a rule ended: it takes more than a repeat to read it."""
    if job.reason == Reason.SKIPPED_BY_RULE:
        raise CommandError(
            f"Job {job.id} ended by a rule: {job.detail}.", "To have it read all the same: fvlm-node series read"
        )


def queue_again(job: Job) -> None:
    """-> QUEUED with all attempts, in the usual configuration. Raises ForbiddenTransition."""
    leases.release(job)
    job.attempts, job.frugal = 0, False
    job.move(State.QUEUED)


@contextmanager
def database_answers() -> Iterator[None]:
    """An absent database is raised as a CommandError."""
    try:
        yield
    except DBAPIError as error:
        raise CommandError(
            f"The database does not answer ({type(error.orig).__name__}).", "Check database_url, then try again."
        ) from error


def find_job(session: Session, which: str) -> Job:
    """The job of that id, or the newest job of a Series Instance UID; its row is locked. Raises CommandError."""
    which = which.strip()
    query = select(Job).with_for_update(of=Job)
    if re.fullmatch(r"[0-9]{1,18}", which):
        job = session.scalar(query.where(Job.id == int(which)))
    else:
        of_series = query.join(Series).where(Series.series_instance_uid == which)
        job = session.scalar(of_series.order_by(Series.generation.desc(), Job.id.desc()).limit(1))
    if job is None:
        raise CommandError(
            "There is no such job, and no series of that UID with a job.",
            "Name a job id, or a series as it stands in: fvlm-node jobs",
        )
    return job
