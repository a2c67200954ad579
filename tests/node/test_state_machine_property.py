"""Whatever happens in whatever order - images twice, late, in conflict, crashes, lost databases, deaf archives -
nothing acknowledged is lost, nothing is doubled, nothing is forgotten. Hypothesis looks for the order that breaks it.

`HYPOTHESIS_PROFILE=long` looks for half an hour.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from pydicom import Dataset
from pydicom.uid import generate_uid
from spool_data import encode
from whole_node import (
    EXPLICIT,
    Acknowledged,
    ContentPipeline,
    Point,
    WholeNode,
    image,
    image_set,
    make_template,
    reference,
)

from node.index_rows import Written, write_entries
from node.indexer import Indexed, Indexer
from node.states import TRANSITIONS, State

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
FIXED = settings(stateful_step_count=40, deadline=None, suppress_health_check=_CHECKS, derandomize=True)
SEARCH = settings(max_examples=3000, stateful_step_count=80, deadline=None, suppress_health_check=_CHECKS)
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
ENDS = {State.REJECTED, State.SENT, State.COMMITTED, State.FAILED, State.QUARANTINED, State.SUPERSEDED}
DONE = {State.SENT, State.COMMITTED, State.SUPERSEDED}
NEEDS_REASON = {State.REJECTED, State.FAILED, State.QUARANTINED}
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

series_numbers, numbers, associations = st.integers(1, 2), st.integers(1, 5), st.integers(0, 1)
points = st.one_of(
    st.none(), st.builds(Point, st.sampled_from(["commit", "commit", "send"]), st.booleans(), st.integers(1, 6))
)
_template: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The empty database, and silence: every example logs some hundred lines."""
    _template.append(make_template(tmp_path_factory.mktemp("template") / "empty.sqlite"))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()
    _template.clear()


