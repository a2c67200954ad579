"""A reader's answer to our findings becomes a row, once, by whichever way it comes; what is not one is refused."""

import json
import stat
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from console_bench import PASSWORD, ConsoleBench, console_settings
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code
from report_files import PERSON, code, tid_2000
from rows import add_job
from spool_data import encode
from sqlalchemy import select
from sr_synthetic import SERIES, STUDY, anatomy_map, ct_headers, reading
from structlog.testing import capture_logs
from structlog.typing import EventDict
from typer.testing import CliRunner

import dicom_sr
from config import ReaderVerdict, Reason, Settings
from dicom_sr import codes
from dicom_sr.identity import tracking_uid
from dicom_sr.reports_in import ReportError
from dicom_sr.verdicts import read_statement
from node import reported
from node.cli import app
from node.completion import complete_due
from node.feedback_taking import FeedbackError, FeedbackTaker, Taken
from node.indexer import Indexer
from node.intake import Intake
from node.logs import ALLOWED_KEYS
from node.pseudonyms import Pseudonyms
from node.records import Feedback, Job, Result, Series, now
from node.result_files import write_objects
from node.states import State

NODULE, EMPHYSEMA = (tracking_uid(SERIES, key) for key in ("lung.nodule", "lung.emphysema"))
QUALITY = Code("113001", "DCM", "Rejected for Quality Reasons")
OF_INTEREST = Code("113000", "DCM", "Of Interest")


@pytest.fixture(scope="module")
def written() -> list[Dataset]:
    return dicom_sr.write(reading(), anatomy_map(), ct_headers())


@dataclass
class Node:
    """A node that has read one series and written its SEG and SR."""

    bench: ConsoleBench
    objects: list[Dataset]
    job_id: int

    @property
    def settings(self) -> Settings:
        return self.bench.settings

    def taker(self) -> FeedbackTaker:
        return FeedbackTaker(Pseudonyms(self.settings.data_dir), self.settings.results_dir)

    def take(self, dataset: Dataset) -> Taken:
        with self.bench.records.session() as session:
            return self.taker().take(session, read_statement(dataset))

    def refusal(self, dataset: Dataset) -> Reason:
        with pytest.raises(FeedbackError) as caught:
            self.take(dataset)
        return caught.value.reason

    def rows(self) -> list[Feedback]:
        with self.bench.records.reading() as session:
            return list(session.scalars(select(Feedback).order_by(Feedback.id)))

    def verdicts(self) -> dict[str, str]:
        return {row.finding: row.reader_verdict for row in self.rows()}


@pytest.fixture
def node(tmp_path: Path, written: list[Dataset]) -> Iterator[Node]:
    bench = ConsoleBench(console_settings(tmp_path, readers=("marie", "pierre")))
    job_id = add_job(bench.records, SERIES, State.SENT)
    files = write_objects(bench.settings.results_dir, job_id, written)
    with bench.records.session() as session:
        job = session.get_one(Job, job_id)
        job.series.study_instance_uid = STUDY
        reported.store(session, job, reading())
        for dataset, file in zip(written, files, strict=True):
            session.add(
                Result(
                    job_id=job_id,
                    kind=dataset.Modality,
                    sop_instance_uid=dataset.SOPInstanceUID,
                    sop_class_uid=dataset.SOPClassUID,
                    path=file.relative_to(bench.settings.results_dir).as_posix(),
                )
            )
    yield Node(bench, written, job_id)
    bench.records.engine.dispose()


def edited(written: list[Dataset], uid: str = "2.25.500", replaces: bool = True) -> Dataset:
    """Our SR as a workstation saves it for a reader: a new instance, a person as observer, ours as predecessor."""
    ours = written[-1]
    made = deepcopy(ours)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
    made.SeriesInstanceUID = "2.25.501"
    made.ContentSequence = Sequence([*deepcopy(PERSON), *made.ContentSequence])
    if replaces:
        instance, series, study = Dataset(), Dataset(), Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = ours.SOPClassUID, ours.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedSOPSequence = ours.SeriesInstanceUID, Sequence([instance])
        study.StudyInstanceUID, study.ReferencedSeriesSequence = STUDY, Sequence([series])
        made.PredecessorDocumentsSequence = Sequence([study])
    return made


