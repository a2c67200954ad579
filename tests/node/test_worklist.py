"""The node as performer on a worklist, against a scripted one that follows PS3.4 annex CC (`ups_peer`)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydicom import Dataset
from rows import add_job, add_results, job, open_records, settings_for
from running import Processes, wait_for
from sqlalchemy import select
from structlog.testing import capture_logs
from tls_files import Authority
from typer.testing import CliRunner
from ups_peer import PROCEDURE, STATION, Steps, code, dimse_peer, event_report, rs_peer, scheduled

from config import Priority, Reason, Settings
from config.settings import SettingsError
from config.worklist_settings import DimseWorklist, WebWorklist
from ct.part10 import is_uid
from node.children import free_port
from node.cli import app
from node.database import Records
from node.doctor_inlets import examine_inlets
from node.records import Delivery, Job, WorkitemClaim, WorklistContact, now
from node.states import State
from node.worklist.claims import Phase
from node.worklist.event_channel import read_event
from node.worklist.events import Notice
from node.worklist.performer import Performer
from node.worklist.report import discontinuation
from node.worklist.run import connect, start_performers
from node.worklist.workitem import Workitem, WorkitemError

_STATION, _PROCEDURE = "^".join(STATION), "^".join(PROCEDURE)


@contextmanager
def _peer(kind: str, steps: Steps) -> Iterator[WebWorklist | DimseWorklist]:
    """A running worklist, and the settings for it."""
    tasks: dict[str, Any] = {"station": _STATION, "procedures": (_PROCEDURE,), "poll_s": 0.2}
    with ExitStack() as stack:
        if kind == "rs":
            url, _ = stack.enter_context(rs_peer(steps))
            yield WebWorklist(kind="rs", url=url, **tasks)
        else:
            port = stack.enter_context(dimse_peer(steps))
            yield DimseWorklist(kind="dimse", ae_title="UPSMGR", host="127.0.0.1", port=port, **tasks)


def _node(folder: Path, worklist: WebWorklist | DimseWorklist) -> tuple[Settings, Records, Performer]:
    settings = settings_for(folder / "data", ("pacs", 104), worklists={"ris": worklist})
    records = open_records(settings)
    return settings, records, Performer("ris", worklist, settings, records, lambda: connect(worklist, settings))


def _claim(records: Records, uid: str) -> WorkitemClaim:
    with records.reading() as session:
        return session.scalars(select(WorkitemClaim).where(WorkitemClaim.uid == uid)).one()


def _finish(records: Records, settings: Settings, job_id: int) -> None:
    """The job has results, and the destination has them."""
    add_results(records, settings, job_id)
    with records.session() as session:
        for delivery in session.scalars(select(Delivery)):
            delivery.sent_at = now()
        row = session.get_one(Job, job_id)
        for state in (State.RUNNING, State.ENCODED, State.SENT):
            row.move(state)


def _performed(step: Dataset) -> Dataset:
    return step.UnifiedProcedureStepPerformedProcedureSequence[0]


def _reasons(step: Dataset) -> list[str]:
    told = step.ProcedureStepProgressInformationSequence[0]
    return [item.get("CodeValue") or item.LongCodeValue for item in told.ProcedureStepDiscontinuationReasonCodeSequence]


@pytest.mark.parametrize("kind", ["rs", "dimse"])
def test_work_is_claimed_and_completed_with_its_outputs(kind: str, tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1", priority="HIGH"))
    with _peer(kind, steps) as worklist:
        settings, records, performer = _node(tmp_path, worklist)
        performer.once()
        assert steps.state("2.25.77") == "IN PROGRESS"
        assert _claim(records, "2.25.77").transaction_uid == steps.owners["2.25.77"]
        job_id = add_job(records, "2.25.1", priority=Priority.ROUTINE)
        performer.once()
        assert job(records, job_id).priority == Priority.STAT, "a waiting job takes the workitem's priority"
        _finish(records, settings, job_id)
        performer.once()
        performer.once()
    step = steps.all["2.25.77"]
    assert [float(one) for one in steps.progress] == [0, 20, 100]
    assert (step.ProcedureStepState, _claim(records, "2.25.77").phase) == ("COMPLETED", Phase.COMPLETED)
    performed = _performed(step)
    assert performed.PerformedStationNameCodeSequence[0].CodeMeaning == "fVLM Node"
    assert performed.PerformedWorkitemCodeSequence[0].CodeValue == PROCEDURE[0]
    outputs = {
        reference.ReferencedSOPInstanceUID: (item.StudyInstanceUID, item.DICOMRetrievalSequence[0].RetrieveAETitle)
        for item in performed.OutputInformationSequence
        for reference in item.ReferencedSOPSequence
    }
    assert outputs == {f"2.25.{job_id}1": ("2.25.9", "PACS"), f"2.25.{job_id}2": ("2.25.9", "PACS")}
    assert [status for *_, status in steps.log] == [0] * len(steps.log), "nothing was refused on the way"


@pytest.mark.parametrize("kind", ["rs", "dimse"])
def test_what_somebody_else_has_claimed_first_is_left_to_them(kind: str, tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    retrieve = steps.change_state

    def beaten(uid: str, transaction: str, state: str) -> int:
        """Between our search and our claim somebody else claims it."""
        steps.change_state = retrieve  # type: ignore[method-assign]
        assert steps.change_state(uid, "2.25.404", state) == 0
        return steps.change_state(uid, transaction, state)

    steps.change_state = beaten  # type: ignore[method-assign]
    with _peer(kind, steps) as worklist:
        _, records, performer = _node(tmp_path, worklist)
        performer.once()
        performer.once()
    claim = _claim(records, "2.25.77")
    assert (claim.phase, claim.reason) == (Phase.LOST, Reason.WORKITEM_LOST)
    assert [status for *_, status in steps.log] == [0, 0xC301, 0xC301], "asked once, proved once, then left alone"
    assert steps.owners["2.25.77"] == "2.25.404"


@pytest.mark.parametrize("kind", ["rs", "dimse"])
def test_only_what_is_ready_and_for_this_station_is_taken(kind: str, tmp_path: Path) -> None:
    other, unready, foreign, anywhere = (scheduled(f"2.25.{n}", "2.25.1") for n in (71, 72, 73, 74))
    other.ScheduledStationNameCodeSequence = [code("OTHER", "99HOSP", "Other")]
    unready.InputReadinessState = "INCOMPLETE"
    foreign.ScheduledWorkitemCodeSequence = [code("MRREAD", "99HOSP", "MR reading")]
    anywhere.ScheduledStationNameCodeSequence = []
    steps = Steps(other, unready, foreign, anywhere)
    with _peer(kind, steps) as worklist:
        performer = _node(tmp_path, worklist)[2]
        performer.once()
        assert set(steps.owners) == {"2.25.74"}
        steps.find = lambda _: list(steps.all.values())  # type: ignore[method-assign]  # takes no notice of the query
        performer.once()
        assert set(steps.owners) == {"2.25.74"}


@pytest.mark.parametrize("kind", ["rs", "dimse"])
def test_a_failed_job_cancels_the_workitem_with_its_coded_reason(kind: str, tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer(kind, steps) as worklist:
        _, records, performer = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        performer.once()
        with records.session() as session:
            row = session.get_one(Job, job_id)
            row.move(State.RUNNING)
            row.move(State.FAILED, Reason.OUT_OF_MEMORY, "in stage read")
        performer.once()
    step = steps.all["2.25.77"]
    assert step.ProcedureStepState == "CANCELED"
    assert _reasons(step) == ["110501", "OUT_OF_MEMORY"]
    assert "in stage read" in step.ProcedureStepProgressInformationSequence[0].ReasonForCancellation
    claim = _claim(records, "2.25.77")
    assert (claim.phase, claim.reason) == (Phase.CANCELED, Reason.OUT_OF_MEMORY)


def test_series_that_are_not_for_reading_do_no_harm_beside_others(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1", "2.25.2", "2.25.3"), scheduled("2.25.78", "2.25.3"))
    with _peer("rs", steps) as worklist:
        settings, records, performer = _node(tmp_path, worklist)
        read, beaten, localizer = (add_job(records, f"2.25.{number}") for number in (1, 2, 3))
        with records.session() as session:
            session.get_one(Job, beaten).move(State.SUPERSEDED, Reason.NOT_BEST_SERIES)
            scout = session.get_one(Job, localizer)
            scout.series.move(State.REJECTED, Reason.LOCALIZER)
            session.delete(scout)
        _finish(records, settings, read)
        performer.once()
    assert steps.state("2.25.77") == "COMPLETED"
    assert len(_performed(steps.all["2.25.77"]).OutputInformationSequence) == 2
    assert _reasons(steps.all["2.25.78"]) == ["110513", "LOCALIZER"], "alone it is no result"


@pytest.mark.parametrize("kind", ["rs", "dimse"])
def test_malformed_workitems_hold_nothing_up(kind: str, tmp_path: Path) -> None:
    no_inputs, bad_input = scheduled("2.25.71"), scheduled("2.25.72", "2.25.1")
    bad_input.InputInformationSequence[0].SeriesInstanceUID = ""
    no_uid = scheduled("2.25.73", "2.25.1")
    steps = Steps(no_inputs, bad_input, scheduled("2.25.74", "2.25.1"))
    steps.all["strange"] = no_uid
    del no_uid.SOPInstanceUID
    with _peer(kind, steps) as worklist, capture_logs() as logs:
        _, records, performer = _node(tmp_path, worklist)
        performer.once()
        performer.once()
        assert steps.state("2.25.74") == "IN PROGRESS"
        for uid in ("2.25.71", "2.25.72"):
            assert steps.state(uid) == "CANCELED"
            assert _reasons(steps.all[uid]) == ["110514", "WORKITEM_UNUSABLE"]
    assert [line["reason"] for line in logs if line["event"] == "workitem_unreadable"] == [Reason.WORKITEM_UNUSABLE]
    assert _claim(records, "2.25.74").phase == Phase.HELD


def test_a_workitem_that_is_taken_away_loses_its_job(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"), scheduled("2.25.78", "2.25.2"))
    with _peer("rs", steps) as worklist:
        _, records, performer = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        performer.once()
        steps.all["2.25.77"].ProcedureStepState = "CANCELED"
        del steps.all["2.25.78"]
        performer.once()
    assert (job(records, job_id).state, job(records, job_id).reason) == (State.FAILED, Reason.CANCELLED)
    assert {_claim(records, uid).phase for uid in ("2.25.77", "2.25.78")} == {Phase.LOST}


def test_two_performers_of_one_node_claim_a_workitem_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer("rs", steps) as worklist:
        settings, records, first = _node(tmp_path, worklist)
        second = Performer("ris", worklist, settings, records, lambda: connect(worklist, settings))
        wanted = first._wanted

        def overtaken(link: Any, uid: str) -> Any:
            """Between the look and the claim of one performer, the other one claims."""
            item = wanted(link, uid)
            second.once()
            return item

        monkeypatch.setattr(first, "_wanted", overtaken)
        first.once()
    assert [request for request, *_ in steps.log].count("state IN PROGRESS") == 1
    assert _claim(records, "2.25.77").phase == Phase.HELD


def test_images_that_never_come_end_the_work(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer("rs", steps) as worklist:
        performer = _node(tmp_path, worklist.model_copy(update={"images_wait_s": 1e-6}))[2]
        performer.once()
    assert _reasons(steps.all["2.25.77"]) == ["110513", "INPUTS_MISSING"]


def test_no_more_is_claimed_than_may_be_held_and_the_urgent_first(tmp_path: Path) -> None:
    steps = Steps(*(scheduled(f"2.25.7{n}", "2.25.1", priority=p) for n, p in enumerate(("LOW", "HIGH", "HIGH"))))
    with _peer("rs", steps) as worklist:
        performer = _node(tmp_path, worklist.model_copy(update={"at_once": 2}))[2]
        performer.once()
        performer.once()
    assert set(steps.owners) == {"2.25.71", "2.25.72"}


@pytest.mark.parametrize("kind", ["rs", "rs over TLS", "dimse"])
def test_a_cancel_request_among_the_events_ends_job_and_workitem(kind: str, tmp_path: Path) -> None:
    steps, ended = Steps(), Event()
    with ExitStack() as stack:
        if kind != "dimse":
            tls = Authority(tmp_path, "hospital") if kind == "rs over TLS" else None
            url, channels = stack.enter_context(rs_peer(steps, tls=tls.issue("ris") if tls else None))
            worklist: Any = WebWorklist(
                kind="rs", url=url, station=_STATION, poll_s=600, ca_file=tls.ca if tls else None
            )
        else:
            events_port = free_port()
            port = stack.enter_context(dimse_peer(steps, {"FVLMEVENTS": events_port}))
            worklist = DimseWorklist(
                kind="dimse", ae_title="UPSMGR", host="127.0.0.1", port=port, station=_STATION, poll_s=600,
                events_port=events_port,
            )  # fmt: skip
        silent = steps.tell
        settings, records, _ = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        threads = start_performers(settings, records, ended)
        try:
            wait_for(
                lambda: len(channels) == 1 if kind != "dimse" else steps.tell is not silent, "it listens to events"
            )
            steps.add(scheduled("2.25.77", "2.25.1"))
            wait_for(lambda: steps.state("2.25.77") == "IN PROGRESS", "the event triggers the claim, no poll")
            wait_for(lambda: _claim(records, "2.25.77").phase == Phase.HELD, "the claim is recorded")
            if kind == "dimse":
                told = steps.event("2.25.77", 2)
                assert event_report(told, "FVLMEVENTS", events_port, calling="STRANGER") == -1, "only the worklist"
                assert event_report(told, "OTHER", events_port) == -1
            assert steps.request_cancel("2.25.77") == 0
            wait_for(lambda: steps.state("2.25.77") == "CANCELED", "the cancel request is honoured")
            wait_for(lambda: _claim(records, "2.25.77").phase == Phase.CANCELED, "and recorded")
        finally:
            ended.set()
            for thread in threads:
                thread.join(10)
    assert (job(records, job_id).state, job(records, job_id).reason) == (State.FAILED, Reason.CANCELLED)
    assert _reasons(steps.all["2.25.77"]) == ["110500", "CANCELLED"]


def test_a_worklist_whose_certificate_is_of_no_known_authority_is_not_spoken_to(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with rs_peer(steps, tls=Authority(tmp_path, "stranger").issue("ris")) as (url, _):
        worklist = WebWorklist(kind="rs", url=url, station=_STATION, ca_file=Authority(tmp_path, "hospital").ca)
        _, records, performer = _node(tmp_path, worklist)
        performer.once()
    assert steps.state("2.25.77") == "SCHEDULED"
    with records.reading() as session:
        assert session.get_one(WorklistContact, "ris").reason == Reason.TLS_CERTIFICATE_UNTRUSTED


def test_a_cancel_request_after_the_results_are_out_comes_too_late(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer("rs", steps) as worklist:
        settings, records, performer = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        performer.once()
        _finish(records, settings, job_id)
        with records.session() as session:
            session.scalars(select(WorkitemClaim)).one().cancel_asked = True
        performer.once()
    assert steps.state("2.25.77") == "COMPLETED"


def test_a_job_that_another_workitem_needs_is_not_cancelled(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"), scheduled("2.25.78", "2.25.1"))
    with _peer("rs", steps) as worklist:
        _, records, performer = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        performer.once()
        with records.session() as session:
            session.scalars(select(WorkitemClaim).where(WorkitemClaim.uid == "2.25.77")).one().cancel_asked = True
        performer.once()
    assert (steps.state("2.25.77"), steps.state("2.25.78")) == ("CANCELED", "IN PROGRESS")
    assert job(records, job_id).state == State.QUEUED


def test_work_goes_on_when_the_worklist_is_back(tmp_path: Path) -> None:
    steps, ended = Steps(scheduled("2.25.77", "2.25.1")), Event()
    with rs_peer(steps) as (url, _):
        port = int(url.rsplit(":", 1)[1])
        worklist = WebWorklist(kind="rs", url=url, station=_STATION, poll_s=0.2, events=False)
        settings, records, performer = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        performer.once()
    _finish(records, settings, job_id)
    with capture_logs() as logs:
        performer.once()
        performer.once()
    assert [line["error"] for line in logs if line["event"] == "worklist_away"] == [Reason.PEER_UNREACHABLE]
    with records.reading() as session:
        assert session.get_one(WorklistContact, "ris").reason == Reason.PEER_UNREACHABLE
    thread = Thread(target=performer.run, args=(ended,))
    thread.start()
    try:
        with rs_peer(steps, port):
            wait_for(lambda: _claim(records, "2.25.77").phase == Phase.COMPLETED, "the work is completed")
    finally:
        ended.set()
        thread.join(10)
    with records.reading() as session:
        assert session.get_one(WorklistContact, "ris").seen_at is not None
    assert steps.state("2.25.77") == "COMPLETED"


@pytest.mark.parametrize(
    ("kind", "request_", "finished"),
    [
        ("rs", "state IN PROGRESS", False),
        ("dimse", "state IN PROGRESS", False),
        ("rs", "update", True),
        ("rs", "state COMPLETED", True),
        ("dimse", "state COMPLETED", True),
    ],
)
def test_kill_9_while_the_worklist_has_answered_and_nothing_is_recorded(
    kind: str, request_: str, finished: bool, tmp_path: Path
) -> None:
    """The worklist has done what was asked; the node's process dies before it hears so."""
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer(kind, steps) as worklist:
        worklist = worklist.model_copy(update={"events": False} if kind == "rs" else {})
        settings, records, performer = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        if finished:
            performer.once()
            _finish(records, settings, job_id)
        reached, killed = Event(), Event()

        def stop_here(request: str, _: str, status: int) -> None:
            if request == request_ and not reached.is_set():
                assert status == 0
                reached.set()
                killed.wait(60)

        steps.hook = stop_here
        child = Processes(settings).role("reconciler")
        try:
            wait_for(reached.is_set, f"the node has asked for: {request_}")
        finally:
            child.kill()
            child.wait()
            killed.set()
        assert _claim(records, "2.25.77").phase == (Phase.HELD if finished else Phase.CLAIMING)
        transaction = steps.owners["2.25.77"]
        performer.once()
        if not finished:
            assert _claim(records, "2.25.77").phase == Phase.HELD
            _finish(records, settings, job_id)
            performer.once()
        assert (steps.state("2.25.77"), _claim(records, "2.25.77").phase) == ("COMPLETED", Phase.COMPLETED)
        assert steps.owners["2.25.77"] == transaction, "claimed once"
        claims = [status for request, _, status in steps.log if request == "state IN PROGRESS" and status == 0]
        assert len(claims) == 1


