"""What a person does to a job: make it more or less urgent, cancel it, have a finished series read again."""

from datetime import datetime

from sqlalchemy.orm import Session

from config import Priority, Reason, Settings
from node import leases, outbox
from node.completion import series_slices
from node.database import Records
from node.errors import CommandError
from node.messages import rows as messages
from node.orders import Orders
from node.priors import held_until
from node.records import Job, Series
from node.releases import binding, registry
from node.retention import missing_images
from node.retry import database_answers, find_job, queue_again, refuse_skipped
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

    The release in force reads it, or the one that its rule named. If that is the one that has read it, it writes the
    same objects under the same UIDs, so nothing is doubled anywhere; another one gets a job of its own with the same
    orders, whose report names the former one as its predecessor, and the former job is SUPERSEDED. Raises CommandError
    if the job is not finished, if images of the series were deleted, or if the release in force has read the series
    before another one did.
    """
    with database_answers(), records.session() as session:
        in_force = registry.hold(session)
        job = find_job(session, which)
        refuse_skipped(job)
        if job.state not in _FINISHED:
            raise CommandError(
                f"Job {job.id} is {job.state}: only a finished job ({', '.join(_FINISHED)}) can be run again.",
                "See what the node is doing with it: fvlm-node jobs",
            )
        require_images(session, job.series, settings)
        digest = binding.for_rerun(job, in_force)
        if digest != job.release_digest:
            return _read_by(session, job, digest, held_until(settings))
        for result in job.results:
            for delivery in result.deliveries:
                outbox.reopen(delivery)
        messages.forget(session, job.id)
        queue_again(job)
        return job.id


def _read_by(session: Session, job: Job, digest: str, waits_until: datetime | None) -> int:
    """A job of the same series for another release, in place of this one; its id. Raises CommandError."""
    before = binding.reading_of(session, job, digest)
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
    Orders.of(job).give(new)
    new.anatomies, new.later_rule = job.anatomies, job.later_rule
    new.forced_by, new.forced_at, new.forced_why = job.forced_by, job.forced_at, job.forced_why
    session.add(new)
    job.move(State.SUPERSEDED, detail="read again with another release")
    session.flush()
    return new.id


def require_images(session: Session, series: Series, settings: Settings) -> None:
    """Raises CommandError if images of a series are not there any more."""
    slices = series_slices(session, series, settings.spool_dir)
    deleted = missing_images(session, series, [one.sop_instance_uid for one in slices])
    if deleted or not slices:
        raise CommandError(
            f"Images of series {series.id} were deleted (fvlm-node clean), {len(slices)} are left.",
            "Send the series again: what comes is read as its next generation.",
        )