def groups(dataset: Dataset) -> Sequence:
    (measurements,) = (item for item in dataset.ContentSequence if codes.is_a(item, codes.IMAGING_MEASUREMENTS))
    return measurements.ContentSequence


def group(dataset: Dataset, uid: str) -> Dataset:
    found: Dataset = next(g for g in groups(dataset) if any(item.get("UID") == uid for item in g.ContentSequence))
    return found


def say(dataset: Dataset, uid: str, presence: Code) -> None:
    """Change what is said of a finding."""
    for item in group(dataset, uid).ContentSequence:
        if item.ValueType == "CODE" and codes.code_of(item.ConceptCodeSequence[0]) in codes.VERDICTS.values():
            item.ConceptCodeSequence = code(presence.value, presence.scheme_designator, presence.meaning)


def remove(dataset: Dataset, uid: str) -> None:
    gone = group(dataset, uid)
    (measurements,) = (item for item in dataset.ContentSequence if codes.is_a(item, codes.IMAGING_MEASUREMENTS))
    measurements.ContentSequence = [one for one in measurements.ContentSequence if one is not gone]


def key_object(evidence: list[Dataset], title: Code, uid: str = "2.25.600") -> Dataset:
    content = KeyObjectSelection(title, evidence)
    return KeyObjectSelectionDocument(evidence, content, "2.25.601", 1, uid, 1)


def test_what_a_reader_changed_or_removed(node: Node) -> None:
    made = edited(node.objects)
    say(made, NODULE, codes.ABSENT)
    remove(made, EMPHYSEMA)
    assert node.take(made) == Taken(new=2)
    changed, removed = sorted(node.rows(), key=lambda row: row.finding, reverse=True)
    assert (changed.finding, changed.tracking_uid, changed.reader_verdict) == ("lung.nodule", NODULE, "absent")
    assert (changed.verdict, changed.probability, changed.release_digest) == ("present", 0.9134, "d" * 64)
    assert (changed.source, changed.said_by) == ("sr", "2.25.500")
    assert (removed.finding, removed.reader_verdict) == ("lung.emphysema", "removed")
    assert changed.said_at is not None
    assert changed.said_at.isoformat() == "2026-03-01T08:30:15.250000+00:00"
    assert node.take(made) == Taken(known=2), "the same object again makes no second row"
    say(made, NODULE, codes.UNDETERMINED)
    assert node.take(made) == Taken(known=2), "nor does it under the same UID with other content"
    assert node.verdicts() == {"lung.nodule": "absent", "lung.emphysema": "removed"}


def test_what_a_reader_left_counts_only_when_the_document_is_verified(node: Node) -> None:
    made = edited(node.objects)
    assert node.refusal(made) is Reason.FEEDBACK_NOTHING_SAID
    made.VerificationFlag = "VERIFIED"
    assert node.take(made).new == 5, "all that we gave a verdict on; without operating point nothing is said"
    assert node.verdicts()["lung.nodule"] == "present"
    assert node.verdicts()["liver.steatosis"] == "absent"
    assert "liver.tumor" not in node.verdicts()


def test_removal_needs_the_link_to_what_was_removed_from(node: Node) -> None:
    made = edited(node.objects, replaces=False)
    say(made, NODULE, codes.ABSENT)
    remove(made, EMPHYSEMA)
    assert node.take(made) == Taken(new=1)
    assert node.verdicts() == {"lung.nodule": "absent"}


def test_findings_of_the_readers_own_are_counted_and_left(node: Node) -> None:
    made = edited(node.objects)
    say(made, NODULE, codes.ABSENT)
    extra = deepcopy(group(made, NODULE))
    for item in extra.ContentSequence:
        if item.get("UID") == NODULE:
            item.UID = "2.25.9999"
    groups(made).append(extra)
    assert node.take(made) == Taken(new=1, unknown=1)


