"""What messages say, in each form: read back by somebody else's parser or by the project's own reader of reports."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import hl7
import pytest
from fhir.resources.R4B.bundle import Bundle

from config import Reason, Settings
from config.message_settings import Hl7Destination, Level
from dicom_sr import TEST_MARKER
from dicom_sr.reports_in import hl7 as reports_hl7
from dicom_sr.reports_in.parts import ObserverKind, Presence, Status
from fvlm.reading import Verdict
from node.messages import content as contents
from node.messages.content import Content, Model, Told, Whom
from node.messages.fhir import bundle
from node.messages.hl7_message import compose
from node.messages.rows import Kind
from node.messages.webhook import payload

WHOM = Whom("2.25.11", "2.25.12", "ACC&7", "PAT^9", "St. Elsewhere|1")
CONTENT = Content(
    job=17,
    thread="ab" * 16,
    analysed_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    model=Model("fVLM", "3", "d" * 64),
    test_only=False,
    findings=(
        Told("lung.pneumothorax", 0.97, Verdict.PRESENT, 0.5, True, True),
        Told("lung.nodule", 0.75, Verdict.PRESENT, 0.5, False, False),
        Told("lung.emphysema", 0.4, Verdict.UNDETERMINED, 0.5, False, False),
        Told("lung.mass", 0.3, Verdict.NO_OPERATING_POINT, None, False, False),
        Told("lung.atelectasis", 0.01, Verdict.ABSENT, 0.5, False, False),
    ),
    not_assessed=(("liver", Reason.ANATOMY_CUT_OFF),),
    whom=WHOM,
)
RIS = Hl7Destination(kind="hl7", host="ris", port=2575, application="RIS|1")


def test_the_mark_of_a_test_model_is_that_of_the_objects() -> None:
    assert contents.TEST_MODEL == TEST_MARKER


def test_a_row_holds_all_of_it() -> None:
    assert Content.from_json(CONTENT.to_json()) == CONTENT


@pytest.mark.parametrize(
    ("level", "left"),
    [
        (Level.NONE, Whom()),
        (Level.IDENTIFIERS, Whom("2.25.11", "2.25.12", "ACC&7")),
        (Level.PATIENT, WHOM),
    ],
)
def test_each_level_lets_out_what_it_says(level: Level, left: Whom) -> None:
    assert CONTENT.at(level).whom == left


def test_hl7_is_read_back_as_a_preliminary_report_of_a_device() -> None:
    text = compose(RIS, "0123456789abcdef" * 2, Kind.RESULT, CONTENT)
    report = reports_hl7.read(text.encode())
    assert report.status is Status.PRELIMINARY
    assert report.observer is ObserverKind.DEVICE
    assert (report.patient_id, report.accession_number) == ("PAT^9", "ACC&7")
    assert report.study_instance_uid == "2.25.11"
    assert report.document_id == "0123456789abcdef0123"
    stated = {found.code.meaning: found.presence for found in report.findings if found.code.value}
    assert stated["Pneumothorax"] is Presence.PRESENT
    assert stated["Atelectasis"] is Presence.ABSENT


def test_hl7_has_its_fields_where_they_belong() -> None:
    message = hl7.parse(compose(RIS, "0123456789abcdef" * 2, Kind.URGENT, CONTENT))
    header, order = message.segment("MSH"), message.segment("OBR")
    assert (str(header(9)), str(header(12)), str(header(11))) == ("ORU^R01^ORU_R01", "2.5.1", "P")
    assert str(header(5)) == r"RIS\F\1"
    assert str(order(25)) == "P"
    assert str(message.segment("TQ1")(9)).startswith("S")
    observations = [one for one in message if str(one(0)) == "OBX"]
    assert {str(one(11)) for one in observations} == {"P"}
    assert [str(one(1)) for one in observations] == [str(n) for n in range(1, len(observations) + 1)]
    keys = [(str(one(3)), str(one(4))) for one in observations]
    assert len(set(keys)) == len(keys)
    flagged = [str(one(8)) for one in observations if str(one(4)) == "1"]
    assert flagged == ["AA", "AA"]
    assert "AI, not verified" in str(observations[0](5))


def test_without_the_patient_level_there_is_no_pid() -> None:
    text = compose(RIS, "ab" * 16, Kind.RESULT, CONTENT.at(Level.NONE))
    assert "\rPID|" not in text
    assert not any(planted in text for planted in ("2.25.11", "2.25.12", "ACC", "PAT"))
    assert "\rTQ1|" not in text


def test_a_test_model_says_so_in_every_form() -> None:
    test = replace(CONTENT, test_only=True)
    text = compose(RIS, "ab" * 16, Kind.RESULT, test)
    assert TEST_MARKER in text
    assert str(hl7.parse(text).segment("MSH")(11)) == "T"
    assert payload("id", Kind.RESULT, test)["test_model"] == TEST_MARKER
    made = bundle(Kind.RESULT, test)
    assert all(TEST_MARKER in str(entry["resource"]) for entry in made["entry"])
    assert all(entry["resource"]["meta"]["security"][0]["code"] == "HTEST" for entry in made["entry"])


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.URGENT])
def test_fhir_is_valid_and_preliminary(level: Level, kind: Kind) -> None:
    """Against the models of fhir.resources for R4B, which has DiagnosticReport, Observation, Device, Task as R4 has."""
    made = bundle(kind, CONTENT.at(level))
    checked = Bundle.model_validate(made)
    resources: list[Any] = [entry.resource for entry in checked.entry]
    kinds = [resource.get_resource_type() for resource in resources]
    assert kinds.count("Observation") == len(CONTENT.findings)
    assert kinds.count("DiagnosticReport") == kinds.count("Device") == 1
    assert kinds.count("Task") == (kind is Kind.URGENT)
    assert {one.status for one in resources if hasattr(one, "issued")} == {"preliminary"}
    names = {f"{one.get_resource_type()}/{one.id}" for one in resources}
    assert {entry.request.url for entry in checked.entry} == names
    report = next(one for one in resources if one.get_resource_type() == "DiagnosticReport")
    assert {one.reference for one in report.result} <= names
    assert "Not assessed: Liver (ANATOMY_CUT_OFF)" in report.conclusion
    text = str(made)
    assert ("2.25.11" in text, "PAT^9" in text) == (level is not Level.NONE, level is Level.PATIENT)


def test_fhir_ids_are_the_same_for_a_newer_reading_of_the_series() -> None:
    newer = replace(CONTENT, job=18, analysed_at=datetime(2026, 3, 5, tzinfo=UTC))
    urls = [[entry["request"]["url"] for entry in bundle(Kind.RESULT, one)["entry"]] for one in (CONTENT, newer)]
    assert urls[0] == urls[1]
    assert all(len(url.split("/")[1]) <= 64 for url in urls[0])


def test_a_webhook_says_it_in_plain_json() -> None:
    told = payload("id", Kind.RESULT, CONTENT.at(Level.NONE))
    assert (told["type"], told["status"], told["notice"], told["test_model"]) == (
        "fvlm.result",
        "preliminary",
        "AI, not verified",
        None,
    )
    assert told["findings"][0] == {
        "finding": "lung.pneumothorax",
        "code": {"value": "36118008", "scheme": "SCT", "meaning": "Pneumothorax"},
        "verdict": "present",
        "probability": 0.97,
        "threshold": 0.5,
        "calibrated": True,
        "urgent": True,
    }
    assert told["not_assessed"] == [{"anatomy": "liver", "reason": "ANATOMY_CUT_OFF"}]
    assert told["study"] == {}
    assert payload("id", Kind.RESULT, CONTENT)["study"]["accession_number"] == "ACC&7"


HOOK = {"kind": "webhook", "url": "https://hook.example.org/", "secret": "env:HOOK"}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ({"destinations": {"a": {**HOOK, "url": "http://hook.example.org/"}}}, "use https"),
        ({"destinations": {"a": {**HOOK, "secret": ""}}}, "at least 1 character"),
        ({"destinations": {"a": {**HOOK, "secret": "the secret itself"}}}, "match pattern"),
        ({"results": ["b"]}, "b not under `messages.destinations`"),
        ({"destinations": {"a": HOOK}, "urgent": {"findings": {"lung.nodul": 0.5}, "destinations": ["a"]}}, "no such"),
        ({"destinations": {"a": HOOK}, "urgent": {"destinations": ["a"]}}, "give `findings` and `destinations`"),
        (
            {
                "destinations": {"m": {"kind": "mail", "host": "x", "sender": "a@b", "recipients": ["c@d"]}},
                "results": ["m"],
            },
            "failures only",
        ),
        ({"destinations": {"a": {"kind": "fhir", "base_url": "https://f/r4", "user": "u"}}}, "give `user` and"),
        ({"destinations": {"a b": HOOK}}, "match pattern"),
        ({"destinations": {"a": {**HOOK, "kind": "fax"}}}, "kind"),
    ],
)
def test_wrong_settings_are_refused_with_a_cure(messages: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings(messages=messages)
