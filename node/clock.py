"""When somebody sets the clock: waits that were begun by the old time are begun anew by the new one.

A day forward would take a job from a worker that lives; a day back would make everything that waits wait for a day
more. Series are not concerned: `node.completion` counts on a clock that nobody sets.
"""

import time
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from config import Settings
from node.outbox import is_open
from node.records import Delivery, Job, Message
from node.states import State

_JUMP_S = 2.0
"""Slower corrections of the clock are not told apart from a busy machine, and do no harm."""


class Clock:
    """Compares the time of day with the monotonic clock, which nobody sets."""

    def __init__(self, at: datetime) -> None:
        """`at` is the time of day now."""
        self._at, self._steady = at, time.monotonic()

    def jump_s(self, at: datetime) -> float:
        """Seconds by which the time of day, `at`, was set forward (or back: negative) since the last call; else 0.

        A machine that was suspended looks as if its clock was set forward, and is to be treated so.
        """
        steady = time.monotonic()
        jump = (at - self._at).total_seconds() - (steady - self._steady)
        self._at, self._steady = at, steady
        return jump if abs(jump) > _JUMP_S else 0.0


def begin_waits_anew(session: Session, settings: Settings, at: datetime) -> None:
    """After a jump: the leases of running jobs and the longest waits of deliveries."""
    lease = timedelta(seconds=settings.work.lease_s)
    running = update(Job).where(Job.state == State.RUNNING).values(lease_expires=at + lease)
    session.execute(running, execution_options={"synchronize_session": False})
    forget_the_future(session, settings, at)


def forget_the_future(session: Session, settings: Settings, at: datetime) -> None:
    """What lies further ahead than anything is ever put off was written by another clock: it is due now."""
    delivery = settings.delivery
    longest = timedelta(seconds=max(delivery.retry_max_s, 60.0 + 4 * delivery.timeout_s))
    lease = timedelta(seconds=settings.work.lease_s)
    prior = timedelta(seconds=settings.priors.wait_s)
    for change in (
        update(Job).where(Job.held_until > at + prior).values(held_until=None),
        update(Job).where(Job.state == State.RUNNING, Job.lease_expires > at + lease).values(lease_expires=at + lease),
        *(
            update(rows).where(is_open(rows), rows.due_at > at + longest).values(due_at=at)
            for rows in (Delivery, Message)
        ),
    ):
        session.execute(change, execution_options={"synchronize_session": False})
