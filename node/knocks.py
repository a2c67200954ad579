"""Who was refused an association and why: counted in memory, written down now and then, shown by `fvlm-node status`.

Bounded everywhere: a flood of invented titles costs the oldest rows, nothing else. What is not written yet when the
process dies, or while the database is away for long, stands in the log only.
"""

import threading
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from node.database import Records
from node.handover import Caller
from node.records import Knock, now

MOST = 200
"""Rows kept, and callers remembered between two flushes."""


@dataclass
class _Count:
    count: int
    first_at: datetime
    last_at: datetime


class Knocks:
    """Counts of one node; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: dict[Caller, _Count] = {}

    def note(self, caller: Caller) -> None:
        """Somebody was refused."""
        with self._lock:
            known = self._fresh.get(caller)
            if known is not None:
                known.count, known.last_at = known.count + 1, now()
            elif len(self._fresh) < MOST:
                self._fresh[caller] = _Count(1, now(), now())

    def flush(self, records: Records) -> None:
        """Write down what is new. Raises sqlalchemy.exc.DBAPIError; nothing is forgotten then."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        if not fresh:
            return
        try:
            with records.session() as session:
                for caller, count in fresh.items():
                    _add(session, caller, count)
                session.flush()
                oldest = select(Knock.id).order_by(Knock.last_at.desc(), Knock.id.desc()).offset(MOST)
                if surplus := session.scalars(oldest).all():
                    session.execute(delete(Knock).where(Knock.id.in_(surplus)))
        except BaseException:  # also when the process is told to end: what was heard stays heard; it is raised again
            with self._lock:
                for caller, count in list(fresh.items()):
                    later = self._fresh.get(caller)
                    if later is not None:
                        later.count, later.first_at = later.count + count.count, count.first_at
                    elif len(self._fresh) < MOST:
                        self._fresh[caller] = count
            raise


def _add(session: Session, caller: Caller, count: _Count) -> None:
    row = session.scalar(select(Knock).filter_by(**asdict(caller)))
    if row is None:
        session.add(Knock(**asdict(caller), **vars(count)))
    else:
        row.count, row.last_at = row.count + count.count, count.last_at
