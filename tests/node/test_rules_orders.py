"""What a rule orders for a job, the second look after the segmentation, and series that a person has read anyway."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_pipeline import FakePipeline
from rows import DIGEST
from ruled_bench import Ruled, stack
from sqlalchemy import select

from config import Output, Reason
from node.errors import CommandError
from node.job_control import rerun
from node.jobs import Analyst
from node.orders import Orders
from node.records import Job, Result, Series
from node.release import Facts, release_digest
from node.releases import registry, shadow_queue
from node.releases.registry import Deed
from node.releases.rows import ShadowReading
from node.retry import retry
from node.rules.book import take_configured
from node.rules.past import judge_past, past
from node.series_control import read_anyway
from node.states import State

ORDERS = """\
version: orders
rules:
  - name: no head
    when: body_part == "HEAD"
    skip: heads are read elsewhere
  - name: chest
    when: body_part == "CHEST"
    read: {preset: ct-rate, profile: legacy, shadow: no, destinations: [vna]}
  - name: the rest
    read:
after_segmentation:
  - name: no organ
    when: anatomies not in ["liver", "lung"]
    skip: neither lung nor liver is on it
  - name: a liver on a thin one
    when: anatomies == "liver" and spacing <= 2 mm
    read: {preset: medvl-54, destinations: [pacs]}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Ruled:
    made = Ruled(tmp_path / "node", ORDERS, pacs=104, vna=105)
    take_configured(made.settings)
    return made


def come(bench: Ruled, number: int = 1, **values: Any) -> int:
    """A series comes and gets a job; its id."""
    bench.receive(*stack(number, **values))
    bench.close()
    (job_id,) = bench.route()
    return job_id


def work(bench: Ruled, *anatomies: str) -> FakePipeline:
    """One job is worked on, in whose images these anatomies are."""
    pipeline = FakePipeline(bench.settings)
    pipeline.anatomies = anatomies
    Analyst(bench.records, bench.settings, pipeline, "w").analyze()  # type: ignore[arg-type]
    return pipeline


def test_a_rule_orders_preset_profile_and_shadow_and_the_job_keeps_them(bench: Ruled) -> None:
    job_id = come(bench, BodyPartExamined="CHEST")
    ordered = Orders(("vna",), "ct-rate", "legacy", shadow=False)
    assert Orders.of(bench.jobs()[0]) == ordered
    bench.rewrite(ORDERS.replace("ct-rate, profile: legacy, shadow: no", "phantom"))
    (wanted,) = work(bench, "lung").wanted
    assert wanted.preset == "ct-rate"
    assert wanted.plan.outputs == {Output.SEG, Output.SR, Output.SC, Output.PDF}
    job = bench.jobs()[0]
    assert (Orders.of(job), job.state, job.anatomies) == (ordered, State.SENT, ["lung"])
    with bench.records.reading() as session:
        kinds = session.scalars(select(Result.kind).where(Result.job_id == job_id, Result.deliveries.any()))
        assert not set(kinds), "the profile `legacy` has neither of the two objects that were made"


def test_a_series_that_a_rule_keeps_out_of_it_is_not_read_in_shadow(bench: Ruled) -> None:
    with bench.records.session() as session:
        registry.promote(session, Facts(DIGEST, "/a", "a", True), Deed("t", ""))
        registry.shadow(session, Facts("b" * 64, "/b", "b", True), Deed("t", ""))
    kept_out = come(bench, 1, BodyPartExamined="CHEST")
    read = come(bench, 2, study=2)
    work(bench, "lung")
    work(bench, "lung")
    with bench.records.session() as session:
        shadow_queue.enlist(session)
        assert list(session.scalars(select(ShadowReading.job_id))) == [read] != [kept_out]


