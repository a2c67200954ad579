"""`fvlm-node clean`: what may go, what stays and why. Nothing goes that a destination has not promised to keep."""

from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console
from rows import QUICK, add_job, add_results, open_records, settings_for
from spool_data import Bench, ct_slice
from sqlalchemy import select, update

from config import Reason, Settings
from config.settings import Destination, RetentionSettings
from node import breaker
from node.clean import clean, dry_run
from node.completion import complete_due
from node.database import Records
from node.records import Delivery, Job, Result, now
from node.routing import route
from node.spool import segments
from node.states import State
from node.status import status_tables


def _with(settings: Settings, commitment: bool) -> Settings:
    pacs = Destination(ae_title="PACS", host="127.0.0.1", port=104, commitment=commitment)
    return settings.model_copy(update={"destinations": {"pacs": pacs}})


def _age(records: Records, days: int) -> None:
    with records.session() as session:
        session.execute(update(Job).values(changed_at=now() - timedelta(days=days)))


def _sent(records: Records, committed: bool = False) -> None:
    with records.session() as session:
        session.execute(update(Delivery).values(sent_at=now(), asked=True, committed_at=now() if committed else None))
        session.execute(update(Job).values(state=State.COMMITTED if committed else State.SENT))


def _files(settings: Settings) -> list[Path]:
    return sorted(settings.results_dir.rglob("*.dcm"))


def test_results_go_when_they_are_committed_and_old_and_not_before(tmp_path: Path) -> None:
    settings = _with(settings_for(tmp_path, ("pacs", 104)), commitment=True)
    records = open_records(settings)
    job_id = add_job(records, state=State.ENCODED)
    add_results(records, settings, job_id)
    _age(records, 31)
    size = sum(file.stat().st_size for file in _files(settings))
    assert f"results of job {job_id}  {size:,} bytes  stays: job is ENCODED" in list(dry_run(records, settings))
    _sent(records)
    assert any(line.endswith("stays: not committed: waits for the answer") for line in dry_run(records, settings))
    assert "results of 0 jobs deleted (0 bytes)" in list(clean(records, settings))
    _sent(records, committed=True)
    _age(records, 29)
    assert list(dry_run(records, settings))[-1].startswith("jobs' results: 0 would go")
    _age(records, 31)
    told = list(dry_run(records, settings))
    assert f"results of job {job_id}  {size:,} bytes  would go" in told
    assert len(_files(settings)) == 2  # it only says so
    assert f"results of 1 jobs deleted ({size:,} bytes)" in list(clean(records, settings))
    assert _files(settings) == []
    with records.reading() as session:
        assert all(result.removed_at for result in session.scalars(select(Result)))
    assert "results of 0 jobs deleted (0 bytes)" in list(clean(records, settings))


@pytest.mark.parametrize("gone", [False, True])
def test_stored_is_enough_where_no_commitment_is_asked(tmp_path: Path, gone: bool) -> None:
    settings = _with(settings_for(tmp_path, ("pacs", 104)), commitment=False)
    if gone:
        settings = settings.model_copy(update={"destinations": {}})
    records = open_records(settings)
    add_results(records, settings, add_job(records, state=State.ENCODED))
    _sent(records)
    _age(records, 31)
    list(clean(records, settings))
    assert _files(settings) == []


def test_results_that_went_nowhere_and_failed_ones_stay(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    job_id = add_job(records, state=State.ENCODED)
    add_results(records, settings, job_id)
    with records.session() as session:
        session.get_one(Job, job_id).state = State.SENT
    _age(records, 3000)
    assert any("stays: no destination: it is the only copy" in line for line in dry_run(records, settings))
    with records.session() as session:
        session.get_one(Job, job_id).state = State.FAILED
    assert any("stays: job is FAILED" in line for line in dry_run(records, settings))
    list(clean(records, settings, older_than=0))
    assert len(_files(settings)) == 2


def test_nothing_outside_the_results_folder_is_touched(tmp_path: Path) -> None:
    settings = _with(settings_for(tmp_path / "node", ("pacs", 104)), commitment=False)
    records = open_records(settings)
    add_results(records, settings, add_job(records, state=State.ENCODED))
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(b"x")
    with records.session() as session:
        session.scalars(select(Result)).first().path = "../../outside.dcm"  # type: ignore[union-attr]
    _sent(records)
    _age(records, 31)
    list(clean(records, settings))
    assert outside.exists()


def test_images_stay_until_the_results_are_committed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    settings = _with(bench.settings, commitment=True).model_copy(
        update={"retention": RetentionSettings(images_days=0, results_days=0)}
    )
    bench.receive(*(ct_slice(number=n, side=8) for n in range(1, 25)))
    size = segments(settings.spool_dir)[0].stat().st_size
    complete_due(bench.records, settings, now() + timedelta(seconds=60))
    (job_id,) = route(bench.records, "d" * 64)
    (told, *_) = dry_run(bench.records, settings)
    assert told.endswith(f"  {size:,} bytes  stays: job {job_id} is QUEUED")
    with bench.records.session() as session:
        session.get_one(Job, job_id).move(State.RUNNING)
        session.get_one(Job, job_id).move(State.ENCODED)
        result = Result(job_id=job_id, kind="SR", sop_instance_uid="2.25.1", sop_class_uid="1.2", path="x.dcm")
        session.add(result)
        result.deliveries = [Delivery(destination="pacs", sent_at=now(), asked=True)]
        session.get_one(Job, job_id).move(State.SENT, Reason.COMMITMENT_TIMEOUT)
    (told, *_) = dry_run(bench.records, settings)
    assert told.endswith(f"stays: job {job_id} is not committed: COMMITMENT_TIMEOUT")
    assert "0 spool segments deleted" in list(clean(bench.records, settings))
    _sent(bench.records, committed=True)
    (told, *_) = dry_run(bench.records, settings)
    assert told.endswith("would go")
    assert "1 spool segments deleted" in list(clean(bench.records, settings))
    assert segments(settings.spool_dir) == []


def test_status_shows_each_destination_with_its_breaker(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, ("dead", 104), ("good", 105), delivery=QUICK)
    records = open_records(settings)
    add_results(records, settings, add_job(records, state=State.ENCODED))
    with records.session() as session:
        row = breaker.trip(session, "dead", Reason.PEER_UNREACHABLE, "DEAD at 127.0.0.1:104 does not answer")
        row.next_attempt_at = now() + timedelta(hours=1)
        session.execute(update(Delivery).where(Delivery.destination == "good").values(sent_at=now(), ask_at=now()))
    table = next(table for table in status_tables(settings, 5) if table.title == "Destinations")
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    dead, good = zip(*columns, strict=True)
    assert dead[:4] == (
        "dead\nDEAD at 127.0.0.1:104",
        "open",
        "2 to send\n0 to commit",
        "PEER_UNREACHABLE: DEAD at 127.0.0.1:104 does not answer",
    )
    assert dead[4].endswith("UTC")
    assert good[1:4] == ("closed", "0 to send\n2 to commit", "")
    console = Console(width=80, record=True)
    console.print(*status_tables(settings, 5))
    assert "half-open" not in console.export_text()
    with records.session() as session:
        assert breaker.shut(session, "dead")
    table = next(table for table in status_tables(settings, 5) if table.title == "Destinations")
    assert str(next(iter(table.columns[1].cells))) == "closed"