class NodeMachine(RuleBasedStateMachine):
    """Rules are what may happen; invariants hold after each; `teardown` lets everything come to rest."""

    node_type: type[WholeNode] = WholeNode

    def __init__(self) -> None:
        super().__init__()
        self.left: list[list[Any]] = []
        """Rows when all had come to rest."""
        self.folder = Path(tempfile.mkdtemp(prefix="machine-", dir=MEMORY))
        self.node = self.node_type(self.folder / "data", _template[0])

    # --- the way in

    @rule(series=series_numbers, number=numbers, association=associations)
    def receive(self, series: int, number: int, association: int) -> None:
        self.node.receive(association, image(series, number))

    @rule(series=series_numbers, count=st.integers(2, 5), association=associations)
    def receive_a_series(self, series: int, count: int, association: int) -> None:
        for number in range(1, count + 1):
            self.node.receive(association, image(series, number))

    @rule(series=series_numbers, number=numbers, association=associations, other=st.booleans(), fill=st.integers(1, 2))
    def receive_a_conflict(self, series: int, number: int, association: int, other: bool, fill: int) -> None:
        """The SOP Instance UID of an image, with other bytes, in the same or in another series."""
        self.node.receive(association, image(series, number, fill, of=3 - series if other else None))

    @precondition(lambda self: self.node.acknowledged)
    @rule(series=series_numbers, number=numbers, association=associations)
    def late(self, series: int, number: int, association: int) -> None:
        """After the quiet time."""
        self.node.reconcile(20)
        self.node.receive(association, image(series, number))

    @rule(series=series_numbers, number=numbers, association=associations, half=st.booleans())
    def release(self, series: int, number: int, association: int, half: bool) -> None:
        """The association ends, perhaps within an image."""
        if half:
            self.node.receive_half(association, image(series, number, fill=9))
        self.node.release(association)

    # --- work, and crashes in it

    @rule(point=points)
    def index(self, point: Point | None) -> None:
        with self.node.crashing(point):
            self.node.index()
            self.check_indexed()

    @rule(seconds=st.sampled_from([1, 20, 200, 86400]), point=points)
    def reconcile(self, seconds: int, point: Point | None) -> None:
        with self.node.crashing(point):
            self.node.reconcile(seconds)

    @rule(point=points)
    def quick_way(self, point: Point | None) -> None:
        """From the spool to the end of the jobs, with a crash somewhere in the work."""
        self.node.index()
        self.node.reconcile(20)
        with self.node.crashing(point):
            while self.node.work() or self.node.deliver():
                pass

    @rule(point=points)
    def work(self, point: Point | None) -> None:
        with self.node.crashing(point):
            self.node.work()

    @rule(point=points)
    def deliver(self, point: Point | None) -> None:
        with self.node.crashing(point):
            self.node.deliver()

    @rule(
        mode=st.sampled_from(["accept", "accept", "refuse", "busy", "dead"]),
        commitment=st.sampled_from(["give", "give", "refuse", "silent", "unknown"]),
    )
    def archive_turns(self, mode: str, commitment: str) -> None:
        self.node.archive.mode, self.node.archive.commitment = mode, commitment

    @precondition(lambda self: self.node.rows("SELECT 1 FROM job WHERE state IN ('QUEUED', 'RUNNING')"))
    @rule(point=points)
    def cancel(self, point: Point | None) -> None:
        """The newest job that waits or runs."""
        ((job,),) = self.node.rows("SELECT max(id) FROM job WHERE state IN ('QUEUED', 'RUNNING')")
        with self.node.crashing(point):
            assert self.node.cancel(job)
            assert self.node.rows(f"SELECT state, reason FROM job WHERE id = {job}") == [("FAILED", "CANCELLED")]

    @rule(what=st.sampled_from(["restart", "restart", "broker", "database"]))
    def lose(self, what: str) -> None:
        """The processes' memory, the broker's messages, or the database."""
        if what == "restart":
            self.node.restart()
        elif what == "broker":
            self.node.broker.clear()
        else:
            self.node.lose_database()

    # --- what always holds

    @invariant()
    def what_always_holds(self) -> None:
        self.acknowledged_images_are_in_the_spool()
        self.only_acknowledged_images_count()
        self.states_move_as_allowed()
        self.ends_have_a_reason_or_a_result()
        self.older_generations_give_way()
        self.the_archive_has_nothing_twice()
        self.what_counts_as_committed_is()

    def acknowledged_images_are_in_the_spool(self) -> None:
        assert self.node.acknowledged_in_spool()

    def only_acknowledged_images_count(self) -> None:
        known = {(one.uid, one.sha256) for one in self.node.acknowledged}
        assert set(self.node.rows("SELECT sop_instance_uid, sha256 FROM instance")) <= known

    def states_move_as_allowed(self) -> None:
        for kind, _, old, new in self.node.rows("SELECT kind, id, old, new FROM state_log"):
            assert State(new) in TRANSITIONS[State(old)], f"{kind}: {old} -> {new}"

    def ends_have_a_reason_or_a_result(self) -> None:
        for state, reason in self.node.rows("SELECT state, reason FROM series UNION ALL SELECT state, reason FROM job"):
            assert state not in NEEDS_REASON or reason, state
        ended = "SELECT id FROM job WHERE state IN ('ENCODED', 'SENT', 'COMMITTED')"
        assert not self.node.rows(f"{ended} AND id NOT IN (SELECT job_id FROM result)")

    def older_generations_give_way(self) -> None:
        jobs = self.node.rows(
            "SELECT series_instance_uid, generation, job.state FROM job JOIN series ON series.id = job.series_id"
        )
        newest: dict[str, int] = {}
        for uid, generation, _ in jobs:
            newest[uid] = max(generation, newest.get(uid, 0))
        assert all(state == State.SUPERSEDED for uid, generation, state in jobs if generation < newest[uid])

    def the_archive_has_nothing_twice(self) -> None:
        assert not self.node.archive.rewritten
        assert all(len(uids) == 1 for uids in self.node.archive.meaning.values()), self.node.archive.meaning

    def what_counts_as_committed_is(self) -> None:
        results = self.node.rows(
            "SELECT sop_instance_uid FROM result JOIN job ON job.id = result.job_id WHERE job.state = 'COMMITTED'"
        )
        assert {uid for (uid,) in results} <= self.node.archive.committed

    def check_indexed(self) -> None:
        """After the index has caught up."""
        rows = set(self.node.rows("SELECT sop_instance_uid, sha256 FROM instance"))
        assert {(one.uid, one.sha256) for one in self.node.acknowledged} <= rows

    # --- and in the end

    def teardown(self) -> None:
        try:
            self.come_to_rest()
            self.check_rest()
            self.check_clean()
        finally:
            self.node.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def come_to_rest(self) -> None:
        """Everything works from now on, for as long as it takes."""
        self.node.archive.mode, self.node.archive.commitment = "accept", "give"
        for number in (0, 1):
            self.node.release(number)
        for seconds in (1, 20, 1, 200, 1, 200, 1, 200, 1, 20, 1, 86400, 1):
            self.node.index()
            self.node.reconcile(seconds)
            while self.node.work() or self.node.deliver():
                pass
            if seconds > 1 and self.rests():
                break
        self.node.reconcile(86400)
        self.what_always_holds()

    def rests(self) -> bool:
        """Nothing is under way any more."""
        ends = ", ".join(f"'{state}'" for state in ENDS | {State.VETTED})
        under_way = (
            f"SELECT 1 FROM series WHERE state NOT IN ({ends}) UNION SELECT 1 FROM job WHERE state NOT IN ({ends})"
        )
        unrouted = "SELECT 1 FROM series WHERE state = 'VETTED' AND id NOT IN (SELECT series_id FROM job)"
        asked = "SELECT 1 FROM delivery WHERE ask_at IS NOT NULL"
        return not self.node.broker and not self.node.rows(f"{under_way} UNION {unrouted} UNION {asked}")

    def check_rest(self) -> None:
        """No series is forgotten; the current result of each is in the archive, once, and is of all its images."""
        self.check_indexed()
        self.left = [
            self.node.rows(f"SELECT * FROM {table}") for table in ("job", "delivery", "commitment_transaction")
        ]
        series = self.node.rows(
            "SELECT series_instance_uid, series.id, series.state, job.id, job.state FROM series"
            " LEFT JOIN job ON job.series_id = series.id ORDER BY generation"
        )
        for _, _, state, job, job_state in series:
            assert (job_state if job is not None else state) in ENDS, f"forgotten: series {state}, job {job_state}"
        newest = {uid: (state, job, job_state) for uid, _, state, job, job_state in series}
        assert newest.keys() == {one.series for one in self.node.acknowledged}
        kept = self.node.archive
        for uid, (_, job, job_state) in newest.items():
            if job_state not in (State.SENT, State.COMMITTED):
                continue
            objects = {uid for (uid,) in self.node.rows(f"SELECT sop_instance_uid FROM result WHERE job_id = {job}")}
            images = image_set(expected(self.node.acknowledged)[uid])
            current = [kept.meaning.get((f"{kind} of {uid}", images), set()) for kind in ("SEG", "SR")]
            assert set().union(*current) == objects, "the archive does not have the result of all images"

    def check_clean(self) -> None:
        """`fvlm-node clean`, ended somewhere and begun again: no image goes that may be read again, no only copy."""
        jobs = self.node.rows(
            "SELECT series_instance_uid, series.state, job.state FROM series LEFT JOIN job ON job.series_id = series.id"
        )
        needed = {
            uid for uid, state, job in jobs if job not in (None, *DONE) or (job is None and state == State.VETTED)
        }
        with self.node.crashing(Point("commit", after=len(jobs) % 2 == 0, number=1 + len(self.node.acknowledged) % 4)):
            self.node.clean()
        self.node.clean()
        spool = self.node.settings.spool_dir
        there = {(one.uid, one.sha256) for one in self.node.acknowledged if (spool / one.record.segment).exists()}
        gone = {one.series for one in self.node.acknowledged if (one.uid, one.sha256) not in there}
        assert not gone & needed, "images went that may be read again"
        left = "SELECT 1 FROM instance JOIN spool_segment ON name = segment WHERE released_at IS NOT NULL"
        assert not self.node.rows(left), "rows of images that are gone"
        for uid, path in self.node.rows("SELECT sop_instance_uid, path FROM result JOIN job ON job.id = job_id"
                                        " WHERE job.state IN ('SENT', 'COMMITTED')"):  # fmt: skip
            assert (self.node.settings.results_dir / path).exists() or uid in self.node.archive.committed