def test_who_said_it_is_no_name(node: Node, tmp_path: Path) -> None:
    made = edited(node.objects)
    say(made, NODULE, codes.ABSENT)
    node.take(made)
    (row,) = node.rows()
    assert len(row.reader) == 32
    assert row.reader == node.taker().pseudonyms.of("curie marie"), "the same however it is written"
    assert row.reader != Pseudonyms(tmp_path).of("Curie^Marie"), "another node has another key"
    assert stat.S_IMODE((node.settings.data_dir / "feedback-salt").stat().st_mode) == 0o600
    assert Pseudonyms(tmp_path).of(" ") == ""
    for file in node.settings.data_dir.glob("node.sqlite*"):
        for secret in ("Curie", "P-17", "Müller"):
            assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("title", "verdict", "which"),
    [(QUALITY, "rejected", 0), (Code("113037", "DCM", "Rejected for Patient Safety Reasons"), "rejected", 1),
     (OF_INTEREST, "of_interest", 1)],
    ids=["SEG", "SR", "interest"],
)  # fmt: skip
def test_a_key_object_speaks_of_the_whole_result(node: Node, title: Code, verdict: str, which: int) -> None:
    made = key_object([node.objects[which]], title)
    assert node.take(made) == Taken(new=1)
    (row,) = node.rows()
    assert (row.finding, row.tracking_uid, row.probability, row.reader_verdict) == ("", "", None, verdict)
    assert (row.source, row.said_by, row.reader, row.job_id) == ("key_object", "2.25.600", "", node.job_id)
    assert node.take(made) == Taken(known=1)


def test_what_is_no_feedback_is_refused(node: Node) -> None:
    ours = node.objects[-1]
    assert node.refusal(ours) is Reason.FEEDBACK_NOT_A_PERSON, "our own object that comes back"
    machine = edited(node.objects)
    machine.ContentSequence = deepcopy(ours.ContentSequence)
    say(machine, NODULE, codes.ABSENT)
    assert node.refusal(machine) is Reason.FEEDBACK_NOT_A_PERSON
    other_study, other_patient = edited(node.objects), edited(node.objects)
    for made in (other_study, other_patient):
        say(made, NODULE, codes.ABSENT)
    other_study.StudyInstanceUID, other_patient.PatientID = "2.25.77", "P-18"
    assert node.refusal(other_study) is Reason.FEEDBACK_OTHER_STUDY
    assert node.refusal(other_patient) is Reason.FEEDBACK_OTHER_STUDY
    other_key = key_object([node.objects[0]], QUALITY)
    other_key.StudyInstanceUID = "2.25.77"
    assert node.refusal(other_key) is Reason.FEEDBACK_OTHER_STUDY
    assert node.refusal(tid_2000()) is Reason.FEEDBACK_UNKNOWN_RESULT
    stranger = edited(node.objects, replaces=False)
    for item in groups(stranger):
        for child in item.ContentSequence:
            if "UID" in child:
                child.UID = "2.25.4711"
    stranger.CurrentRequestedProcedureEvidenceSequence = Sequence()
    for item in groups(stranger):
        item.ContentSequence = [child for child in item.ContentSequence if child.ValueType != "IMAGE"]
    assert node.refusal(stranger) is Reason.FEEDBACK_UNKNOWN_RESULT
    modality = key_object([node.objects[0]], Code("113038", "DCM", "Incorrect Modality Worklist Entry"))
    assert node.refusal(modality) is Reason.FEEDBACK_NOTHING_SAID
    with pytest.raises(ReportError):
        read_statement(ct_headers(1)[0])
    assert node.rows() == []


def arrive(node: Node, *objects: Dataset) -> list[Series]:
    """Store them as a sender does, index and judge them; the series that came, without the one that was read."""
    with Intake(node.settings.spool_dir, 0).open("WORKSTATION", "FVLM") as session:
        for dataset in objects:
            session.store(dataset.SOPClassUID, dataset.SOPInstanceUID, "1.2.840.10008.1.2.1", encode(dataset))
    Indexer(node.bench.records, node.settings.spool_dir, poll_s=0.0).catch_up()
    complete_due(node.bench.records, node.settings, now() + timedelta(seconds=120))
    with node.bench.records.reading() as session:
        return list(session.scalars(select(Series).where(Series.modality != "CT").order_by(Series.id)))


