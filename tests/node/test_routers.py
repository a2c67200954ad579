"""One job a series, generation and release, however many routers there are; on SQLite and PostgreSQL."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import running_postgres
from rows import DIGEST, add_job
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from config import Priority
from node.database import Records, open_database
from node.leases import take
from node.migrations import upgrade
from node.records import Job, Series, now
from node.states import State
from node.work_queue import most_urgent

SERIES = 30
ROUTERS = 4
ROOT = Path(__file__).parents[2]

ROUTER = """
import sys
from node.database import Records, open_database
from node.routing import route
records = Records(open_database(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(len(route(records, "d" * 64)))
"""
TAKER = """
import sys
from node.leases import take
from node.database import Records, open_database
from node.work_queue import most_urgent
records = Records(open_database(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while True:
    with records.session() as session:
        job_id = session.scalar(most_urgent(1).with_for_update(skip_locked=True))
        if job_id is None:
            break
        assert take(session, job_id, f"taker/{sys.argv[2]}", 60.0)
        print(job_id)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'node.sqlite'}"
        return
    with running_postgres() as running:
        yield running


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    engine = open_database(url)
    upgrade(engine)
    yield Records(engine)
    engine.dispose()


def _at_once(code: str, url: str) -> list[list[str]]:
    """What each of several processes prints that start at the same moment."""
    command = [sys.executable, "-c", code, url]
    processes = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for n in range(ROUTERS)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * ROUTERS
    return printed


def test_concurrent_routers_make_one_job_each(url: str, records: Records) -> None:
    with records.session() as session:
        for n in range(SERIES):
            session.add(
                Series(
                    series_instance_uid=f"2.25.{n}",
                    study_instance_uid="2.25.9",
                    modality="CT",
                    source_ae="CT1",
                    state=State.VETTED,
                    first_at=now(),
                    last_at=now(),
                )
            )
    _at_once(ROUTER, url)
    with records.reading() as session:
        assert session.scalar(select(func.count(Job.id))) == SERIES
        assert session.scalar(select(func.count(func.distinct(Job.series_id)))) == SERIES


def test_the_key_itself_refuses_a_second_job(records: Records) -> None:
    first = add_job(records)
    with records.reading() as session:
        series_id = session.get_one(Job, first).series_id
    with pytest.raises(IntegrityError), records.session() as session:
        session.add(Job(series_id=series_id, release_digest=DIGEST))


def test_concurrent_workers_share_the_queue_and_each_goes_by_urgency(url: str, records: Records) -> None:
    order = [Priority.ROUTINE, Priority.STAT, Priority.RESEARCH, Priority.URGENT]
    jobs = {add_job(records, f"2.25.{n}", priority=order[n % 4]): order[n % 4] for n in range(40)}
    taken = [list(map(int, lines)) for lines in _at_once(TAKER, url)]
    assert sorted(job for each in taken for job in each) == sorted(jobs)
    for each in taken:
        assert [jobs[job] for job in each] == sorted(jobs[job] for job in each)


def test_a_locked_row_is_stepped_over(url: str, records: Records) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    first, second = add_job(records, "2.25.1"), add_job(records, "2.25.2")
    query = most_urgent(1).with_for_update(skip_locked=True)
    with records.session() as one, records.session() as other:
        assert one.scalar(query) == first
        assert other.scalar(query) == second
        assert take(one, first, "a/1", 60.0)
        assert take(other, second, "b/1", 60.0)
