"""What a person does to a series that is coming in: close it as it is (`fvlm-node series complete`)."""

from sqlalchemy import select

from node import signals
from node.database import Records
from node.errors import CommandError
from node.records import Series, Signal
from node.retry import database_answers
from node.states import State


def complete(records: Records, series_instance_uid: str) -> tuple[int, int | None]:
    """RECEIVING -> COMPLETE for the newest generation of a series, with the images that the index has; how many those
    are, and how many the source told of.

    The reconciler vets it at its next look. What comes later opens the next generation. Raises CommandError if there is
    no such series, or if it does not wait for images.
    """
    with database_answers(), records.session() as session:
        newest = select(Series).where(Series.series_instance_uid == series_instance_uid.strip())
        row = session.scalar(newest.order_by(Series.generation.desc()).limit(1).with_for_update())
        if row is None:
            raise CommandError("There is no series of that UID.", "Name one as it stands in: fvlm-node status")
        if row.state != State.RECEIVING:
            raise CommandError(
                f"The series is {row.state}: only one that waits for images ({State.RECEIVING}) can be closed.",
                "See what the node is doing with it: fvlm-node status",
            )
        received = next(one.received for one in signals.receiving(session) if one.series_id == row.id)
        signals.close(row, Signal.FORCED, received, row.expected)
        return received, row.expected