def expected(acknowledged: list[Acknowledged]) -> dict[str, set[tuple[str, str]]]:
    """By series: of each SOP Instance UID what came first, if it came for this series."""
    first: dict[str, Acknowledged] = {}
    for one in acknowledged:
        first.setdefault(one.uid, one)
    found: dict[str, set[tuple[str, str]]] = {}
    for one in first.values():
        found.setdefault(one.series, set()).add((one.uid, one.sha256))
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("examples", [16, pytest.param(80, marks=pytest.mark.proof)])
def test_nothing_is_lost_doubled_or_forgotten(examples: int) -> None:
    run_state_machine_as_test(NodeMachine, settings=SEARCH if LONG else settings(FIXED, max_examples=examples))


@pytest.mark.parametrize("lost", [False, True])
def test_an_image_belongs_to_the_series_for_which_it_came_first(lost: bool) -> None:
    """The machine found this one: segments are indexed in another order than images come."""
    machine = NodeMachine()
    node = machine.node
    node.receive(0, image(2, 5))
    for number in (1, 2, 3):
        node.receive(1, image(1, number))
    if lost:
        node.index()
    node.receive(0, image(2, 1, fill=1, of=1))
    node.receive(0, image(2, 4))
    if lost:
        machine.come_to_rest()
        node.lose_database()
    machine.teardown()


