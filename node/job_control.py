"""What a person does to a job: make it more or less urgent, cancel it, have a finished series read again."""

from datetime import datetime

from sqlalchemy.orm import Session

from config import Priority, Reason, Settings
from node import leases, outbox
from node.completion import series_slices
from node.database import Records
from node.errors import CommandError
from node.messages import rows as messages
from node.priors import held_until
from node.records import Job
from node.releases import registry
from node.retention import missing_images
from node.retry import database_answers, find_job, queue_again
from node.states import State

_FINISHED = (State.SENT, State.COMMITTED, State.FAILED, State.QUARANTINED)


def prioritise(records: Records, which: str, priority: Priority) -> int:
    """Another priority for a waiting job; its id. Raises CommandError if it does not wait (any more)."""
    with database_answers(), records.session() as session:
        job = find_job(session, which)
        if job.state != State.QUEUED:
            raise CommandError(
                f"Job {job.id} is {job.state}: only a job that waits ({State.QUEUED}) can be made more or less urgent.",
                "See what waits: fvlm-node jobs --state QUEUED",
            )
        job.priority = int(priority)
        return job.id


def cancel(records: Records, which: str) -> int:
    """QUEUED or RUNNING -> FAILED (CANCELLED); its id. Raises CommandError for a job that is further or has ended.

    Whoever works on it loses the lease: it stops before its next stage and writes nothing.
    """
    with database_answers(), records.session() as session:
        job = find_job(session, which)
        if job.state not in (State.QUEUED, State.RUNNING):
            raise CommandError(
                f"Job {job.id} is {job.state}: only a job that waits or runs can be cancelled.",
                "See what waits and runs: fvlm-node jobs --state QUEUED --state RUNNING",
            )
        detail = "while it waited" if job.state == State.QUEUED else f"in attempt {job.attempts}"
        leases.release(job)
        job.move(State.FAILED, Reason.CANCELLED, detail)
        return job.id


def rerun(records: Records, settings: Settings, which: str) -> int:
    """Read a finished series again and send everything again; the id of its job, which is QUEUED.

    The release in force reads it. If that is the one that has read it, it writes the same objects under the same UIDs,
    so nothing is doubled anywhere; another one gets a job of its own, whose report names the former one as its
    predecessor, and the former job is SUPERSEDED. Raises CommandError if the job is not finished, if images of the
    series were deleted, or if the release in force has read the series before another one did.
    """
    with database_answers(), records.session() as session:
        in_force = registry.hold(session)
        job = find_job(session, which)
        if job.state not in _FINISHED:
            raise CommandError(
                f"Job {job.id} is {job.state}: only a finished job ({', '.join(_FINISHED)}) can be run again.",
                "See what the node is doing with it: fvlm-node jobs",
            )
        _require_images(session, job, settings)
        if in_force is not None and in_force != job.release_digest:
            return _read_by(session, job, in_force, held_until(settings))
        for result in job.results:
            for delivery in result.deliveries:
                outbox.reopen(delivery)
        messages.forget(session, job.id)
        queue_again(job)
        return job.id


def _read_by(session: Session, job: Job, digest: str, waits_until: datetime | None) -> int:
    """A job of the same series for another release, in place of this one; its id. Raises CommandError."""
    before = registry.reading_of(session, job, digest)
    if before is not None:
        raise CommandError(
            f"Job {before} has read this series with the release in force, before job {job.id} did with another.",
            "Its report is where it was sent, and the one of the later job names it as its predecessor.",
        )
    new = Job(
        series=job.series,
        release_digest=digest,
        state=State.QUEUED,
        priority=job.priority,
        held_until=waits_until,
    )
    session.add(new)
    job.move(State.SUPERSEDED, detail="read again with another release")
    session.flush()
    return new.id


def _require_images(session: Session, job: Job, settings: Settings) -> None:
    slices = series_slices(session, job.series, settings.spool_dir)
    deleted = missing_images(session, job.series, [one.sop_instance_uid for one in slices])
    if deleted or not slices:
        raise CommandError(
            f"Job {job.id}: images of its series were deleted (fvlm-node clean), {len(slices)} are left.",
            "Send the series again: what comes is read as its next generation.",
        )