def test_it_comes_in_as_images_do_and_is_no_rejected_series(node: Node) -> None:
    changed, rejecting = edited(node.objects), key_object([node.objects[-1]], QUALITY)
    say(changed, NODULE, codes.ABSENT)
    other, machine = tid_2000(), edited(node.objects, uid="2.25.502")
    other.SeriesInstanceUID, machine.SeriesInstanceUID = "2.25.503", "2.25.504"
    machine.ContentSequence = deepcopy(node.objects[-1].ContentSequence)
    found = {one.series_instance_uid: one for one in arrive(node, changed, rejecting, other, machine)}
    assert {uid: (one.state, one.reason) for uid, one in found.items()} == {
        "2.25.501": (State.REJECTED, Reason.READER_FEEDBACK),
        "2.25.601": (State.REJECTED, Reason.READER_FEEDBACK),
        "2.25.503": (State.REJECTED, Reason.NOT_CT),
        "2.25.504": (State.REJECTED, Reason.FEEDBACK_NOT_A_PERSON),
    }
    assert node.verdicts() == {"lung.nodule": "absent", "": "rejected"}
    attention = node.bench.client().get("/api/overview").json()["attention"]
    assert [row["reason"] for row in attention] == ["FEEDBACK_NOT_A_PERSON"]
    later = edited(node.objects, uid="2.25.505")
    say(later, NODULE, codes.UNDETERMINED)
    arrive(node, later)
    assert [row.reader_verdict for row in node.rows()] == ["absent", "rejected", "undetermined"], (
        "what came before stays"
    )