class MarksFirst(Indexer):
    """The mark moves in a transaction of its own, before the rows."""

    def _step(self) -> tuple[Indexed, bool]:
        entries: list[Any] = []

        def later(_: Any, batch: list[Any]) -> Written:
            entries.extend(batch)
            return Written()

        with patch("node.indexer.write_entries", later):
            step = super()._step()
        with self._records.session() as session:
            write_entries(session, entries)
        return step


class DrawnNames(ContentPipeline):
    """Result UIDs from a hat."""

    def name_of(self, *_: object) -> str:
        return str(generate_uid())


def _no_new_generation(self: Any, entry: Any, _: bool) -> Any:
    """Late images go into the generation that there is."""
    return self._newest.get(entry.names.series_instance_uid) or self._open(entry, 1)


def _all_is_kept(_: WholeNode, transaction_uid: str, uids: dict[str, str], take: Any) -> None:
    """A report of success for objects that the archive never committed to."""
    told = Dataset()
    told.TransactionUID = transaction_uid
    told.ReferencedSOPSequence = [reference(sop_class, uid) for uid, sop_class in uids.items()]
    if status := take(1, encode(told), EXPLICIT):
        raise RuntimeError(f"the node does not take the report: 0x{status:04X}")


def _series(machine: NodeMachine) -> None:
    """A series whose association has ended."""
    machine.receive_a_series(1, 3, 0)
    machine.release(1, 1, 0, False)


def _marks_kept_rows_lost(machine: NodeMachine) -> None:
    _series(machine)
    machine.index(Point("commit", True, 1))


def _read_twice(machine: NodeMachine) -> None:
    _series(machine)
    machine.quick_way(None)
    machine.quick_way(None)
    machine.lose("database")


def _late_image(machine: NodeMachine) -> None:
    _series(machine)
    machine.quick_way(None)
    machine.quick_way(None)
    machine.late(1, 5, 0)


def _killed_at_work(machine: NodeMachine) -> None:
    _series(machine)
    machine.index(None)
    machine.reconcile(20, None)
    machine.reconcile(20, None)
    machine.work(Point("commit", True, 1))


DEFECTS: dict[str, tuple[str, object, Callable[[NodeMachine], None]]] = {
    "marks before rows": ("whole_node.Indexer", MarksFirst, _marks_kept_rows_lost),
    "drawn names": ("whole_node.WholeNode.pipeline", DrawnNames, _read_twice),
    "late images ignored": ("node.index_rows._Generations.for_instance", _no_new_generation, _late_image),
    "dead workers forgotten": ("node.leases.requeue_expired", lambda *_: 0, _killed_at_work),
    "acknowledged too early": ("node.segment_writer.SegmentWriter._write", lambda *_: None, _series),
    "commitment taken for granted": ("whole_node.WholeNode.ask_archive", _all_is_kept, _read_twice),
}
"""A well-known mistake: where, what, and the order of events that brings it out."""


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_seen(name: str) -> None:
    """The machine bites: in this order a sound node passes, one with the mistake in it does not."""
    where, wrong, happens = DEFECTS[name]
    _play(happens)
    with patch(where, wrong):
        try:
            machine = _play(happens)
        except AssertionError:
            return
    pytest.fail(f"{name} is not seen; in the end: {machine.left}")


def _play(happens: Callable[[NodeMachine], None]) -> NodeMachine:
    machine = NodeMachine()
    try:
        happens(machine)
        machine.what_always_holds()
    except AssertionError:
        machine.node.close()
        shutil.rmtree(machine.folder, ignore_errors=True)
        raise
    machine.teardown()
    return machine


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.proof
@pytest.mark.skipif(not LONG, reason="a search: HYPOTHESIS_PROFILE=long")
@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found(name: str) -> None:
    """Hypothesis comes upon each of them by itself."""
    where, wrong, _ = DEFECTS[name]
    bound = settings(SEARCH, max_examples=1000, phases=[Phase.generate])
    with patch(where, wrong), pytest.raises(AssertionError):
        run_state_machine_as_test(NodeMachine, settings=bound)
