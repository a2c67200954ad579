"""What of a list of images is in the spool already, so that it need not be fetched again."""

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from node import signals
from node.commitment_rows import chunks
from node.records import Instance, SpoolSegment
from node.spool import scan


def kept(session: Session, spool_dir: Path, uids: Iterable[str]) -> set[str]:
    """Of these SOP Instance UIDs, those that lie in the spool, whether the index knows it yet or not.

    Raises sqlalchemy.exc.DBAPIError.
    """
    wanted = set(uids)
    found: set[str] = set()
    there: dict[str, bool] = {}
    for some in chunks(sorted(wanted)):
        query = (
            select(Instance.sop_instance_uid, Instance.segment)
            .join(SpoolSegment, SpoolSegment.name == Instance.segment)
            .where(Instance.sop_instance_uid.in_(some), SpoolSegment.released_at.is_(None))
        )
        for uid, segment in session.execute(query):
            if there.setdefault(segment, (spool_dir / segment).is_file()):
                found.add(uid)
    for behind in signals.unindexed(session, spool_dir):
        try:
            found |= {record.origin.sop_instance_uid for record in scan(spool_dir / behind.segment, behind.start)}
        except OSError:
            continue  # it is gone, or cannot be read: what was in it is fetched again
    return found & wanted