def test_status_shows_worklists_and_workitems_without_a_patient(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer("rs", steps) as worklist:
        settings, records, performer = _node(tmp_path, worklist)
        performer.once()
    config = tmp_path / "node.yaml"
    url = settings.worklists["ris"].where
    config.write_text(
        f"data_dir: data\nworklists:\n  ris: {{kind: rs, url: '{url}', station: '{_STATION}'}}\n", encoding="utf-8"
    )
    for command in (["worklist", "status"], ["status"]):
        shown = CliRunner().invoke(app, [*command, "--config", str(config)])
        assert shown.exit_code == 0, shown.output
        assert "ris (rs)" in shown.output
        assert "HELD: 1" in shown.output
        assert "PLANTED" not in shown.output.upper()
    with records.reading() as session:
        kept = [str(vars(row)) for row in session.scalars(select(WorkitemClaim))]
    assert "PLANTED" not in "".join(kept).upper()


@pytest.mark.parametrize("kind", ["rs", "dimse"])
def test_doctor_asks_each_worklist(kind: str, tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer(kind, steps) as worklist:
        settings = _node(tmp_path, worklist)[0]
        [(name, well, found, _)] = examine_inlets(settings)
    assert (name, well, found) == ("Worklist ris", True, f"{worklist.where} answers: 1 workitems wait")
    [(_, well, found, _)] = examine_inlets(settings)
    assert not well
    assert "does not answer" in found


def test_a_service_that_is_no_worklist_is_told_of_and_tried_again(tmp_path: Path) -> None:
    with dimse_peer(Steps()) as port:  # it speaks DICOM
        worklist = WebWorklist(kind="rs", url=f"http://127.0.0.1:{port}", station=_STATION)
        performer = _node(tmp_path, worklist)[2]
        with capture_logs() as logs:
            performer.once()
    assert [(line["event"], line["error"]) for line in logs] == [("worklist_away", Reason.PEER_UNREACHABLE)]


def test_an_end_that_the_worklist_refuses_is_tried_again_and_shown(tmp_path: Path) -> None:
    steps = Steps(scheduled("2.25.77", "2.25.1"))
    with _peer("rs", steps) as worklist:
        settings, records, performer = _node(tmp_path, worklist)
        job_id = add_job(records, "2.25.1")
        performer.once()
        _finish(records, settings, job_id)
        change = steps.change_state
        steps.change_state = lambda *_: 0xC304  # type: ignore[method-assign]
        performer.once()
        claim = _claim(records, "2.25.77")
        assert (claim.phase, claim.reason, claim.attempts) == (Phase.HELD, Reason.PEER_REFUSED, 1)
        assert "0xC304" in claim.detail
        steps.change_state = change  # type: ignore[method-assign]
        performer.once()
    assert (steps.state("2.25.77"), _claim(records, "2.25.77").phase) == ("COMPLETED", Phase.COMPLETED)
    assert _claim(records, "2.25.77").reason is None


@pytest.mark.parametrize(
    ("worklist", "told"),
    [
        ({"kind": "rs", "url": "http://ris.example.org", "token": "env:X"}, "https"),
        (
            {"kind": "rs", "url": "https://ris.example.org", "token": "env:X", "events_url": "ws://ris.example.org"},
            "https",
        ),
        ({"kind": "rs", "url": "https://ris.example.org", "station": "FVLM"}, "station"),
        ({"kind": "rs", "url": "https://ris.example.org", "source": "elsewhere"}, "elsewhere"),
        ({"kind": "hl7"}, "kind"),
    ],
)
def test_settings_that_cannot_work_are_told_of(worklist: dict[str, str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(yaml.safe_dump({"worklists": {"ris": {"station": _STATION, **worklist}}}), encoding="utf-8")
    with pytest.raises(SettingsError, match=told):
        Settings.load(file)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["vr", "Value", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_TAGS = ("00080018", "00741000", "00404041", "00741200", "00404025", "00404018", "00404021", "7")


@examples(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(_TAGS), _ANYTHING, max_size=4), st.booleans())
def test_whatever_a_worklist_sends_is_a_workitem_or_refused(broken: dict[str, Any], whole: bool) -> None:
    sent = (scheduled("2.25.77", "2.25.1").to_json_dict() if whole else {}) | broken
    try:
        item = Workitem.from_json(sent)
    except WorkitemError:
        return
    assert is_uid(item.uid)
    assert bool(item.inputs) != bool(item.problem)


def test_events_that_are_none_are_no_events() -> None:
    cancel = '{"00001002": {"vr": "US", "Value": [2]}, "00001000": {"vr": "UI", "Value": ["%s"]}}'
    assert read_event(cancel % "2.25.7") == Notice("2.25.7")
    for message in ("", "[", "[" * 100_000, "7", '{"00001002": 3}', b"\xff", cancel % "../x"):
        assert read_event(message) in (None, Notice())
    assert read_event('{"00001002": {"vr": "US", "Value": [3]}}') is None, "progress is what we say ourselves"


def test_every_reason_has_a_public_code_and_the_nodes_own() -> None:
    for reason in Reason:
        public, own = discontinuation(reason)
        assert public.CodingSchemeDesignator == "DCM"
        assert (own.get("CodeValue") or own.LongCodeValue) == reason
        assert 0 < len(own.CodeMeaning) <= 64
