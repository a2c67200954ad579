"""Commands about jobs: list, prioritise, cancel, rerun; what they do to rows, files and the worker at work."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from fake_pipeline import FakePipeline
from rows import add_job, archive, deliveries, job, open_records, settings_for
from running import Processes, running_broker, wait_for
from spool_data import Bench, ct_slice
from sqlalchemy import func, select
from test_cli import fvlm_node, told

from config import Priority, Reason, Settings
from node.completion import complete_due
from node.database import Records
from node.delivery import Courier
from node.errors import CommandError
from node.job_control import cancel, prioritise, rerun
from node.job_list import jobs_table
from node.jobs import Analyst
from node.reconciler import Reconciler
from node.records import Job, Result, now
from node.retention import release_segments
from node.retry import retry
from node.routing import route
from node.states import OF_JOBS, State
from node.tasks import ANALYZE, Dispatcher, make_app

DIGEST = "d" * 64
WAITS_OR_RUNS = (State.QUEUED, State.RUNNING)
FINISHED = (State.SENT, State.COMMITTED, State.FAILED, State.QUARANTINED)


@pytest.mark.parametrize("state", OF_JOBS)
def test_only_a_job_that_waits_gets_another_priority(tmp_path: Path, state: State) -> None:
    records = open_records(settings_for(tmp_path))
    job_id = add_job(records, state=state)
    if state == State.QUEUED:
        assert prioritise(records, str(job_id), Priority.STAT) == job_id
        assert job(records, job_id).priority == Priority.STAT
    else:
        with pytest.raises(CommandError, match=str(state)):
            prioritise(records, str(job_id), Priority.STAT)
        assert job(records, job_id).priority == Priority.ROUTINE


@pytest.mark.parametrize("state", OF_JOBS)
def test_only_a_job_that_waits_or_runs_is_cancelled(tmp_path: Path, state: State) -> None:
    records = open_records(settings_for(tmp_path))
    job_id = add_job(records, "2.25.6", state)
    if state not in WAITS_OR_RUNS:
        with pytest.raises(CommandError, match=str(state)):
            cancel(records, str(job_id))
        assert job(records, job_id).state == state
        return
    assert cancel(records, "2.25.6") == job_id
    ended = job(records, job_id)
    assert (ended.state, ended.reason, ended.lease_owner) == (State.FAILED, Reason.CANCELLED, "")
    assert retry(records, str(job_id)) == job_id
    assert job(records, job_id).state == State.QUEUED


def test_a_cancelled_job_that_runs_stops_and_writes_nothing(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, ("pacs", 104))
    records = open_records(settings)
    job_id = add_job(records)
    control = FakePipeline(settings).control
    (control / "hold").touch()
    with running_broker(settings.data_dir), Processes(settings) as processes:
        worker = processes.analyze()
        Dispatcher(make_app(settings)).send(ANALYZE, job_id)
        wait_for(lambda: any(control.glob("run-*")), "the job to run")
        cancel(records, str(job_id))
        second = add_job(records, "2.25.2")
        Dispatcher(make_app(settings)).send(ANALYZE, second)
        (control / "hold").unlink()
        wait_for(lambda: job(records, second).state == State.ENCODED, "the next job")
        assert worker.poll() is None
    assert "lease_lost" in processes.log.read_text()
    assert (job(records, job_id).state, job(records, job_id).reason) == (State.FAILED, Reason.CANCELLED)
    with records.reading() as session:
        assert set(session.scalars(select(Result.job_id))) == {second}
    assert {file.parent.name for file in settings.results_dir.rglob("*.*")} == {f"job-{second:08d}"}


def test_a_job_cancelled_in_its_last_stage_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    job_id = add_job(records)
    pipeline = FakePipeline(settings)
    run = pipeline.run

    def cancelled_at_the_end(*arguments: object) -> object:
        analysis = run(*arguments)  # type: ignore[arg-type]
        cancel(records, str(job_id))
        return analysis

    monkeypatch.setattr(pipeline, "run", cancelled_at_the_end)
    assert Analyst(records, settings, pipeline, "w").analyze(job_id) == []  # type: ignore[arg-type]
    assert job(records, job_id).reason == Reason.CANCELLED
    assert not list(settings.results_dir.rglob("*.*"))


def _read(bench: Bench, settings: Settings) -> int:
    """Receive a series, read and deliver it; its job."""
    bench.receive(*(ct_slice(number=n) for n in range(1, 25)))
    complete_due(bench.records, settings, now() + timedelta(seconds=60))
    (job_id,) = route(bench.records, DIGEST)
    _work_off(bench, settings)
    return job_id


def _work_off(bench: Bench, settings: Settings) -> None:
    for delivery_id in Analyst(bench.records, settings, FakePipeline(settings), "w").analyze():  # type: ignore[arg-type]
        Courier(bench.records, settings).deliver(delivery_id)


def test_rerun_reads_and_sends_again_and_doubles_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    with archive(tmp_path / "pacs", "PACS") as pacs:
        settings = settings_for(tmp_path / "node", ("pacs", pacs.port))
        job_id = _read(bench, settings)
        assert job(bench.records, job_id).state == State.SENT
        first = {path.name: path.read_bytes() for path in pacs.files()}
        for path in pacs.files():
            path.unlink()  # the archive has lost them
        written = {path: path.read_bytes() for path in settings.results_dir.rglob("*.dcm")}
        series_uid = str(ct_slice().SeriesInstanceUID)
        assert rerun(bench.records, settings, series_uid) == job_id
        assert (job(bench.records, job_id).state, job(bench.records, job_id).attempts) == (State.QUEUED, 0)
        _work_off(bench, settings)
        assert {path.name: path.read_bytes() for path in pacs.files()} == first != {}
    assert job(bench.records, job_id).state == State.SENT
    assert {path: path.read_bytes() for path in settings.results_dir.rglob("*.dcm")} == written
    assert len(deliveries(bench.records, "pacs")) == 2
    with bench.records.reading() as session:
        assert session.scalar(select(func.count(Result.id))) == 2
        assert session.scalar(select(func.count(Job.id))) == 1


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.ENCODED, State.SUPERSEDED])
def test_an_unfinished_or_superseded_job_is_not_run_again(tmp_path: Path, state: State) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    job_id = add_job(records, state=state)
    with pytest.raises(CommandError, match=str(state)):
        rerun(records, settings, str(job_id))
    assert job(records, job_id).state == state


def test_a_series_whose_images_were_deleted_is_not_run_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    settings = settings_for(tmp_path / "node")
    job_id = _read(bench, settings)
    assert release_segments(bench.records, settings.spool_dir, now() + timedelta(days=1))
    with pytest.raises(CommandError, match="deleted"):
        rerun(bench.records, settings, str(job_id))
    assert job(bench.records, job_id).state == State.SENT


def _listed(records: Records, *states: State, limit: int = 50) -> list[tuple[str, str, str]]:
    """Job, priority and first line of the state, of each row."""
    table = jobs_table(records, states, limit)
    columns = [list(column.cells) for column in table.columns]
    return [(str(a), str(b), str(d).splitlines()[0]) for a, b, _, d, _ in zip(*columns, strict=True)]


def test_jobs_are_listed_in_the_order_in_which_they_are_taken_then_newest_first(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    add_job(records, "2.25.1", State.SENT)
    add_job(records, "2.25.2")
    add_job(records, "2.25.3", priority=Priority.STAT)
    add_job(records, "2.25.4", State.RUNNING)
    add_job(records, "2.25.5", State.FAILED)
    add_job(records, "2.25.6")
    assert _listed(records) == [
        ("4", "routine", "RUNNING"),
        ("3", "stat", "QUEUED"),
        ("2", "routine", "QUEUED"),
        ("6", "routine", "QUEUED"),
        ("5", "routine", "FAILED"),
        ("1", "routine", "SENT"),
    ]
    assert _listed(records, State.FAILED, State.SENT) == [("5", "routine", "FAILED"), ("1", "routine", "SENT")]
    assert jobs_table(records, [State.QUEUED], 1).title == "Jobs: 1 of 3"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "node.yaml"
    file.write_text(f"data_dir: {tmp_path / 'data'}\n")
    return file


def test_the_commands_say_what_they_did(config: Path) -> None:
    records = open_records(Settings.load(config))
    add_job(records, "2.25.7")

    def say(*arguments: str) -> subprocess.CompletedProcess[str]:
        return fvlm_node(*arguments, "--config", str(config))

    assert say("prioritise", "1", "stat").stdout == "job 1 is stat\n"
    listed = say("jobs", "--state", "QUEUED").stdout
    for expected in ("Jobs: 1 of 1", "stat", "2.25.7", "SCANNER", "QUEUED"):
        assert expected in listed
    assert say("cancel", "2.25.7").stdout == "job 1 is cancelled\n"
    assert "CANCELLED" in say("jobs").stdout
    assert "is FAILED" in told(say("cancel", "1"))
    assert "is FAILED" in told(say("prioritise", "1", "urgent"))
    assert "deleted" in told(say("rerun", "1"))
    assert say("retry", "1").stdout == "job 1 is queued again\n"
    assert "is QUEUED" in told(say("rerun", "1"))
    for command in (["cancel"], ["rerun"], ["retry"]):
        assert "no such job" in told(say(*command, "77"))
    wrong = say("prioritise", "1", "soon")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
    assert "One of: QUEUED" in told(say("jobs", "--state", "LOST"))
    assert "Jobs: 0 of 0" in say("jobs", "--state", "sent").stdout


@pytest.mark.parametrize("command", [["jobs"], ["cancel", "1"], ["rerun", "1"], ["prioritise", "1", "stat"]])
def test_without_a_node_each_command_is_one_line(config: Path, command: list[str]) -> None:
    assert "no node has run" in told(fvlm_node(*command, "--config", str(config)))


def test_a_cancelled_job_is_issued_no_more(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    cancel(records, str(add_job(records)))
    with running_broker(settings.data_dir) as client:
        assert Reconciler(records, settings, Dispatcher(make_app(settings))).once() is False
        assert client.llen(ANALYZE) == 0
