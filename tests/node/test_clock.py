"""Somebody sets the clock: what waits is neither ended early nor left waiting."""

from datetime import timedelta
from pathlib import Path

import pytest
from rows import add_job, add_results, deliveries, job, open_records, settings_for

from config import Settings
from node.children import free_port
from node.clock import Clock, begin_waits_anew, forget_the_future
from node.database import Records
from node.reconciler import Reconciler
from node.records import Delivery, Job, now
from node.states import State

DAY = timedelta(days=1)


class _NoBroker:
    def waiting(self, _: str) -> int:
        return 1

    def send(self, queue: str, row_id: int) -> None:
        raise AssertionError(f"sent {row_id} to {queue}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path, ("pacs", free_port()))


@pytest.fixture
def records(settings: Settings) -> Records:
    return open_records(settings)


def test_a_jump_is_told_from_time_that_passes() -> None:
    start = now()
    clock = Clock(start)
    assert clock.jump_s(start + timedelta(seconds=1)) == 0.0
    assert clock.jump_s(start + DAY) == pytest.approx(DAY.total_seconds(), abs=30)
    assert clock.jump_s(start + DAY) == 0.0
    assert clock.jump_s(start) == pytest.approx(-DAY.total_seconds(), abs=30)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_no_job_is_taken_from_a_worker_that_lives(
    records: Records, settings: Settings, jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = add_job(records, state=State.RUNNING)
    reconciler = Reconciler(records, settings, _NoBroker())  # type: ignore[arg-type]
    assert reconciler.once() is False
    with records.session() as session:
        session.get_one(Job, running).lease_expires = now() + timedelta(seconds=60)
    other = now() + jump
    monkeypatch.setattr("node.reconciler.now", lambda: other)
    monkeypatch.setattr("node.leases.now", lambda: other)
    reconciler.once()
    assert job(records, running).state == State.RUNNING


def test_times_of_a_clock_that_was_set_back_are_forgotten_and_nothing_else(
    records: Records, settings: Settings
) -> None:
    later, waiting = add_results(records, settings, add_job(records, state=State.ENCODED))
    running = add_job(records, "2.25.2", state=State.RUNNING)
    soon = now() + timedelta(seconds=10)
    with records.session() as session:
        session.get_one(Delivery, later).due_at = now() + DAY
        session.get_one(Delivery, waiting).due_at = soon
        session.get_one(Job, running).lease_expires = now() + DAY
    at = now()
    for step in (forget_the_future, begin_waits_anew):
        with records.session() as session:
            step(session, settings, at)
    assert {row.id: row.due_at for row in deliveries(records, "pacs")} == {later: at, waiting: soon}
    assert job(records, running).lease_expires == at + timedelta(seconds=settings.work.lease_s)
