"""A release in shadow: what it reads and when, that it touches no job and sends nothing, and how it is compared."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_pipeline import FakePipeline
from rows import DIGEST, add_job, job, open_records, settings_for
from sqlalchemy import func, select
from typer.testing import CliRunner

from config import Reason, Settings
from ct.anatomy import AlgorithmIdentity
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict
from node.analysis import PipelineError
from node.cli import app
from node.database import Records
from node.jobs import Analyst
from node.reconciler import Reconciler
from node.records import Delivery, Job, ReportedFinding, Result, now
from node.release import BUNDLED, Facts
from node.releases import registry, shadow_queue
from node.releases.agreement import Said, compare
from node.releases.registry import Deed
from node.releases.rows import ShadowReading, ShadowState
from node.releases.shadow_worker import ShadowReader
from node.states import State
from node.tasks import DELIVER, SHADOW

SHADOWED = "5" * 64
ME = Deed("tester", "")


class Messages(list[tuple[str, int]]):
    """A dispatcher whose queues are a list."""

    def send(self, queue: str, row_id: int) -> None:
        self.append((queue, row_id))

    def waiting(self, queue: str) -> int:
        return sum(name == queue for name, _ in self)


class ShadowPipeline:
    """Finds no nodule, and no heart."""

    release_digest = SHADOWED

    def __init__(self, settings: Settings) -> None:
        assert settings.model.device == "cpu"
        self.settings = settings

    def vet(self, slices: Sequence[object]) -> Sequence[object]:
        return slices

    def read(self, _: Any, _preset: str = "") -> tuple[Reading, dict[str, float]]:
        who = AlgorithmIdentity("shadow", "2", SHADOWED, test_only=True)
        nodule = Finding("lung.nodule", 0.25, Verdict.ABSENT, 0.5)
        lung = AnatomyReading("lung", 4000.0, -800.0, (nodule,), np.array([1, 0], np.float16))
        lost = NotAssessed("heart", Reason.ANATOMY_CUT_OFF)
        return Reading(who, who, (lung,), (lost,), now()), {"read": 0.5}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data", ("pacs", 104))


@pytest.fixture
def records(settings: Settings) -> Records:
    made = open_records(settings)
    with made.session() as session:
        registry.promote(session, Facts(DIGEST, "bundled", "current 1", True), ME)
        registry.shadow(session, Facts(SHADOWED, "/releases/shadow", "shadow 2", True), ME)
    return made


@pytest.fixture
def with_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every series has one image in the spool."""

    class _Slice:
        sop_instance_uid = "2.25.1"

    monkeypatch.setattr("node.releases.shadow_worker.series_slices", lambda *_: [_Slice()])


def read_job(records: Records, settings: Settings, uid: str = "2.25.1") -> int:
    job_id = add_job(records, uid)
    Analyst(records, settings, FakePipeline(settings), "w").analyze(job_id)  # type: ignore[arg-type]
    assert job(records, job_id).state == State.ENCODED
    return job_id


def reading(records: Records, job_id: int) -> ShadowReading:
    with records.reading() as session:
        row = session.scalars(select(ShadowReading).where(ShadowReading.job_id == job_id)).one()
        assert row.reading is None or isinstance(row.reading, dict)
        return row


def sent(records: Records) -> tuple[int | None, ...]:
    with records.reading() as session:
        return tuple(session.scalar(select(func.count()).select_from(table)) for table in (Result, Delivery))


@pytest.mark.usefixtures("with_images")
def test_a_series_is_read_in_shadow_after_its_results_are_written_and_nothing_else_changes(
    records: Records, settings: Settings
) -> None:
    job_id = read_job(records, settings)
    messages = Messages()
    reconciler = Reconciler(records, settings, messages)  # type: ignore[arg-type]
    reconciler.once()
    (message,) = [row_id for queue, row_id in messages if queue == SHADOW]
    before, files = sent(records), sorted(settings.results_dir.rglob("*"))
    state = job(records, job_id)
    ShadowReader(records, settings, ShadowPipeline).read(message)  # type: ignore[arg-type]
    assert reading(records, job_id).state == ShadowState.DONE
    assert reading(records, job_id).reading == {
        "findings": {"lung.nodule": [0.25, "absent"]},
        "not_assessed": {"heart": "ANATOMY_CUT_OFF"},
        "seconds": {"read": 0.5},
    }
    assert (sent(records), sorted(settings.results_dir.rglob("*"))) == (before, files)
    after = job(records, job_id)
    assert (after.state, after.changed_at, after.detail) == (state.state, state.changed_at, state.detail)
    assert len([queue for queue, _ in messages if queue == DELIVER]) == 1
    ShadowReader(records, settings, ShadowPipeline).read(message)  # type: ignore[arg-type]
    assert reading(records, job_id).attempts == 1, "a message that comes twice reads once"


