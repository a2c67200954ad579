"""`fvlm-node status`: whatever the node has refused, left out, doubted or not understood stands in a table."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from rich.console import Console
from spool_data import ROOT, SECRET, Bench, ct_slice
from sqlalchemy import select

from config import Reason
from node.completion import complete_due
from node.records import Job, Series, now
from node.routing import route
from node.spool import segments
from node.states import State
from node.status import status_tables


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


def _shown(bench: Bench, limit: int = 30) -> list[list[list[str]]]:
    """The cells of each row of each table."""
    tables = status_tables(bench.settings, limit)
    console = Console(width=400, record=True)
    for table in tables:
        console.print(table)
    assert not any(secret in console.export_text() for secret in SECRET)
    return [[[str(cell) for cell in row] for row in zip(*(c.cells for c in t.columns), strict=True)] for t in tables]


def test_no_reason_code_is_broken_on_a_terminal_of_80_characters(bench: Bench) -> None:
    bench.receive(*(ct_slice(number=n) for n in range(1, 25)))
    complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    with bench.records.session() as session:
        row = session.scalars(select(Series)).one()
        row.state, row.reason = State.REJECTED, Reason.MIXED_FRAME_OF_REFERENCE
    console = Console(width=80, record=True)
    console.print(*status_tables(bench.settings, 1))
    assert f" {Reason.MIXED_FRAME_OF_REFERENCE} " in console.export_text()


def test_conflicts_notes_and_the_job_of_a_series_that_is_read(bench: Bench) -> None:
    scout = ct_slice(number=99)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    bench.receive(*(ct_slice(number=n) for n in range(1, 25)), scout)
    bench.receive(*(ct_slice(number=n, fill=1) for n in (3, 4)))
    complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    (job_id,) = route(bench.records, "d" * 64)
    ((row,),) = _shown(bench)
    came = "25 images from STORESCU\nclosed by quiet_time: 25"
    assert row[1:3] == [f"{ROOT}.1\n{came}", f"QUEUED\njob {job_id}"]
    note, conflicts = row[3].splitlines()
    assert note == "1 localizer image left out"
    assert conflicts.startswith(f"{Reason.DUPLICATE_CONFLICT}: 2 came again with other bytes")
    with bench.records.session() as session:
        job = session.get_one(Job, job_id)
        job.move(State.RUNNING)
        job.move(State.FAILED, Reason.UNDECODABLE, "JPEG: cut off")
    ((row,),) = _shown(bench)
    assert row[2:] == [f"FAILED\nUNDECODABLE\njob {job_id}", f"JPEG: cut off\n{note}\n{conflicts}"]


def test_a_superseded_generation_says_so_once(bench: Bench) -> None:
    bench.receive(*(ct_slice(number=n) for n in range(1, 25)))
    complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    route(bench.records, "d" * 64)
    bench.receive(ct_slice(number=25))
    complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    route(bench.records, "d" * 64)
    ((new, old),) = _shown(bench)
    came = "1 images from STORESCU\nclosed by quiet_time: 25"
    assert new[1:] == [f"{ROOT}.1 (2)\n{came}", "QUEUED\njob 2", ""]
    assert old[2:] == ["SUPERSEDED\njob 1", "generation 2 took its place"]


def test_what_is_unreadable_is_listed_newest_first_and_counted(bench: Bench) -> None:
    assert len(_shown(bench)) == 1
    with bench.intake.open("STORESCU", "FVLM") as session:
        for number in (7, 8, 9):
            session.store(CTImageStorage, f"{ROOT}.{number}", ExplicitVRLittleEndian, b"rubbish " * 30)
    bench.indexer.catch_up()
    series, unreadable = _shown(bench, limit=2)
    assert series == []
    (segment,) = segments(bench.settings.spool_dir)
    assert [row[1].splitlines()[0] for row in unreadable] == [f"{ROOT}.{n} from STORESCU" for n in (9, 8)]
    assert all(row[1].splitlines()[1].startswith(f"{segment.name} ") for row in unreadable)
    assert unreadable[0][2].startswith((Reason.NOT_DICOM, Reason.TRUNCATED))
    assert " → " in unreadable[0][2]
    assert "3 in all" in str(status_tables(bench.settings, 2)[1].title)
    with bench.records.reading() as session:
        assert session.scalars(select(Series)).all() == []
