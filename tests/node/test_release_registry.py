"""Which release reads what: promotions, rollbacks and configurations, studies that were begun, jobs that run again."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from postgres import running_postgres
from rows import add_job, add_results, job, open_records, settings_for
from sqlalchemy import select, update

from config import Reason, Settings
from node import leases
from node.database import Records, open_database
from node.errors import CommandError
from node.job_control import _read_by
from node.migrations import upgrade
from node.predecessors import delivered_before
from node.records import Delivery, Job, Series, now
from node.release import BUNDLED, Facts, facts_of, release_digest
from node.releases import binding, registry
from node.releases.binding import Switched
from node.releases.loaded import LoadedReleases
from node.releases.registry import Deed, ReleaseRefusedError
from node.releases.rows import ReleaseEvent
from node.releases.standing import standing
from node.retry import retry
from node.routing import route
from node.states import State

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
ME = Deed("tester", "a test")


def facts(digest: str, path: str = "") -> Facts:
    return Facts(digest, path or f"/releases/{digest[0]}", f"Release {digest[0]}", False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data", ("pacs", 104))


@pytest.fixture
def records(settings: Settings) -> Records:
    made = open_records(settings)
    promote(made, A)
    return made


def promote(records: Records, digest: str) -> Switched:
    with records.session() as session:
        return registry.promote(session, facts(digest), ME)


def roll_back(records: Records, digest: str) -> Switched:
    with records.session() as session:
        return registry.roll_back(session, digest, ME)


def states(records: Records) -> dict[str, str]:
    """First letter of the digest -> state."""
    with records.reading() as session:
        rows = standing(session, Settings()).releases
    return {row.digest[0]: row.state for row in rows}


def add(records: Records, uid: str, study: str, digest: str = A, state: State = State.QUEUED) -> int:
    job_id = add_job(records, uid, state, digest)
    with records.session() as session:
        session.get_one(Job, job_id).series.study_instance_uid = study
    return job_id


def begin(records: Records, job_id: int) -> None:
    with records.session() as session:
        assert leases.take(session, job_id, "w/1", 60.0)


def come(records: Records, uid: str, study: str) -> str:
    """Another series is routed; the first letter of the release that reads it."""
    with records.session() as session:
        moment = now()
        session.add(
            Series(
                series_instance_uid=uid, study_instance_uid=study, modality="CT", source_ae="X", state=State.VETTED,
                first_at=moment, last_at=moment,
            )
        )  # fmt: skip
    (job_id,) = route(records, "0" * 64)
    return job(records, job_id).release_digest[0]


def test_a_promotion_takes_what_nobody_has_begun_and_leaves_a_begun_study_whole(records: Records) -> None:
    begun, sibling = add(records, "2.25.1", "2.25.100"), add(records, "2.25.2", "2.25.100")
    untouched = add(records, "2.25.3", "2.25.200")
    begin(records, begun)
    assert promote(records, B) == Switched(moved=1, stay=2)
    assert [job(records, each).release_digest for each in (begun, sibling, untouched)] == [A, A, B]
    assert come(records, "2.25.4", "2.25.100") == "a", "a later series of the study"
    assert come(records, "2.25.5", "2.25.200") == "b"
    assert come(records, "2.25.6", "2.25.300") == "b"
    with records.session() as session:
        session.execute(update(Job).values(created_at=now() - binding.STUDY_STAYS - timedelta(minutes=1)))
    assert come(records, "2.25.7", "2.25.100") == "b", "the study is old"


def test_a_job_that_was_begun_stays_with_its_release_whatever_becomes_of_the_attempt(records: Records) -> None:
    lost, handed_back = add(records, "2.25.1", "2.25.100"), add(records, "2.25.2", "2.25.200")
    begin(records, lost)
    begin(records, handed_back)
    with records.session() as session:
        assert leases.expire_of(session, "w") == 2
        assert leases.requeue_expired(session, 3) == 2
        session.get_one(Job, handed_back).attempts = 0
    assert promote(records, B).moved == 0
    assert {job(records, each).release_digest for each in (lost, handed_back)} == {A}


def test_rollback_goes_back_one_step_at_a_time_and_is_written_down(records: Records) -> None:
    promote(records, B)
    promote(records, C)
    waiting = add(records, "2.25.1", "2.25.100", C)
    assert roll_back(records, B) == Switched(moved=1, stay=0)
    assert job(records, waiting).release_digest == B
    assert states(records) == {"a": "retired", "b": "current", "c": "retired"}
    with pytest.raises(ReleaseRefusedError, match="meanwhile"):
        roll_back(records, C)
    roll_back(records, A)
    with records.session() as session, pytest.raises(ReleaseRefusedError) as refused:
        registry.former(session)
    assert refused.value.reason == Reason.RELEASE_UNKNOWN
    with records.reading() as session:
        events = [(event.digest[0], event.action, event.done_by) for event in session.scalars(select(ReleaseEvent))]
    assert events == [
        *((letter, "promoted", "tester") for letter in "abc"),
        *((letter, "rolled back", "tester") for letter in "ba"),
    ]


def test_the_configuration_rules_until_somebody_promotes(tmp_path: Path) -> None:
    records = open_records(settings_for(tmp_path))
    for digest in (A, B):
        with records.session() as session:
            assert not registry.follows(registry.current(session), digest)
            registry.follow_configuration(session, facts(digest))
    assert states(records) == {"a": "retired", "b": "current"}
    with records.reading() as session:
        assert registry.path_in_force(session, "as configured") == "as configured"
    promote(records, C)
    with records.reading() as session:
        assert registry.follows(registry.current(session), A)
        assert registry.path_in_force(session, "as configured") == "/releases/c"
        told = standing(session, Settings()).lines()
    assert "The configuration names another release" in told[-1]


def test_one_release_is_in_shadow_and_never_the_one_in_force(records: Records) -> None:
    with records.session() as session:
        registry.shadow(session, facts(B), ME)
        registry.shadow(session, facts(C), ME)
        with pytest.raises(ReleaseRefusedError) as refused:
            registry.shadow(session, facts(A), ME)
    assert refused.value.reason == Reason.RELEASE_UNFIT
    assert states(records) == {"a": "current", "b": "candidate", "c": "shadow"}
    promote(records, C)
    assert states(records) == {"c": "current", "b": "candidate", "a": "retired"}


def test_a_series_read_again_after_a_promotion_is_a_new_job_whose_report_names_the_former(
    records: Records, settings: Settings
) -> None:
    former, sibling = (add(records, f"2.25.{n}", "2.25.100", state=State.SENT) for n in (1, 2))
    add_results(records, settings, former)
    promote(records, B)
    with records.session() as session:
        session.execute(update(Delivery).values(sent_at=now()))
        new = _read_by(session, session.get_one(Job, former), B, None)
        assert delivered_before(session, session.get_one(Job, new)) is not None
        assert binding.others_of_study(session, new) == [sibling]
    assert (job(records, former).state, job(records, new).state) == (State.SUPERSEDED, State.QUEUED)
    assert job(records, new).release_digest == B
    with records.session() as session, pytest.raises(CommandError, match=f"Job {former} has read"):
        _read_by(session, session.get_one(Job, new), A, None)


def test_a_failed_job_without_results_goes_to_the_release_in_force_one_with_results_keeps_its_own(
    records: Records, settings: Settings
) -> None:
    empty, written = (add(records, f"2.25.{n}", f"2.25.{n}00", state=State.FAILED) for n in (1, 2))
    add_results(records, settings, written)
    promote(records, B)
    for each in (empty, written):
        retry(records, str(each))
    assert [job(records, each).release_digest for each in (empty, written)] == [B, A]


class _Pipeline:
    def __init__(self, release_digest: str) -> None:
        self.release_digest = release_digest


def _folder(tmp_path: Path, name: str) -> tuple[str, str]:
    """A folder with a seal: its path and digest."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "SHA256SUMS").write_text(name)
    return str(tmp_path / name), release_digest(str(tmp_path / name))