def test_work_goes_first_and_the_queue_is_bounded(
    records: Records, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_queue, "MOST_WAITING", 2)
    jobs = [read_job(records, settings, f"2.25.{n}") for n in range(3)]
    queued = add_job(records, "2.25.9")
    with records.session() as session:
        assert shadow_queue.enlist(session) == [], "a job waits"
        first = session.scalars(select(ShadowReading.id).order_by(ShadowReading.id)).first()
        assert shadow_queue.take(session, first or 0) is None
        session.get_one(Job, queued).move(State.FAILED)
    with records.session() as session:
        assert len(shadow_queue.enlist(session)) == 2
    assert [reading(records, each).state for each in jobs] == ["waiting", "waiting", "skipped"]


def test_what_fails_in_shadow_is_counted_and_the_job_is_as_it_was(records: Records, settings: Settings) -> None:
    deleted = read_job(records, settings)
    with records.session() as session:
        (message,) = shadow_queue.enlist(session)
    ShadowReader(records, settings, ShadowPipeline).read(message)  # type: ignore[arg-type]
    assert (reading(records, deleted).state, reading(records, deleted).reason) == ("failed", Reason.IMAGES_DELETED)
    assert job(records, deleted).state == State.ENCODED


@pytest.mark.usefixtures("with_images")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PipelineError(Reason.MODEL_UNAVAILABLE, "no weights"), Reason.MODEL_UNAVAILABLE),
        (ValueError("Planted^Patient"), Reason.INTERNAL),
        (MemoryError(), Reason.OUT_OF_MEMORY),
    ],
)
def test_any_error_of_the_shadow_is_noted_without_its_text(
    records: Records, settings: Settings, error: Exception, reason: Reason
) -> None:
    def load(_: Settings) -> Any:
        raise error

    job_id = read_job(records, settings)
    with records.session() as session:
        (message,) = shadow_queue.enlist(session)
    ShadowReader(records, settings, load).read(message)
    row = reading(records, job_id)
    assert (row.state, row.reason) == (ShadowState.FAILED, reason)
    assert "Planted" not in row.detail


def test_a_process_that_was_lost_gets_a_second_attempt_and_no_third(records: Records, settings: Settings) -> None:
    job_id = read_job(records, settings)
    reader = ShadowReader(records, settings, ShadowPipeline)  # type: ignore[arg-type]
    for state in (ShadowState.WAITING, ShadowState.FAILED):
        with records.session() as session:
            (message,) = shadow_queue.enlist(session)
            assert shadow_queue.take(session, message) is not None
        reader.recover()
        assert reading(records, job_id).state == state
    assert reading(records, job_id).reason == Reason.ATTEMPTS_EXHAUSTED


def test_a_reading_of_a_release_that_left_the_shadow_is_not_done(records: Records, settings: Settings) -> None:
    read_job(records, settings)
    with records.session() as session:
        (message,) = shadow_queue.enlist(session)
        registry.end_shadow(session, ME)
        assert shadow_queue.take(session, message) is None
        assert shadow_queue.enlist(session) == []


def _pair(records: Records, number: int, mine: dict[str, tuple[float, str]], its: dict[str, tuple[float, str]]) -> int:
    job_id = add_job(records, f"2.25.{number}", State.SENT)
    with records.session() as session:
        session.get_one(Job, job_id).seconds = {"read": 2.0}
        for key, (probability, verdict) in mine.items():
            row = ReportedFinding(job_id=job_id, finding=key, tracking_uid="2.25.5", probability=probability)
            row.verdict = verdict
            session.add(row)
        told = {"findings": its, "not_assessed": {} if its else {"lung": "ANATOMY_CUT_OFF"}, "seconds": {"read": 4.0}}
        row_of_shadow = ShadowReading(job_id=job_id, release_digest=SHADOWED, state=ShadowState.DONE, reading=told)
        session.add(row_of_shadow)
    return job_id