def test_rules_after_the_segmentation_change_what_was_ordered_once(bench: Ruled) -> None:
    come(bench)
    work(bench, "lung", "liver")
    job = bench.jobs()[0]
    assert Orders.of(job) == Orders(("pacs",), "medvl-54")
    assert (job.later_rule, job.anatomies, job.state) == ("a liver on a thin one", ["lung", "liver"], State.ENCODED)
    with bench.records.session() as session:
        session.get_one(Job, job.id).move(State.SENT)
    bench.rewrite(ORDERS.replace("preset: medvl-54", "preset: phantom"))
    rerun(bench.records, bench.settings, str(job.id))
    (wanted,) = work(bench, "lung").wanted
    assert wanted.preset == "medvl-54", "what was decided once holds, whatever is segmented and ruled later"


def test_a_rule_that_skips_after_the_segmentation_ends_the_job_until_a_person_wants_it(
    bench: Ruled, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = come(bench)
    work(bench, "kidney")
    job = bench.jobs()[0]
    assert (job.state, job.reason, job.lease_owner) == (State.FAILED, Reason.SKIPPED_BY_RULE, "")
    assert job.detail == "rule `no organ`: neither lung nor liver is on it"
    for again in (lambda: retry(bench.records, "1"), lambda: rerun(bench.records, bench.settings, "1")):
        with pytest.raises(CommandError, match="series read"):
            again()
    uid = str(stack()[0].SeriesInstanceUID)
    assert read_anyway(bench.records, bench.settings, uid, "marie", "asked for by the ward") == job_id
    work(bench, "kidney")
    job = bench.jobs()[0]
    assert (job.state, job.forced_by, job.forced_why) == (State.ENCODED, "marie", "asked for by the ward")
    assert '"unexpected_error"' not in "".join(capsys.readouterr())


def test_a_series_that_was_skipped_is_read_anyway_and_says_who_wanted_it(bench: Ruled) -> None:
    bench.receive(*stack(BodyPartExamined="HEAD"))
    bench.close()
    assert bench.route() == []
    uid = str(stack()[0].SeriesInstanceUID)
    with pytest.raises(CommandError, match="not said why"):
        read_anyway(bench.records, bench.settings, uid, "marie", " ")
    job_id = read_anyway(bench.records, bench.settings, uid, "marie", "trauma, whole body")
    assert bench.route() == []
    work(bench, "kidney")
    job = bench.jobs()[0]
    assert (job.id, job.state, job.forced_by) == (job_id, State.ENCODED, "marie")
    assert (job.destinations, job.later_rule) == (["pacs", "vna"], ""), "the rules are asked about it no more"
    assert job.forced_at is not None
    with bench.records.reading() as session:
        row = session.get_one(Series, job.series_id)
        assert (row.state, row.rule) == (State.VETTED, "no head")
    with pytest.raises(CommandError, match="no rule keeps it"):
        read_anyway(bench.records, bench.settings, uid, "marie", "again")
    with pytest.raises(CommandError, match="no series of that UID"):
        read_anyway(bench.records, bench.settings, "1.2.3", "marie", "why")


def test_a_series_that_a_person_has_read_gives_way_to_no_better_one(tmp_path: Path) -> None:
    rules = "version: 1\nrules: [{name: best, read: , best_of_study: {wait_s: 1}}]"
    bench = Ruled(tmp_path / "node", rules, pacs=104)

    def decide(number: int, step: float) -> None:
        bench.receive(*stack(number, step=step))
        bench.close()
        bench.route()
        bench.clock.at += 2
        bench.route()

    decide(1, 2.0)
    decide(2, 3.0)
    assert bench.series()[1] == ("2/1", State.REJECTED, Reason.NOT_BEST_SERIES)
    read_anyway(bench.records, bench.settings, str(stack(2)[0].SeriesInstanceUID), "marie", "both kernels")
    decide(3, 1.0)
    assert [(job.series_id, job.state) for job in bench.jobs()] == [
        (1, State.SUPERSEDED), (2, State.QUEUED), (3, State.QUEUED)
    ]  # fmt: skip


def test_a_dry_run_takes_what_was_segmented_from_earlier_results(bench: Ruled) -> None:
    for number, organs in ((1, ("liver",)), (2, ("kidney",))):
        come(bench, number, study=number)
        work(bench, *organs)
    come(bench, 3, study=3)
    outcomes = {
        one.series_id: one.outcome for one in judge_past(bench.records, bench.settings, bench.book.rules, past("all"))
    }
    assert outcomes == {
        1: "read; once segmented, rule `a liver on a thin one`: read, to pacs, preset medvl-54",
        2: "read; once segmented, rule `no organ`: skip: neither lung nor liver is on it",
        3: "read; what follows the segmentation is not known, as it was never segmented",
    }


NAMED = "version: 1\nrules: [{{name: a, when: contrast, read: {{release: {}}}}}, {{name: b, read: }}]"
A, B = "a" * 64, "b" * 64


@pytest.fixture
def named(tmp_path: Path) -> tuple[Ruled, str, Callable[[str], None]]:
    """Rules that name a release for series with contrast, its digest, and what promotes another one."""
    release = tmp_path / "abdomen"
    release.mkdir()
    (release / "SHA256SUMS").write_text("of the abdomen\n")
    bench = Ruled(tmp_path / "node", NAMED.format(release))

    def promote(digest: str) -> None:
        with bench.records.session() as session:
            registry.promote(session, Facts(digest, f"/{digest[0]}", digest[0], True), Deed("t", "a test"))

    promote(A)
    return bench, release_digest(str(release)), promote


def test_a_rules_own_release_reads_promoted_or_not_and_every_other_series_is_read_by_the_one_in_force(
    named: tuple[Ruled, str, Callable[[str], None]],
) -> None:
    bench, own, promote = named
    come(bench, 1, ContrastBolusAgent="IOMERON")
    come(bench, 2)
    assert [job.release_digest for job in bench.jobs()] == [own, A]
    promote(B)
    assert [job.release_digest for job in bench.jobs()] == [own, B]
    promote(own)
    come(bench, 3, study=3, ContrastBolusAgent="IOMERON")
    come(bench, 4, study=4)
    assert [job.release_digest for job in bench.jobs()][2:] == [own, own]


def test_neither_retry_nor_rerun_takes_a_job_from_its_rules_own_release(
    named: tuple[Ruled, str, Callable[[str], None]],
) -> None:
    bench, own, promote = named
    failed, sent = (come(bench, n, study=n, ContrastBolusAgent="IOMERON") for n in (1, 2))
    with bench.records.session() as session:
        for job_id, state in ((failed, State.FAILED), (sent, State.SENT)):
            session.get_one(Job, job_id).state = state
    promote(B)
    assert retry(bench.records, str(failed)) == failed
    assert rerun(bench.records, bench.settings, str(sent)) == sent
    assert [(job.release_digest, job.state) for job in bench.jobs()] == [(own, State.QUEUED)] * 2


def test_after_a_rerun_with_a_promoted_release_what_comes_of_the_study_is_read_with_that_one(
    named: tuple[Ruled, str, Callable[[str], None]],
) -> None:
    bench, _, promote = named
    first = come(bench, 1)
    with bench.records.session() as session:
        job = session.get_one(Job, first)
        job.state, job.preset, job.destinations = State.SENT, "ct-rate", ["vna"]
    promote(B)
    again = rerun(bench.records, bench.settings, str(first))
    come(bench, 2)
    jobs = {job.id: job for job in bench.jobs()}
    assert (jobs[first].state, jobs[again].release_digest) == (State.SUPERSEDED, B)
    assert (jobs[again].preset, jobs[again].destinations) == ("ct-rate", ["vna"]), "the rule's choice goes along"
    assert {job.release_digest for job in jobs.values() if job.state == State.QUEUED} == {B}
