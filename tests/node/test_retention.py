"""After images were deleted from the spool: what comes later is never read as if it were the whole series."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from spool_data import ROOT, Bench, ct_slice
from sqlalchemy import select

from config import Reason
from node.completion import Verdict, complete_due, series_slices
from node.records import Instance, Job, Series, now
from node.retention import release_segments
from node.routing import route
from node.spool import segments
from node.states import State

DIGEST = "d" * 64


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


def _stack(first: int, last: int, series: int = 1) -> list[Dataset]:
    return [ct_slice(series=series, number=n, side=8) for n in range(first, last + 1)]


def _vet(bench: Bench) -> Verdict:
    """Close the series, vet it, and read and send it if it is fit."""
    (verdict,) = complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    for job_id in route(bench.records, DIGEST):
        with bench.records.session() as session:
            row = session.get_one(Job, job_id)
            for state in (State.RUNNING, State.ENCODED, State.SENT):
                row.move(state)
    return verdict


def _clean(bench: Bench) -> int:
    return len(release_segments(bench.records, bench.settings.spool_dir, now() + timedelta(hours=1)))


def _states(bench: Bench) -> list[tuple[int, str, str | None]]:
    with bench.records.reading() as session:
        rows = session.scalars(select(Series).order_by(Series.id))
        return [(row.generation, row.jobs[-1].state if row.jobs else row.state, row.reason) for row in rows]


def test_a_late_batch_is_refused_until_the_deleted_images_are_there_again(bench: Bench) -> None:
    bench.receive(*_stack(1, 24))
    assert _vet(bench).state == State.VETTED
    assert _clean(bench) == 1
    bench.receive(*_stack(25, 60))  # a good volume by itself, and more slices than were deleted
    verdict = _vet(bench)
    assert (verdict.state, verdict.reason) == (State.REJECTED, Reason.IMAGES_DELETED)
    assert verdict.detail == "deleted earlier (fvlm-node clean): 24 images; there now: 36"
    assert _states(bench) == [(1, State.SENT, None), (2, State.REJECTED, Reason.IMAGES_DELETED)]
    bench.receive(*_stack(1, 23))
    assert _vet(bench).detail.startswith("deleted earlier (fvlm-node clean): 1 images;")
    bench.receive(*_stack(24, 24))
    assert _vet(bench).state == State.VETTED
    assert [(generation, state) for generation, state, _ in _states(bench)] == [
        (1, State.SUPERSEDED),
        (2, State.SUPERSEDED),
        (3, State.SUPERSEDED),
        (4, State.SENT),
    ]
    with bench.records.reading() as session:
        newest = session.scalars(select(Series).where(Series.generation == 4)).one()
        assert len(series_slices(session, newest, bench.settings.spool_dir)) == 60


def test_the_whole_series_sent_again_is_read_again(bench: Bench) -> None:
    bench.receive(*_stack(1, 24))
    _vet(bench)
    _clean(bench)
    bench.receive(*_stack(1, 30))
    assert _vet(bench).state == State.VETTED


def test_a_series_of_which_one_segment_is_left_is_not_whole(bench: Bench) -> None:
    bench.receive(*_stack(1, 24))
    bench.receive(*_stack(25, 48), *_stack(1, 2, series=2))
    verdicts = complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    assert [verdict.reason for verdict in verdicts] == [None, Reason.TOO_FEW_SLICES]
    with bench.records.session() as session:
        whole = session.scalars(select(Series).where(Series.series_instance_uid == f"{ROOT}.1")).one()
        session.add(Job(series=whole, release_digest=DIGEST, state=State.SENT))
        session.scalars(select(Series).where(Series.series_instance_uid == f"{ROOT}.2")).one().state = State.RECEIVING
    assert _clean(bench) == 1
    assert len(segments(bench.settings.spool_dir)) == 1
    bench.receive(*_stack(49, 50))
    verdicts = complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
    assert [verdict.reason for verdict in verdicts] == [Reason.TOO_FEW_SLICES, Reason.IMAGES_DELETED]


def test_a_rejected_part_that_was_deleted_is_not_completed_by_the_rest(bench: Bench) -> None:
    bench.receive(*_stack(1, 10))
    assert _vet(bench).reason == Reason.TOO_FEW_SLICES
    _clean(bench)
    bench.receive(*_stack(11, 40))
    assert _vet(bench).reason == Reason.IMAGES_DELETED
    _clean(bench)
    bench.receive(*_stack(1, 40))
    assert _vet(bench).state == State.VETTED
    with bench.records.reading() as session:
        assert len(session.scalars(select(Instance)).all()) == 40
