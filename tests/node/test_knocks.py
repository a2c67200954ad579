"""Who was refused an association stands in `fvlm-node status`, with the cure; a flood fills nothing."""

import threading
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from rich.console import Console
from running import wait_for
from spool_data import Bench, Receiver, receiver, settings_for
from sqlalchemy import func, inspect, select
from sqlalchemy.exc import DBAPIError

from config import Reason
from node.database import Records, open_database
from node.handover import LONGEST_NOTE, Caller
from node.knocks import MOST, Knocks
from node.records import Knock
from node.status import status_tables


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


def _caller(number: int = 1, reason: Reason = Reason.UNKNOWN_AE) -> Caller:
    return Caller.of(f"STRANGER{number}", "FVLM", "10.0.0.7", reason)


def _rows(records: Records) -> list[tuple[str, str, str, int]]:
    with records.reading() as session:
        query = select(Knock).order_by(Knock.calling_ae, Knock.reason)
        return [(row.calling_ae, row.called_ae, row.reason, row.count) for row in session.scalars(query)]


def test_one_row_a_caller_and_reason_with_its_count_and_times(bench: Bench) -> None:
    knocks = Knocks()
    for _ in range(3):
        knocks.note(_caller())
    knocks.note(_caller(reason=Reason.TOO_MANY_ASSOCIATIONS))
    knocks.flush(bench.records)
    knocks.flush(bench.records)
    knocks.note(_caller())
    knocks.flush(bench.records)
    assert _rows(bench.records) == [
        ("STRANGER1", "FVLM", Reason.TOO_MANY_ASSOCIATIONS, 1),
        ("STRANGER1", "FVLM", Reason.UNKNOWN_AE, 4),
    ]
    with bench.records.reading() as session:
        assert all(row.first_at <= row.last_at for row in session.scalars(select(Knock)))


def test_a_flood_of_invented_titles_keeps_the_newest_and_no_more(bench: Bench) -> None:
    knocks = Knocks()
    for number in range(3 * MOST):
        knocks.note(_caller(number))
        if number % 50 == 49:
            knocks.flush(bench.records)
    for number in range(10 * MOST):  # between two flushes
        knocks.note(_caller(10_000 + number))
    knocks.flush(bench.records)
    with bench.records.reading() as session:
        assert session.scalar(select(func.count()).select_from(Knock)) == MOST
        assert set(session.scalars(select(Knock.calling_ae))) == {f"STRANGER{10_000 + n}" for n in range(MOST)}


def test_while_the_database_is_away_nothing_is_lost_and_nothing_grows(bench: Bench, tmp_path: Path) -> None:
    away = Records(open_database(f"sqlite:///{tmp_path / 'nowhere' / 'node.sqlite'}"))
    knocks = Knocks()
    knocks.note(_caller())
    with pytest.raises(DBAPIError):
        knocks.flush(away)
    knocks.note(_caller())
    knocks.note(_caller(2))
    with pytest.raises(DBAPIError):
        knocks.flush(away)
    knocks.flush(bench.records)
    assert [(row[0], row[3]) for row in _rows(bench.records)] == [("STRANGER1", 2), ("STRANGER2", 1)]


def test_titles_from_outside_are_made_plain_and_short() -> None:
    caller = Caller.of("A\x1b[31m\nÄ" + "x" * 50, "", "h" * 300, Reason.UNKNOWN_AE)
    assert caller.calling_ae == "A?[31m??xxxxxxxx"
    assert Caller.decode(caller.encode()) == caller
    assert len(caller.encode()) < LONGEST_NOTE


def test_status_shows_who_knocked_and_the_cure(bench: Bench) -> None:
    assert len(status_tables(bench.settings, 5)) == 1
    knocks = Knocks()
    knocks.note(_caller())
    knocks.note(_caller())
    knocks.note(Caller.of("STORESCU", "[red]WRONG", "10.0.0.8", Reason.WRONG_CALLED_AE))
    knocks.note(Caller.of("", "", "10.0.0.9", Reason.TOO_MANY_ASSOCIATIONS))
    knocks.flush(bench.records)
    console = Console(width=200, record=True)
    console.print(*status_tables(bench.settings, 5))
    text = console.export_text()
    for shown in (
        "STRANGER1 called FVLM",
        "from 10.0.0.7, 2 times since",
        "UNKNOWN_AE: The calling AE title is not in the settings. → Add the sender to dicom.accept_from.",
        "STORESCU called [red]WRONG",
        "or set dicom.ae_title",
        "raise dicom.max_associations",
    ):
        assert shown in text


def _knock(running: Receiver, calling: str, called: str = "FVLM") -> None:
    ae = AE(ae_title=calling)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", running.port, ae_title=called)
    if association.is_established:
        association.release()


@pytest.mark.timeout(900)
def test_a_real_receiver_remembers_whom_it_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node", receivers=2)
    with receiver(settings) as running:
        threads = [threading.Thread(target=_knock, args=(running, "STRANGER")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _knock(running, "STORESCU", "OTHER")
        _knock(running, "STORESCU")
        records = Records(open_database(settings.database))
        wait_for(lambda: inspect(records.engine).has_table("knock"), "the schema")
        expected = [("STORESCU", "OTHER", Reason.WRONG_CALLED_AE, 1), ("STRANGER", "FVLM", Reason.UNKNOWN_AE, 4)]
        wait_for(lambda: _rows(records) == expected, "the callers are written down")
        assert running.end()[0] == 0