def test_a_worker_holds_two_releases_and_drops_the_one_that_has_nothing_to_read(
    records: Records, tmp_path: Path
) -> None:
    folders = dict(_folder(tmp_path, name) for name in ("one", "two", "three"))
    (first, one), (_, two), (third, three) = folders.items()
    with records.session() as session:
        for path, digest in folders.items():
            registry.promote(session, facts(digest, path), ME)
    loads: list[tuple[str, bool]] = []

    def load(path: str, frugal: bool) -> _Pipeline:
        loads.append((Path(path).name, frugal))
        return _Pipeline(release_digest(path))

    held = LoadedReleases(records, "none", _Pipeline(one), first, load)  # type: ignore[arg-type]
    assert held.of(two, frugal=False).release_digest == two  # type: ignore[union-attr]
    waiting = add(records, "2.25.1", "2.25.100", one)
    assert held.digests == [one, two]
    held.drop_idle()
    assert held.digests == [one, two], "one still has something to read"
    assert held.in_force(frugal=False).release_digest == three
    assert held.digests == [two, three], "never three"
    with records.session() as session:
        session.get_one(Job, waiting).move(State.FAILED)
    held.drop_idle()
    assert held.digests == [three]
    assert held.of(C, frugal=False) is None, "nobody knows it"
    (Path(third) / "SHA256SUMS").write_text("sealed anew")
    assert held.of(three, frugal=True) is None, "another one lies there now"
    assert held.of(two, frugal=True).release_digest == two  # type: ignore[union-attr]
    assert held.of(one, frugal=True).release_digest == one  # type: ignore[union-attr]
    assert held.digests == [one], "one at a time in the smaller configuration"
    assert loads == [("two", False), ("three", False), ("two", True), ("one", True)]


