"""What a person does to a job: make it more or less urgent, cancel it, have a finished series read again."""

from sqlalchemy.orm import Session

from config import Priority, Reason, Settings
from node import leases, outbox
from node.completion import series_slices
from node.database import Records
from node.errors import CommandError
from node.messages import rows as messages
from node.records import Job
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

    The release that has read it writes the same objects under the same UIDs, so nothing is doubled anywhere; the
    objects of another release take the place of the former ones in the node. Raises CommandError if the job is not
    finished, or if images of the series were deleted.
    """
    with database_answers(), records.session() as session:
        job = find_job(session, which)
        if job.state not in _FINISHED:
            raise CommandError(
                f"Job {job.id} is {job.state}: only a finished job ({', '.join(_FINISHED)}) can be run again.",
                "See what the node is doing with it: fvlm-node jobs",
            )
        _require_images(session, job, settings)
        for result in job.results:
            for delivery in result.deliveries:
                outbox.reopen(delivery)
        messages.forget(session, job.id)
        queue_again(job)
        return job.id


def _require_images(session: Session, job: Job, settings: Settings) -> None:
    slices = series_slices(session, job.series, settings.spool_dir)
    deleted = missing_images(session, job.series, [one.sop_instance_uid for one in slices])
    if deleted or not slices:
        raise CommandError(
            f"Job {job.id}: images of its series were deleted (fvlm-node clean), {len(slices)} are left.",
            "Send the series again: what comes is read as its next generation.",
        )
