"""From the last image to a job: quiet time, vetting, routing, and generations that take each other's place."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import ComprehensiveSRStorage
from spool_data import ROOT, Bench, ct_slice, store
from sqlalchemy import select

from config import Reason
from ct.load import load_volume
from ct.series import group, read_header
from ct.vetting import vet
from node import completion
from node.completion import Verdict, complete_due, images_at, index_lag_s, series_slices
from node.records import Instance, Job, Series, now
from node.routing import job_for, route
from node.spool import segments
from node.states import State

DIGEST = "d" * 64


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


def _later(bench: Bench, seconds: float = 1.0) -> list[Verdict]:
    return complete_due(bench.records, bench.settings, now() + timedelta(seconds=seconds))


def _states(bench: Bench) -> list[tuple[int, str, str | None]]:
    """Generation, state and reason of each series, oldest first."""
    with bench.records.reading() as session:
        return [(s.generation, s.state, s.reason) for s in session.scalars(select(Series).order_by(Series.id))]


def _jobs(bench: Bench) -> list[tuple[int, str, str]]:
    """Generation, state and digest of each job, oldest first."""
    with bench.records.reading() as session:
        return [(j.series.generation, j.state, j.release_digest) for j in session.scalars(select(Job).order_by(Job.id))]


def _stack(first: int, last: int, series: int = 1) -> list:  # type: ignore[type-arg]
    return [ct_slice(series=series, number=n) for n in range(first, last + 1)]


def test_a_series_is_closed_after_the_quiet_time_vetted_and_routed_once(bench: Bench) -> None:
    bench.receive(*_stack(1, 24))
    assert complete_due(bench.records, bench.settings, now()) == []
    assert _states(bench) == [(1, State.RECEIVING, None)]
    (verdict,) = _later(bench)
    assert (verdict.state, verdict.reason) == (State.VETTED, None)
    assert _later(bench) == []
    (job_id,) = route(bench.records, DIGEST)
    assert route(bench.records, DIGEST) == []
    assert route(bench.records, "another release") == []
    assert _jobs(bench) == [(1, State.QUEUED, DIGEST)]
    with bench.records.session() as session:
        series = session.scalars(select(Series)).one()
        assert job_for(session, series, DIGEST).id == job_id
        assert job_for(session, series, "another release").id != job_id  # asked for by name


def test_an_instance_that_comes_in_time_puts_the_closing_off(bench: Bench) -> None:
    bench.receive(*_stack(1, 23))
    moment = now() + timedelta(seconds=0.49)
    bench.receive(ct_slice(number=24))
    assert complete_due(bench.records, bench.settings, moment) == []
    assert len(_later(bench)) == 1
    assert len(_states(bench)) == 1


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        (_stack(1, 19), Reason.TOO_FEW_SLICES),
        (_stack(1, 10) + _stack(12, 24), Reason.GEOM_GAP),
        ([ct_slice(number=1, side=16), *_stack(2, 24)], Reason.MIXED_SIZE),
    ],
)
def test_what_is_not_fit_is_rejected_with_its_reason(bench: Bench, datasets: list, reason: Reason) -> None:  # type: ignore[type-arg]
    bench.receive(*datasets)
    (verdict,) = _later(bench)
    assert (verdict.state, verdict.reason) == (State.REJECTED, reason)
    assert verdict.detail
    assert route(bench.records, DIGEST) == []
    assert _states(bench) == [(1, State.REJECTED, reason)]


@pytest.mark.parametrize(
    ("keyword", "reason"), [("PatientID", Reason.MIXED_PATIENT), ("StudyInstanceUID", Reason.MIXED_STUDY)]
)
def test_images_of_another_patient_or_study_never_join_a_series(bench: Bench, keyword: str, reason: Reason) -> None:
    bench.receive(*_stack(1, 24))
    _later(bench)
    route(bench.records, DIGEST)
    strangers = _stack(25, 48)
    for dataset in strangers:
        setattr(dataset, keyword, f"{ROOT}.77")
    bench.receive(*strangers)
    (verdict,) = _later(bench)
    assert (verdict.state, verdict.reason) == (State.REJECTED, reason)
    assert "24, 24 images" in verdict.detail
    assert route(bench.records, DIGEST) == []
    assert _jobs(bench) == [(1, State.QUEUED, DIGEST)]


def test_what_is_not_ct_is_rejected_visibly(bench: Bench) -> None:
    report = ct_slice()
    report.SOPClassUID, report.Modality = ComprehensiveSRStorage, "SR"
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    bench.receive(report)
    (verdict,) = _later(bench)
    assert (verdict.reason, verdict.detail) == (
        Reason.NOT_CT,
        "1 of 1 instances are not CT images: 1 Comprehensive SR Storage",
    )


def test_ct_images_without_a_modality_are_read(bench: Bench) -> None:
    datasets = _stack(1, 24)
    for dataset in datasets:
        del dataset.Modality
    bench.receive(*datasets)
    (verdict,) = _later(bench)
    assert verdict.state == State.VETTED


def test_a_series_of_stolen_uids_is_rejected_as_conflict(bench: Bench) -> None:
    bench.receive(*_stack(1, 24, series=1))
    stolen = _stack(1, 24, series=2)
    for dataset, owner in zip(stolen, _stack(1, 24, series=1), strict=True):
        dataset.SOPInstanceUID = owner.SOPInstanceUID
    bench.receive(*stolen)
    verdicts = _later(bench)
    assert [(v.state, v.reason) for v in verdicts] == [
        (State.VETTED, None),
        (State.REJECTED, Reason.DUPLICATE_CONFLICT),
    ]


def test_an_error_in_vetting_ends_one_series_and_not_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.receive(*_stack(1, 24, series=1))
    bench.receive(*_stack(1, 24, series=2))
    real = completion.vet

    def fails_for_the_first(series, *limits):  # type: ignore[no-untyped-def]
        if series.series_instance_uid == f"{ROOT}.1":
            raise ZeroDivisionError
        return real(series, *limits)

    monkeypatch.setattr(completion, "vet", fails_for_the_first)
    assert [(v.state, v.reason) for v in _later(bench)] == [
        (State.REJECTED, Reason.INTERNAL),
        (State.VETTED, None),
    ]


def test_a_crash_between_closing_and_vetting_is_made_good(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.receive(*_stack(1, 24))
    with monkeypatch.context() as crash:
        crash.setattr(completion, "read_header", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _later(bench)
    assert _states(bench) == [(1, State.COMPLETE, None)]
    assert [v.state for v in _later(bench)] == [State.VETTED]


def test_slices_can_be_read_in_place_without_conflicts(bench: Bench) -> None:
    sent = _stack(1, 24)
    bench.receive(*sent[:12], ct_slice(number=3, fill=5))
    bench.receive(*sent[12:])
    with bench.records.reading() as session:
        series = session.scalars(select(Series)).one()
        slices = series_slices(session, series, bench.settings.spool_dir)
    assert [one.sop_instance_uid for one in slices] == [dataset.SOPInstanceUID for dataset in sent]
    (read,) = group([read_header(one) for one in slices])
    volume = load_volume(vet(read))
    assert volume.hu.shape == (24, 32, 32)
    assert volume.hu[2].tobytes() == sent[2].PixelData


def test_a_late_slice_makes_a_generation_of_all_slices_that_takes_the_place_of_the_old_one(bench: Bench) -> None:
    bench.receive(*_stack(1, 24))
    _later(bench)
    route(bench.records, DIGEST)
    bench.receive(ct_slice(number=25))
    assert _states(bench) == [(1, State.VETTED, None), (2, State.RECEIVING, None)]
    assert _jobs(bench) == [(1, State.QUEUED, DIGEST)]  # until the new one is queued
    _later(bench)
    with bench.records.reading() as session:
        first, second = session.scalars(select(Series).order_by(Series.generation))
        assert len(series_slices(session, first, bench.settings.spool_dir)) == 24
        assert len(series_slices(session, second, bench.settings.spool_dir)) == 25
    route(bench.records, DIGEST)
    assert _states(bench) == [(1, State.SUPERSEDED, None), (2, State.VETTED, None)]
    assert _jobs(bench) == [(1, State.SUPERSEDED, DIGEST), (2, State.QUEUED, DIGEST)]


def test_a_late_slice_that_spoils_the_series_leaves_the_old_result(bench: Bench) -> None:
    bench.receive(*_stack(1, 24))
    _later(bench)
    route(bench.records, DIGEST)
    bench.receive(ct_slice(number=40))
    _later(bench)
    assert route(bench.records, DIGEST) == []
    assert _states(bench) == [(1, State.VETTED, None), (2, State.REJECTED, Reason.GEOM_GAP)]
    assert _jobs(bench) == [(1, State.QUEUED, DIGEST)]


def test_a_late_slice_mends_a_rejected_series(bench: Bench) -> None:
    bench.receive(*_stack(1, 10), *_stack(12, 24))
    _later(bench)
    bench.receive(ct_slice(number=11))
    _later(bench)
    route(bench.records, DIGEST)
    assert _states(bench) == [(1, State.SUPERSEDED, None), (2, State.VETTED, None)]
    assert _jobs(bench) == [(2, State.QUEUED, DIGEST)]


def test_an_old_generation_that_is_routed_after_the_new_one_is_superseded_unread(bench: Bench) -> None:
    bench.receive(*_stack(1, 24))
    _later(bench)
    bench.receive(ct_slice(number=25))
    _later(bench)
    with bench.records.session() as session:
        newest = session.scalars(select(Series).where(Series.generation == 2)).one()
        job_for(session, newest, DIGEST)
    assert route(bench.records, DIGEST) == []
    assert _states(bench) == [(1, State.SUPERSEDED, None), (2, State.VETTED, None)]


def test_job_for_wants_a_vetted_series(bench: Bench) -> None:
    bench.receive(ct_slice())
    with bench.records.session() as session, pytest.raises(ValueError, match="not VETTED"):
        job_for(session, session.scalars(select(Series)).one(), DIGEST)


def test_nothing_is_closed_while_the_index_lags_behind_the_spool(bench: Bench) -> None:
    bench.receive(*_stack(1, 12))
    with bench.intake.open("STORESCU", "FVLM") as session:
        for dataset in _stack(13, 24):
            store(session, dataset)
        moment = now() + timedelta(seconds=60)
        with bench.records.reading() as reading:
            assert index_lag_s(reading, bench.settings.spool_dir, moment) > 59
        assert complete_due(bench.records, bench.settings, moment) == []
    bench.indexer.catch_up()
    with bench.records.reading() as reading:
        assert index_lag_s(reading, bench.settings.spool_dir, moment) == 0
    assert [v.state for v in _later(bench)] == [State.VETTED]
    assert len(_states(bench)) == 1


def test_what_came_first_is_used_in_whatever_order_it_was_indexed(bench: Bench) -> None:
    """Two senders at once: the node indexes what each has sent so far, a lost index is rebuilt segment by segment."""
    sent = _stack(1, 24)
    with bench.intake.open("ONE", "FVLM") as one, bench.intake.open("TWO", "FVLM") as two:
        store(one, sent[0])
        store(two, sent[1])
        store(two, ct_slice(number=3, fill=7))
        last = store(two, sent[23]).record.received_at
        bench.indexer.catch_up()
        for dataset in (*sent[2:23], sent[1], sent[23]):
            store(one, dataset)

    def used() -> tuple[list[tuple[str, str, int]], datetime]:
        bench.indexer.catch_up()
        with bench.records.reading() as session:
            series = session.scalars(select(Series)).one()
            slices = series_slices(session, series, bench.settings.spool_dir)
            came = images_at(session, series)
        return [(each.sop_instance_uid, each.path.name, each.offset) for each in slices], came

    before = used()
    (third,) = (place for place in before[0] if place[0] == f"{ROOT}.1.3")
    assert third[1] == segments(bench.settings.spool_dir)[1].name
    assert len(before[0]) == 24
    assert before[1] > last  # slice 23 came after slice 24
    bench.lose_database()
    slices, came = used()
    assert came == before[1]
    assert {uid for uid, _, _ in slices} == {uid for uid, _, _ in before[0]}
    assert next(place for place in slices if place[0] == third[0]) == third


def test_after_the_database_was_lost_the_same_series_are_read_from_the_same_bytes(bench: Bench) -> None:
    bench.receive(*_stack(1, 12), ct_slice(number=3, fill=9))
    bench.receive(*_stack(13, 24))

    def slices() -> list[tuple[str, str, int]]:
        with bench.records.reading() as session:
            series = session.scalars(select(Series)).one()
            found = series_slices(session, series, bench.settings.spool_dir)
            return [(one.sop_instance_uid, one.path.name, one.offset) for one in found]

    before = slices()
    bench.lose_database()
    bench.indexer.catch_up()
    assert slices() == before
    assert [v.state for v in _later(bench)] == [State.VETTED]
    with bench.records.reading() as session:
        assert len(session.scalars(select(Instance)).all()) == 25