def test_a_job_whose_release_is_gone_goes_to_the_one_in_force_unless_its_study_has_results(
    records: Records, settings: Settings
) -> None:
    from fake_pipeline import FakePipeline
    from rows import DIGEST

    from node.jobs import Analyst

    alone, sibling = add(records, "2.25.1", "2.25.100"), add(records, "2.25.2", "2.25.200")
    add_results(records, settings, add(records, "2.25.3", "2.25.200", state=State.SENT))
    analyst = Analyst(records, settings, FakePipeline(settings), "w")  # type: ignore[arg-type]
    for each in (alone, sibling):
        analyst.analyze(each)
    assert (job(records, alone).state, job(records, alone).release_digest) == (State.ENCODED, DIGEST)
    ended = job(records, sibling)
    assert (ended.state, ended.reason, ended.release_digest) == (State.FAILED, Reason.RELEASE_GONE, A)


def test_the_facts_of_a_folder() -> None:
    bundled = facts_of("bundled", C)
    assert (bundled.path, bundled.test_only) == ("bundled", True)
    assert bundled.name.startswith("fVLM phantom")
    assert facts_of(str(BUNDLED / "none"), C) == Facts(C, str(BUNDLED / "none"), "unreadable", True)


@pytest.mark.peers
def test_a_promotion_waits_for_who_takes_a_job_and_then_leaves_its_study_alone() -> None:
    """On PostgreSQL, where both may run at once."""
    with running_postgres() as url:
        engine = open_database(url)
        upgrade(engine)
        records = Records(engine)
        promote(records, A)
        first, second = add(records, "2.25.1", "2.25.100"), add(records, "2.25.2", "2.25.100")
        switched: list[Switched] = []
        promotion = threading.Thread(target=lambda: switched.append(promote(records, B)))
        with records.session() as session:
            assert registry.hold(session) == A
            promotion.start()
            promotion.join(0.5)
            assert promotion.is_alive(), "it did not wait"
            assert leases.take(session, first, "w/1", 60.0)
        promotion.join(60)
        assert switched == [Switched(moved=0, stay=2)]
        assert [job(records, each).release_digest for each in (first, second)] == [A, A]
        with records.session() as session:
            assert registry.hold(session) == B
        engine.dispose()