def test_import_and_export(node: Node, tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(f"data_dir: {node.settings.data_dir}\n")

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["feedback", *arguments, "--config", str(config)])
        return result.exit_code, result.output + str(result.exception or "")

    changed, rejecting = edited(node.objects), key_object([node.objects[-1]], QUALITY)
    say(changed, NODULE, codes.ABSENT)
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    changed.save_as(folder / "deep" / "sr.dcm", enforce_file_format=True)
    rejecting.save_as(folder / "ko.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("no DICOM")
    status, told = run("import", str(folder))
    assert (status, told.splitlines()[-1]) == (0, "2 files taken, 0 refused")
    assert "1 new verdicts, 0 known" in told
    assert "0 new verdicts, 1 known" in run("import", str(folder / "ko.dcm"))[1]
    changed.StudyInstanceUID = "2.25.77"
    changed.save_as(folder / "other.dcm", enforce_file_format=True)
    status, told = run("import", str(folder))
    assert status == 2
    assert "FEEDBACK_OTHER_STUDY" in told
    assert "is not there" in run("import", str(tmp_path / "none"))[1]
    assert "not DICOM" in run("import", str(folder / "notes.txt"))[1]
    out = tmp_path / "feedback.jsonl"
    assert run("export", "--out", str(out)) == (0, f"2 verdicts in {out}\n")
    lines = {line["finding"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert lines["lung.nodule"]["agrees"] is False
    assert lines["lung.nodule"]["study_instance_uid"] == STUDY
    assert lines["lung.nodule"]["series_instance_uid"] == SERIES
    assert (lines["lung.nodule"]["verdict"], lines["lung.nodule"]["reader_verdict"]) == ("present", "absent")
    assert lines[""]["agrees"] is None
    assert "Curie" not in out.read_text()
    assert "cannot be written" in run("export", "--out", str(tmp_path / "no" / "x"))[1]


def test_an_attempt_again_replaces_what_is_reported(node: Node) -> None:
    with node.bench.records.session() as session:
        reported.store(session, session.get_one(Job, node.job_id), reading(anatomies=reading().anatomies[:1]))
    made = edited(node.objects)
    made.VerificationFlag = "VERIFIED"
    taken = node.take(made)
    assert taken.new == 3
    assert taken.unknown == 3


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    """What is logged meanwhile."""
    with capture_logs() as found:
        yield found


class TestConsole:
    """Buttons for readers; no JavaScript is asked for."""

    PATH = "/series/1/verdict"

    def client(self, node: Node, user: str = "marie"):
        from node.console.password import PasswordFile

        PasswordFile.of(node.settings.data_dir, user).set(PASSWORD)
        client = node.bench.client()
        client.auth = (user, PASSWORD)
        return client

    def form(self, text: str) -> dict[str, str]:
        import re

        (token,) = set(re.findall(r'name="token" value="([0-9a-f]+)"', text))
        return {"token": token, "tracking_uid": NODULE}

    def test_a_reader_agrees_or_not_and_may_change_their_mind(self, node: Node, lines: list[EventDict]) -> None:
        marie, pierre = self.client(node), self.client(node, "pierre")
        page = marie.get("/series/1").text
        assert page.index("Lung nodule") < page.index("Cardiomegaly"), "the most probable first"
        assert page.count('<form method="post" action="/series/1/verdict">') == 6
        fields = self.form(page)
        answer = marie.post(self.PATH, data=fields | {"verdict": "absent"}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/series/1#findings")
        marie.post(self.PATH, data=fields | {"verdict": "absent"})
        assert [row.reader_verdict for row in node.rows()] == ["absent"]
        marie.post(self.PATH, data=fields | {"verdict": "present"})
        pierre.post(self.PATH, data=self.form(pierre.get("/series/1").text) | {"verdict": "absent"})
        rows = node.rows()
        assert [row.reader_verdict for row in rows] == ["present", "absent"]
        assert rows[0].reader != rows[1].reader
        assert {row.source for row in rows} == {"console"}
        assert rows[0].verdict == "present"
        shown = marie.get("/series/1").text
        assert shown.count('class="chosen"') == 1
        assert "disagrees," in shown
        logged = [line for line in lines if line["event"] == "finding_judged"]
        assert len(logged) == 4
        assert set(logged[0]) - {"log_level"} <= ALLOWED_KEYS, "all of it gets into the log"
        assert logged[0]["finding"] == "lung.nodule"
        assert logged[0]["reader"] == rows[0].reader
        assert "marie" not in str(logged)

    def test_who_only_looks_may_not(self, node: Node) -> None:
        looker = node.bench.client()
        page = looker.get("/series/1").text
        assert "Lung nodule" in page
        assert 'method="post"' not in page
        fields = self.form(self.client(node).get("/series/1").text) | {"verdict": "absent"}
        assert looker.post(self.PATH, data=fields).status_code == 403
        assert node.bench.client(None).post(self.PATH, data=fields).status_code == 401
        nobody = node.bench.client()
        nobody.auth = ("pierre", PASSWORD)
        assert nobody.get("/series/1").status_code == 401, "pierre has no password yet"
        assert node.rows() == []

    def test_a_form_from_elsewhere_is_refused(self, node: Node) -> None:
        marie, pierre = self.client(node), self.client(node, "pierre")
        fields = self.form(marie.get("/series/1").text) | {"verdict": "absent"}
        for wrong in ({"token": ""}, {"token": "0" * 64}, {"token": "é"}):
            assert marie.post(self.PATH, data=fields | wrong).status_code == 403
        assert pierre.post(self.PATH, data=fields).status_code == 403, "a token of another reader"
        foreign = marie.post(self.PATH, data=fields, headers={"Sec-Fetch-Site": "cross-site"})
        assert foreign.status_code == 403
        assert marie.post(self.PATH, content=b"x" * 3000).status_code == 413
        assert marie.post(self.PATH, data=fields | {"verdict": "removed"}).status_code == 400
        assert marie.post(self.PATH, data=fields | {"tracking_uid": "2.25.1"}).status_code == 404
        assert marie.post("/series/99/verdict", data=fields).status_code == 404
        assert marie.get(self.PATH).status_code == 405
        assert node.rows() == []
        marie.post(self.PATH, data=fields, headers={"Sec-Fetch-Site": "same-origin"})
        assert len(node.rows()) == 1

    def test_the_command_sets_a_readers_password(self, node: Node, tmp_path: Path) -> None:
        config = tmp_path / "node.yaml"
        config.write_text(f"data_dir: {node.settings.data_dir}\nconsole:\n  readers: [marie]\n")
        command = ["console", "password", "--generate", "--config", str(config), "--user"]
        made = CliRunner().invoke(app, [*command, "marie"])
        assert made.output.startswith("user marie, password ")
        client = node.bench.client()
        client.auth = ("marie", made.output.split()[-1])
        assert client.get("/").status_code == 200
        assert "no user of the console" in str(CliRunner().invoke(app, [*command, "irene"]).exception)


def test_verdicts_that_can_be_compared() -> None:
    from node.feedback_rows import agrees

    told = [
        ("present", "present", True), ("present", "removed", False), ("absent", "removed", True),
        ("absent", "present", False), ("undetermined", "present", None), ("present", "undetermined", None),
        ("", "rejected", None), ("no operating point", "absent", None),
    ]  # fmt: skip
    for ours, theirs, expected in told:
        assert agrees(Feedback(verdict=ours, reader_verdict=theirs)) is expected
    assert {verdict.value for verdict in ReaderVerdict} >= {theirs for _, theirs, _ in told}
