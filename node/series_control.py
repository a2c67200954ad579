"""What a person does to a series: close it while it comes in, have it read though the rules do not want it."""

import structlog
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from config import Reason, Settings
from config.reasons import BY_RULES
from node import signals
from node.database import Records
from node.errors import CommandError
from node.job_control import require_images
from node.orders import Orders
from node.records import Job, Series, Signal, now
from node.release import release_digest
from node.releases import binding, registry
from node.retry import database_answers, queue_again
from node.routing import job_for
from node.states import State

_log = structlog.get_logger(__name__)


def complete(records: Records, series_instance_uid: str) -> tuple[int, int | None]:
    """RECEIVING -> COMPLETE for the newest generation of a series, with the images that the index has; how many those
    are, and how many the source told of.

    The reconciler vets it at its next look. What comes later opens the next generation. Raises CommandError if there is
    no such series, or if it does not wait for images.
    """
    with database_answers(), records.session() as session:
        row = _newest(session, series_instance_uid)
        if row.state != State.RECEIVING:
            raise CommandError(
                f"The series is {row.state}: only one that waits for images ({State.RECEIVING}) can be closed.",
                "See what the node is doing with it: fvlm-node status",
            )
        received = next(one.received for one in signals.receiving(session) if one.series_id == row.id)
        signals.close(row, Signal.FORCED, received, row.expected)
        return received, row.expected


def read_anyway(records: Records, settings: Settings, series_instance_uid: str, done_by: str, why: str) -> int:
    """Have the newest generation of a series read that the rules do not want; the id of its job.

    The rules are not asked about it again; its results go to `routing.destinations`, or where the rule that read it
    sent them if only one for after the segmentation skipped it. Who wanted it, when and why stands in the job. What
    comes later of the series opens its next generation, which the rules decide about. Raises CommandError, with the
    cause, if the rules do not keep it from being read, or if images of it are gone.
    """
    if not why.strip():
        raise CommandError("It is not said why.", "Say it in a few words: it is kept with the job.")
    with database_answers(), records.session() as session:
        in_force = registry.hold(session) or _configured(settings)
        row = _newest(session, series_instance_uid)
        require_images(session, row, settings)
        job = session.scalar(
            select(Job).where(Job.series_id == row.id).order_by(Job.id.desc()).limit(1).with_for_update()
        )
        if row.state == State.REJECTED and row.reason in BY_RULES:
            row.move(State.VETTED)
            orders = Orders(settings.routing.destinations)
            job = job_for(session, row, binding.for_series(session, row, in_force), orders=orders)
        elif job is not None and job.state == State.FAILED and job.reason == Reason.SKIPPED_BY_RULE:
            queue_again(job)
        else:
            raise CommandError(
                f"The series is {(job or row).state}: no rule keeps it from being read.",
                "Read it once more: fvlm-node rerun",
            )
        job.forced_by, job.forced_at, job.forced_why = done_by[:64], now(), why.strip()[:1000]
        _log.info("series_forced", series=row.id, job=job.id, user=done_by)
        return job.id


def _newest(session: Session, series_instance_uid: str) -> Series:
    """The newest generation of a series, its row locked. Raises CommandError."""
    newest: Select[Series] = select(Series).where(Series.series_instance_uid == series_instance_uid.strip())
    row = session.scalar(newest.order_by(Series.generation.desc()).limit(1).with_for_update())
    if row is None:
        raise CommandError("There is no series of that UID.", "Name one as it stands in: fvlm-node status")
    return row


def _configured(settings: Settings) -> str:
    try:
        return release_digest(settings.model.release)
    except OSError as error:
        raise CommandError(
            f"The release {settings.model.release} cannot be read: {error.strerror}.", Reason.MODEL_UNAVAILABLE.cure
        ) from error