def test_the_agreement_is_counted_finding_by_finding(records: Records) -> None:
    said = [(0.9, "present"), (0.8, "present"), (0.1, "absent"), (0.2, "absent")]
    its = [(0.8, "present"), (0.3, "absent"), (0.0, "absent"), (0.5, "undetermined")]
    jobs = [
        _pair(records, n, {"lung.nodule": a}, {"lung.nodule": b})
        for n, (a, b) in enumerate(zip(said, its, strict=True))
    ]
    _pair(records, 8, {"lung.nodule": (0.5, "present")}, {})
    _pair(records, 9, {}, {"heart.cardiomegaly": (0.5, "present")})
    with records.reading() as session:
        found = compare(session, DIGEST, SHADOWED)
    heart, lung = found.findings
    assert (found.studies, found.same_verdict, found.seconds) == (6, 0.5, (2.0, 4.0))
    assert (lung.studies, lung.same_verdict, lung.only_current, lung.only_shadow) == (4, 0.5, 1, 0)
    # observed 0.5; by chance present 2/4*1/4 + absent 2/4*2/4 = 0.375
    assert lung.kappa == pytest.approx((0.5 - 0.375) / (1 - 0.375))
    p, q = np.array([[0.9, 0.8, 0.1, 0.2], [0.8, 0.3, 0.0, 0.5]])
    assert lung.correlation == pytest.approx(((p - p.mean()) * (q - q.mean())).mean() / (p.std() * q.std()))
    assert lung.mean_difference == pytest.approx(-0.1)
    assert (heart.studies, heart.kappa, heart.only_shadow) == (0, None, 1)
    assert found.not_assessed == {"lung: ANATOMY_CUT_OFF": 1}
    assert [case.job_id for case in found.cases] == [jobs[1], jobs[3]], "present against absent comes first"
    assert found.cases[0].shadow == Said(0.3, "absent")


def test_the_report_on_the_terminal_and_as_json(records: Records, settings: Settings, tmp_path: Path) -> None:
    _pair(records, 1, {"lung.nodule": (0.9, "present")}, {"lung.nodule": (0.2, "absent")})
    config = tmp_path / "node.yaml"
    config.write_text(f"data_dir: {settings.data_dir}\n")
    out = tmp_path / "agreement.json"
    done = CliRunner().invoke(app, ["model", "shadow-report", "--json", str(out), "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert "1 series read by both" in done.output
    assert "Cases to look at" in done.output
    written = json.loads(out.read_text())
    assert written["findings"][0]["mean_difference"] == pytest.approx(-0.7)
    assert written["cases"][0]["job_id"] == 1
    with records.session() as session:
        registry.end_shadow(session, ME)
    done = CliRunner().invoke(app, ["model", "shadow-report", "--config", str(config)])
    assert "No release is in shadow" in str(done.exception)


def test_a_release_that_is_not_whole_or_does_not_fit_is_refused_with_its_reason(
    settings: Settings, tmp_path: Path
) -> None:
    from tiny_release import make_release

    from fvlm.release import seal
    from node.releases.check import check_release

    good = tmp_path / "good"
    make_release(good)
    unknown, damaged, foreign, void = (tmp_path / name for name in ("unknown", "damaged", "foreign", "void"))
    for folder in (damaged, foreign, void):
        shutil.copytree(good, folder)
    (damaged / "card.md").write_text("another card")
    findings = json.loads((foreign / "findings.json").read_text())
    findings[0]["finding"] = "lung.unheard_of"
    (foreign / "findings.json").write_text(json.dumps(findings))
    seal(foreign)
    _spoil(void / "model.safetensors")
    seal(void)
    checked = check_release(str(good), settings.model)
    assert checked.notes[0] == "TEST MODEL - NOT FOR CLINICAL USE"
    for folder, reason in (
        (unknown, Reason.RELEASE_UNKNOWN),
        (damaged, Reason.RELEASE_DAMAGED),
        (void, Reason.RELEASE_DAMAGED),
        (foreign, Reason.RELEASE_UNFIT),
    ):
        with pytest.raises(registry.ReleaseRefusedError) as refused:
            check_release(str(folder), settings.model)
        assert refused.value.reason == reason, folder
    with pytest.raises(registry.ReleaseRefusedError, match="holds the release"):
        check_release(str(BUNDLED), settings.model, SHADOWED)


def _spoil(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    tensors["temp"] = tensors["temp"] * float("nan")
    save_file(tensors, weights)
