"""Attempts that end badly: out of memory, an error of the GPU, a hang, a kill; each with its reason, none twice."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_pipeline import FakePipeline
from rows import add_job, job, open_records, settings_for
from running import Processes, running_broker, wait_for
from sqlalchemy import select

from config import Reason, Settings
from config.settings import ModelSettings, WorkSettings
from dicom_sr.identity import tracking_uid
from node import leases, watchdog
from node.attempts import TRANSIENT, attempt_failed, worker_lost
from node.database import Records
from node.jobs import Analyst, WorkerUnfitError
from node.reconciler import Reconciler
from node.records import Job, ReportedFinding
from node.states import State
from node.tasks import Dispatcher, make_app
from node.worker import frugal_settings

WORK = WorkSettings(max_attempts=2, lease_s=30.0, reconcile_s=0.2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data", work=WORK)


@pytest.fixture
def records(settings: Settings) -> Records:
    return open_records(settings)


def _runs(control: Path) -> list[bool]:
    """Of each run, in order: in the smaller configuration?"""
    return [path.name.endswith("-frugal") for path in sorted(control.glob("run-*"))]


def _reconcile_until(records: Records, settings: Settings, job_id: int, *states: State) -> Job:
    reconciler = Reconciler(records, settings, Dispatcher(make_app(settings)))

    def reached() -> bool:
        reconciler.once()
        return job(records, job_id).state in states

    wait_for(reached, f"the job to be {states}")
    return job(records, job_id)


@pytest.mark.parametrize(
    ("reason", "attempts", "frugal", "state", "frugal_next"),
    [
        (Reason.OUT_OF_MEMORY, 1, False, State.QUEUED, True),
        (Reason.OUT_OF_MEMORY, 2, False, State.QUEUED, True),  # the smaller configuration gets its chance
        (Reason.OUT_OF_MEMORY, 1, True, State.FAILED, True),
        (Reason.DEVICE_ERROR, 1, False, State.QUEUED, True),
        (Reason.DEVICE_ERROR, 2, True, State.QUARANTINED, True),
        (Reason.TIME_LIMIT, 1, False, State.QUEUED, False),
        (Reason.TIME_LIMIT, 2, False, State.QUARANTINED, False),
        (Reason.INTERNAL, 2, False, State.QUARANTINED, False),
        (Reason.GEOM_GAP, 1, False, State.FAILED, False),
    ],
)
def test_what_follows_a_failed_attempt(
    reason: Reason, attempts: int, frugal: bool, state: State, frugal_next: bool
) -> None:
    row = Job(state=State.RUNNING, attempts=attempts, frugal=frugal)
    attempt_failed(row, 2, reason, "said so")
    assert (row.state, row.reason, row.frugal) == (state, reason, frugal_next)
    assert row.detail == ("after 2 attempts: said so" if state == State.QUARANTINED else "said so")
    assert reason in TRANSIENT or reason in (Reason.OUT_OF_MEMORY, Reason.GEOM_GAP)


def test_a_killed_worker_costs_an_attempt_and_the_next_one_is_smaller() -> None:
    row = Job(state=State.RUNNING, attempts=1, frugal=False)
    worker_lost(row, 2)
    assert (row.state, row.frugal, row.reason) == (State.QUEUED, True, None)
    row.state, row.attempts = State.RUNNING, 2
    worker_lost(row, 2)
    assert (row.state, row.reason) == (State.QUARANTINED, Reason.ATTEMPTS_EXHAUSTED)
    assert "killed" in row.detail


def test_a_job_out_of_memory_succeeds_in_the_smaller_configuration_and_the_next_one_in_the_usual(
    records: Records, settings: Settings
) -> None:
    first, second = add_job(records, "2.25.1"), add_job(records, "2.25.2")
    control = FakePipeline(settings).control
    (control / "fail-usual").write_text(Reason.OUT_OF_MEMORY)
    with running_broker(settings.data_dir), Processes(settings) as processes:
        processes.analyze()
        assert _reconcile_until(records, settings, first, State.SENT).attempts == 2
        assert _reconcile_until(records, settings, second, State.SENT).attempts == 2
        (control / "fail-usual").unlink()
        third = add_job(records, "2.25.3")
        assert _reconcile_until(records, settings, third, State.SENT).attempts == 1
    assert _runs(control) == [False, True, False, True, False]
    assert processes.log.read_text().count('"event": "model_loaded"') == 5  # one for each change


def test_a_job_out_of_memory_in_the_smaller_configuration_too_fails_with_its_reason(
    records: Records, settings: Settings
) -> None:
    job_id = add_job(records)
    control = FakePipeline(settings).control
    (control / "fail").write_text(Reason.OUT_OF_MEMORY)
    with running_broker(settings.data_dir), Processes(settings) as processes:
        worker = processes.analyze()
        ended = _reconcile_until(records, settings, job_id, State.FAILED, State.QUARANTINED)
        assert worker.poll() is None
    assert (ended.state, ended.reason, ended.attempts) == (State.FAILED, Reason.OUT_OF_MEMORY, 2)
    assert _runs(control) == [False, True]


def test_memory_that_ends_while_results_are_written_is_out_of_memory_too(
    records: Records, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object) -> object:
        raise MemoryError

    job_id = add_job(records)
    monkeypatch.setattr("node.jobs.write_objects", greedy)
    Analyst(records, settings, FakePipeline(settings), "w").analyze(job_id)  # type: ignore[arg-type]
    ended = job(records, job_id)
    assert (ended.state, ended.reason, ended.frugal) == (State.QUEUED, Reason.OUT_OF_MEMORY, True)


def test_a_worker_killed_in_a_job_has_the_next_attempt_in_the_smaller_configuration(
    records: Records, settings: Settings
) -> None:
    job_id = add_job(records)
    control = FakePipeline(settings).control
    (control / "hold").touch()
    with running_broker(settings.data_dir), Processes(settings) as processes:
        victim = processes.analyze("test:analyze")
        _reconcile_until(records, settings, job_id, State.RUNNING)
        wait_for(lambda: _runs(control) == [False], "a job that is being worked on")
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        (control / "hold").unlink()
        processes.analyze("test:analyze")  # its restart gives up the lease at once
        assert _reconcile_until(records, settings, job_id, State.SENT).attempts == 2
    assert _runs(control) == [False, True]


def test_after_an_error_of_the_gpu_the_job_is_given_back_and_the_worker_ends(
    records: Records, settings: Settings
) -> None:
    job_id = add_job(records)
    control = FakePipeline(settings).control
    (control / "fail-usual").write_text(Reason.DEVICE_ERROR)
    with running_broker(settings.data_dir), Processes(settings) as processes:
        unfit = processes.analyze()
        _reconcile_until(records, settings, job_id, State.RUNNING, State.QUEUED)
        Dispatcher(make_app(settings)).send("analyze", job_id)
        assert unfit.wait(60) == 4
        given_back = job(records, job_id)
        assert (given_back.state, given_back.reason, given_back.attempts) == (State.QUEUED, Reason.DEVICE_ERROR, 1)
        processes.analyze()
        assert _reconcile_until(records, settings, job_id, State.SENT).attempts == 2
    assert _runs(control) == [False, True]


def test_an_error_of_the_gpu_makes_this_very_worker_unfit(records: Records, settings: Settings) -> None:
    pipeline = FakePipeline(settings)
    (pipeline.control / "fail").write_text(Reason.DEVICE_ERROR)
    job_id = add_job(records)
    with pytest.raises(WorkerUnfitError):
        Analyst(records, settings, pipeline, "w").analyze(job_id)  # type: ignore[arg-type]
    assert job(records, job_id).lease_owner == ""


def test_a_job_that_hangs_ends_its_worker_and_is_quarantined_with_the_reason(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", work=WORK.model_copy(update={"time_limit_s": 1.0}))
    records = open_records(settings)
    job_id = add_job(records)
    control = FakePipeline(settings).control
    (control / "hold").touch()
    with running_broker(settings.data_dir), Processes(settings) as processes:
        for state in (State.QUEUED, State.QUARANTINED):
            hanging = processes.analyze()
            wait_for(
                lambda w=hanging: _once(records, settings) and w.poll() is not None,  # type: ignore[misc]
                "the worker to be ended",
            )
            assert hanging.returncode == watchdog.STATUS
            assert job(records, job_id).state == state
        log = processes.log.read_text()
    ended = job(records, job_id)
    assert (ended.reason, ended.attempts) == (Reason.TIME_LIMIT, 2)
    assert ended.detail == "after 2 attempts: took longer than 1 s"
    assert _runs(control) == [False, False]
    assert "fake_pipeline.py" in log  # where it stood


@pytest.mark.parametrize(
    ("stuck", "status"),
    [("time.sleep(600)", watchdog.STATUS), ("ctypes.PyDLL(None).sleep(600)", 1)],
    ids=["waiting", "never giving the interpreter free"],
)
def test_whatever_is_stuck_is_ended(stuck: str, status: int) -> None:
    code = (
        "import ctypes, time; from node import watchdog; watchdog._LAST_WORDS_S = 0.5\n"
        f"with watchdog.time_limit(0.2, lambda: print('last words', flush=True)): {stuck}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status
    assert ("last words" in done.stdout) == (status == watchdog.STATUS)
    assert "line 2" in done.stderr  # where it stood


def _once(records: Records, settings: Settings) -> bool:
    Reconciler(records, settings, Dispatcher(make_app(settings))).once()
    return True


def test_work_within_the_limit_is_left_alone(records: Records, settings: Settings) -> None:
    job_id = add_job(records)
    with watchdog.time_limit(60.0, lambda: None):
        Analyst(records, settings, FakePipeline(settings), "w").analyze(job_id)  # type: ignore[arg-type]
    assert job(records, job_id).state == State.SENT


def test_a_worker_ended_on_purpose_gives_its_job_back_without_counting_the_attempt(records: Records) -> None:
    mine, other = add_job(records, "2.25.1"), add_job(records, "2.25.2")
    with records.session() as session:
        assert leases.take(session, mine, "w/1", 60.0)
        assert leases.take(session, other, "w2/1", 60.0)
        assert leases.hand_back(session, "w") == 1
    rows = [job(records, each) for each in (mine, other)]
    assert [(row.state, row.attempts, row.frugal) for row in rows] == [
        (State.QUEUED, 0, False),
        (State.RUNNING, 1, False),
    ]
    assert (rows[0].lease_owner, rows[0].lease_expires) == ("", None)


def test_the_smaller_configuration_is_on_the_cpu_and_keeps_everything_else(tmp_path: Path) -> None:
    usual = Settings(data_dir=tmp_path, model=ModelSettings(device="cuda", compiled=True, precision="bfloat16"))
    smaller = frugal_settings(usual)
    assert smaller.model == ModelSettings(device="cpu", frugal=True, precision="bfloat16")
    assert smaller.model_copy(update={"model": usual.model}) == usual


def test_what_a_job_says_is_kept_with_it_once(records: Records, settings: Settings) -> None:
    """Readers answer to it by the Tracking UIDs of the SR; another attempt replaces it."""
    job_id = add_job(records)
    analyst = Analyst(records, settings, FakePipeline(settings), "w")
    analyst.analyze(job_id)
    with records.session() as session:
        session.get_one(Job, job_id).move(State.QUEUED)
    analyst.analyze(job_id)
    with records.reading() as session:
        (found,) = session.scalars(select(ReportedFinding)).all()
    assert (found.job_id, found.finding, found.probability, found.verdict) == (job_id, "lung.nodule", 0.75, "present")
    assert found.tracking_uid == tracking_uid("2.25.1", "lung.nodule")
