"""The state machine, the schema and its migrations, and transactions of several processes on SQLite."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from spool_data import REPOSITORY
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from config import Priority, Reason, Settings
from node.database import Records, open_database
from node.errors import CommandError
from node.migrations import SchemaError, is_current, upgrade
from node.records import Base, Job, Series, now
from node.states import TRANSITIONS, ForbiddenTransition, State
from node.status import open_existing


def _records(folder: Path) -> Records:
    engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
    upgrade(engine)
    return Records(engine)


def _series(uid: str = "1.2", generation: int = 1) -> Series:
    return Series(
        series_instance_uid=uid, generation=generation, study_instance_uid="1.1", modality="CT", source_ae="X",
        state=State.RECEIVING, first_at=now(), last_at=now(),
    )  # fmt: skip


@settings(deadline=None)
@given(start=st.sampled_from(State), steps=st.lists(st.sampled_from(State), max_size=30))
def test_move_never_leaves_the_state_machine(start: State, steps: list[State]) -> None:
    row = Job(series_id=1, release_digest="d", state=start, reason=None, detail="")
    for step in steps:
        before = State(row.state)
        if step in TRANSITIONS[before]:
            row.move(step, Reason.INTERNAL, "why")
            assert (row.state, row.reason, row.detail) == (step, Reason.INTERNAL, "why")
        else:
            with pytest.raises(ForbiddenTransition):
                row.move(step)
            assert row.state == before


def test_every_state_can_be_reached_and_superseded_is_the_end() -> None:
    reached, todo = {State.RECEIVING}, [State.RECEIVING]
    while todo:
        new = TRANSITIONS[todo.pop()] - reached
        reached |= new
        todo += new
    assert reached == set(State) == set(TRANSITIONS)
    assert not TRANSITIONS[State.SUPERSEDED]


def test_migrations_make_the_schema_of_the_models(tmp_path: Path) -> None:
    records = _records(tmp_path)
    with records.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    upgrade(records.engine)


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    records = _records(tmp_path)
    with records.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="newer version"):
        upgrade(records.engine)


_START = """
import sys
from node.migrations import upgrade
from node.database import open_database
upgrade(open_database(sys.argv[1]))
"""


def test_several_processes_may_start_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'node.sqlite'}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen([sys.executable, "-c", _START, url], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    with open_database(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_transaction_that_reads_first_does_not_fail_when_another_wrote(tmp_path: Path) -> None:
    records = _records(tmp_path)
    with records.session() as session:
        session.add(_series())
    with records.reading() as reader:
        assert reader.scalar(select(Series.state)) == State.RECEIVING
        with records.session() as writer:  # a reader does not keep a writer waiting
            writer.scalars(select(Series)).one().move(State.COMPLETE)
    with records.session() as session:
        assert session.scalars(select(Series)).one().state == State.COMPLETE


def test_a_session_rolls_back_on_an_exception(tmp_path: Path) -> None:
    records = _records(tmp_path)
    with pytest.raises(IntegrityError), records.session() as session:
        session.add_all([_series("1.2"), _series("1.3"), _series("1.3")])
    with records.reading() as session:
        assert session.scalar(select(Series.id)) is None


def test_times_come_back_aware_and_in_utc(tmp_path: Path) -> None:
    records = _records(tmp_path)
    local = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=5)))
    with records.session() as session:
        row = _series()
        row.first_at = local
        session.add(row)
    with records.reading() as session:
        found = session.scalars(select(Series)).one().first_at
    assert found == local
    assert found.tzinfo == UTC


def test_jobs_of_an_older_version_are_routine_and_it_is_said_that_the_database_is_old(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(REPOSITORY / "node" / "migrations"))
    engine = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.execute(
            text(
                "INSERT INTO series VALUES (1, '1.2', 1, '1.1', 'CT', 'X', 'VETTED', NULL, '',"
                " '2026-01-01', '2026-01-01', '2026-01-01', NULL)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO job (id, series_id, release_digest, state, detail, changed_at, created_at, attempts,"
                " lease_owner, seconds) VALUES (1, 1, 'd', 'QUEUED', '', '2026-01-01', '2026-01-01', 1, '', '{}')"
            )
        )
    assert not is_current(engine)
    with pytest.raises(CommandError, match="another version"):
        open_existing(Settings(data_dir=tmp_path))
    upgrade(engine)
    assert is_current(engine)
    with Records(engine).reading() as session:
        job = session.get_one(Job, 1)
        assert (job.priority, job.frugal, job.attempts) == (Priority.ROUTINE, False, 1)
