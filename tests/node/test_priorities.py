"""Urgent work goes first, however long the queue is, and research work neither waits for ever nor delays others."""

from datetime import timedelta
from pathlib import Path

import pytest
from fake_pipeline import FakePipeline
from rows import add_job, add_results, deliveries, job, open_records, settings_for
from running import Processes, running_broker, wait_for
from spool_data import Bench, ct_slice
from sqlalchemy import func, select, update

from config import Priority, Settings
from config.settings import RoutingSettings
from node import outbox
from node.completion import complete_due
from node.database import Records
from node.job_control import prioritise
from node.jobs import Analyst
from node.priority_rule import PriorityRule
from node.reconciler import Reconciler
from node.records import Job, now
from node.routing import route
from node.states import State
from node.tasks import ANALYZE, Dispatcher, make_app
from node.work_queue import RESEARCH_TURN

DIGEST = "d" * 64


def _finished(records: Records) -> list[int]:
    """Ids of finished jobs in the order in which they were finished."""
    with records.reading() as session:
        return list(session.scalars(select(Job.id).where(Job.state == State.SENT).order_by(Job.changed_at)))


def test_a_stat_job_behind_500_routine_ones_is_the_next_one_taken(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    routine = [add_job(records, f"2.25.{n}") for n in range(500)]
    control = FakePipeline(settings).control
    (control / "hold").touch()
    with running_broker(settings.data_dir) as client, Processes(settings) as processes:
        reconciler = Reconciler(records, settings, Dispatcher(make_app(settings)))
        reconciler.once()
        processes.analyze()
        wait_for(lambda: any(control.glob("run-*")), "the first job to run")
        stat, urgent = add_job(records, "2.25.1000", priority=Priority.STAT), routine[400]
        prioritise(records, str(urgent), Priority.URGENT)
        assert client.llen(ANALYZE) > 10  # messages that name routine jobs are before anything sent from now on
        (control / "hold").unlink()
        wait_for(lambda: len(_finished(records)) >= 5, "five jobs")
    assert _finished(records)[:5] == [routine[0], stat, urgent, routine[1], routine[2]]


def test_the_reconciler_issues_the_most_urgent_first(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    jobs = {p: add_job(records, f"2.25.{p}", priority=p) for p in reversed(Priority)}
    sent: list[int] = []

    class Recorder(Dispatcher):
        def send(self, queue: str, row_id: int) -> None:
            sent.append(row_id)
            super().send(queue, row_id)

    with running_broker(settings.data_dir):
        Reconciler(records, settings, Recorder(make_app(settings))).once()
    assert sent == [jobs[p] for p in sorted(Priority)]


def _work_off(records: Records, settings: Settings, turns: int) -> list[Priority]:
    """Priorities of the jobs that one worker takes."""
    analyst = Analyst(records, settings, FakePipeline(settings), "w")  # type: ignore[arg-type]
    for _ in range(turns):
        analyst.analyze()
    return [Priority(job(records, job_id).priority) for job_id in _finished(records)]


@pytest.mark.parametrize(("waited_h", "share"), [(25, 2), (1, 0)])
def test_research_that_has_waited_gets_every_tenth_turn(tmp_path: Path, waited_h: int, share: int) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    for n in range(30):
        add_job(records, f"2.25.{n}", priority=Priority.RESEARCH)
    with records.session() as session:
        session.execute(update(Job).values(created_at=now() - timedelta(hours=waited_h)))
    for n in range(30, 60):
        add_job(records, f"2.25.{n}")
    taken = _work_off(records, settings, 2 * RESEARCH_TURN)
    assert taken.count(Priority.RESEARCH) == share
    assert taken.count(Priority.ROUTINE) == 2 * RESEARCH_TURN - share
    if share:
        assert taken[RESEARCH_TURN - 1] == Priority.RESEARCH


def test_research_that_has_waited_does_not_delay_what_is_urgent(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    add_job(records, "2.25.1", priority=Priority.RESEARCH)
    with records.session() as session:
        session.execute(update(Job).values(created_at=now() - timedelta(days=30)))
    for n in range(2, 14):
        add_job(records, f"2.25.{n}", priority=Priority.URGENT)
    assert _work_off(records, settings, 12) == [Priority.URGENT] * 12


def test_results_of_urgent_jobs_are_sent_first(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, ("pacs", 104))
    records = open_records(settings)
    jobs = [add_job(records, f"2.25.{p}", State.ENCODED, priority=p) for p in (Priority.ROUTINE, Priority.STAT)]
    for each in jobs:
        add_results(records, settings, each)
    with records.reading() as session:
        due = [(row.job_id, row.kind) for row in outbox.due(session, "pacs")]
    assert due == [(jobs[1], "SEG"), (jobs[1], "SR"), (jobs[0], "SEG"), (jobs[0], "SR")]
    assert len(deliveries(records, "pacs")) == 4


def _routed(bench: Bench, rule: RoutingSettings, asked: str | None) -> Priority:
    """The priority of the job of a series whose images ask for `asked`."""
    settings = bench.settings.model_copy(update={"routing": rule})
    datasets = [ct_slice(number=n) for n in range(1, 25)]
    for dataset in datasets:
        if asked is not None:
            dataset.add_new(0x00401003, "CS", asked)
    bench.receive(*datasets)
    complete_due(bench.records, settings, now() + timedelta(seconds=60))
    (job_id,) = route(bench.records, DIGEST, PriorityRule(settings).of)
    return Priority(job(bench.records, job_id).priority)


FROM_IMAGES = RoutingSettings(priorities={"STORESCU": "research"}, priority_from_images=("STORESCU",))


@pytest.mark.parametrize(
    ("rule", "asked", "expected"),
    [
        (RoutingSettings(), None, Priority.ROUTINE),
        (RoutingSettings(), "STAT", Priority.ROUTINE),
        (RoutingSettings(priorities={"STORESCU": "urgent", "OTHER": "stat"}), None, Priority.URGENT),
        (RoutingSettings(priorities={"STORESCU": "research"}), "STAT", Priority.RESEARCH),
        (RoutingSettings(priority_from_images=("OTHER",)), "STAT", Priority.ROUTINE),
        (FROM_IMAGES, "STAT", Priority.STAT),
        (FROM_IMAGES, "HIGH ", Priority.URGENT),
        (FROM_IMAGES, "low", Priority.ROUTINE),
        (FROM_IMAGES, "SOON", Priority.RESEARCH),
        (FROM_IMAGES, "", Priority.RESEARCH),
        (FROM_IMAGES, None, Priority.RESEARCH),
    ],
)
def test_the_priority_comes_from_the_sender_or_if_it_may_from_the_images(
    tmp_path: Path, rule: RoutingSettings, asked: str | None, expected: Priority
) -> None:
    assert _routed(Bench(tmp_path / "node"), rule, asked) == expected


def test_late_images_of_an_urgent_series_are_urgent_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    assert _routed(bench, RoutingSettings(), None) == Priority.ROUTINE
    prioritise(bench.records, "1", Priority.STAT)
    bench.receive(ct_slice(number=25))
    complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    (second,) = route(bench.records, DIGEST, PriorityRule(bench.settings).of)
    assert job(bench.records, second).priority == Priority.STAT
    with bench.records.reading() as session:
        assert session.scalar(select(func.count(Job.id)).where(Job.state == State.QUEUED)) == 1


def test_settings_name_priorities(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("routing: {priorities: {ER_CT: stat}, priority_from_images: [MAIN_PACS]}\n")
    assert Settings.load(file).routing.priorities == {"ER_CT": "stat"}
