"""A message as a FHIR R4 transaction: DiagnosticReport (preliminary), an Observation a finding, the model as Device.

Every resource is PUT under an id of its own that a repetition has too, so that nothing is doubled; a newer reading of
the series takes the older one's place. Systems of codes as in FHIR's terminology page; the project's own is named by an
OID under 2.25.
"""

import json
from typing import Any

from config import Code, Reason, load_vocabulary
from config.message_settings import FhirDestination
from config.secret import SecretError, read_secret
from dicom_sr import codes
from fvlm.reading import Verdict
from node.dimse_link import AwayError
from node.messages.content import Content, Told, derived
from node.messages.guarded_http import Target, judge, post
from node.messages.rows import Kind
from node.outbox import Fate, Outcome

_LOCAL_SYSTEM = f"urn:oid:2.25.{int(derived('fvlm-node', 'codes'), 16)}"
_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "UMLS": "http://www.nlm.nih.gov/research/umls",
    "RADLEX": "http://radlex.org",
    codes.LOCAL_SCHEME: _LOCAL_SYSTEM,
}
_TEST_DATA = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}


def send(receiver: FhirDestination, kind: Kind, content: Content, timeout_s: float) -> Outcome:
    """One POST of the transaction. Raises AwayError."""
    headers = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
    try:
        if receiver.token:
            headers["Authorization"] = f"Bearer {read_secret(receiver.token)}"
        basic = (receiver.user, read_secret(receiver.password)) if receiver.user else None
    except SecretError as error:
        raise AwayError(Reason.INTERNAL, str(error)) from error
    body = json.dumps(bundle(kind, content), ensure_ascii=False).encode()
    target = Target(receiver.base_url.rstrip("/"), receiver.networks, receiver.ca_file, basic)
    answer = post(target, body, headers, timeout_s)
    outcome = judge(answer, "FHIR transaction")
    if outcome.fate is Fate.STORED and not _is_transaction_response(answer.content):
        return Outcome(Fate.AWAY, Reason.PROTOCOL_ERROR, "the answer is no FHIR transaction-response; check base_url")
    return outcome


def bundle(kind: Kind, content: Content) -> dict[str, Any]:
    """The transaction; always the same for the same content."""
    observations = [_observation(content, told) for told in content.findings]
    resources = [_device(content), *observations, _report(content, observations)]
    if kind is Kind.URGENT:
        resources.append(_task(content))
    return {"resourceType": "Bundle", "type": "transaction", "entry": [_entry(resource) for resource in resources]}


def _entry(resource: dict[str, Any]) -> dict[str, Any]:
    where = f"{resource['resourceType']}/{resource['id']}"
    return {"resource": resource, "request": {"method": "PUT", "url": where}}


def _report(content: Content, observations: list[dict[str, Any]]) -> dict[str, Any]:
    whom = content.whom
    identifiers: list[dict[str, Any]] = [
        {"system": _LOCAL_SYSTEM, "value": content.thread},
        {"type": {"text": "Job of the node"}, "value": str(content.job)},
    ]
    if whom.accession_number:
        coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}
        identifiers.append({"type": {"coding": [coding]}, "value": whom.accession_number})
    report = _resource("DiagnosticReport", f"fvlm-r-{content.thread}", content) | {
        "identifier": identifiers,
        "status": "preliminary",
        "category": [_concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": _concept(_SYSTEMS["LN"], "25045-6", "CT Unspecified body region"),
        "issued": _instant(content),
        "conclusion": content.summary,
        "result": [_reference("Observation", one["id"]) for one in observations],
        **_subject(content),
    }
    if whom.study_instance_uid:
        named = {"system": "urn:dicom:uid", "value": f"urn:oid:{whom.study_instance_uid}"}
        report["imagingStudy"] = [{"type": "ImagingStudy", "identifier": named}]
    return report


def _observation(content: Content, told: Told) -> dict[str, Any]:
    calibrated = "calibrated" if told.calibrated else "not calibrated"
    certainty = {"value": round(100 * told.probability, 2), "unit": "%", "system": _SYSTEMS["UCUM"], "code": "%"}
    named = codes.CERTAINTY_OF_FINDING
    verdict = codes.VERDICTS.get(told.verdict)
    observation = _resource("Observation", f"fvlm-o-{derived(content.thread, told.finding)}", content) | {
        "status": "preliminary",
        "category": [_concept("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")],
        "code": _coded(load_vocabulary().finding(told.finding).code),
        "issued": _instant(content),
        "note": [{"text": f"{content.notice}. The certainty is {calibrated}."}],
        "device": _reference("Device", _device_id(content)),
        "component": [
            {
                "code": _concept(_SYSTEMS["DCM"], named.value, named.meaning),
                "valueQuantity": certainty,
            }
        ],
        **_subject(content),
    }
    if verdict is None:
        observation["dataAbsentReason"] = {"text": f"{told.verdict.capitalize()}: neither present nor absent is said"}
    else:
        observation["valueCodeableConcept"] = _concept(_SYSTEMS["SCT"], verdict.value, verdict.meaning)
    if told.urgent or told.verdict is Verdict.PRESENT:
        system = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
        flag = ("AA", "Critical abnormal") if told.urgent else ("A", "Abnormal")
        observation["interpretation"] = [_concept(system, *flag)]
    return observation


def _device(content: Content) -> dict[str, Any]:
    model = content.model
    return _resource("Device", _device_id(content), content) | {
        "identifier": [{"system": _LOCAL_SYSTEM, "value": model.digest}],
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "version": [{"value": model.version}],
        "note": [{"text": f"Artificial intelligence. {content.notice}."}],
    }


def _task(content: Content) -> dict[str, Any]:
    """What puts the study first: a request with priority stat that points at the report."""
    vocabulary = load_vocabulary()
    names = ", ".join(vocabulary.finding(told.finding).title for told in content.urgent)
    return _resource("Task", f"fvlm-t-{content.thread}", content) | {
        "status": "requested",
        "intent": "proposal",
        "priority": "stat",
        "description": f"Read first: {names}. {content.notice}.",
        "authoredOn": _instant(content),
        "focus": _reference("DiagnosticReport", f"fvlm-r-{content.thread}"),
        **({"for": subject} if (subject := _subject(content).get("subject")) else {}),
    }


def _resource(kind: str, name: str, content: Content) -> dict[str, Any]:
    meta = {"meta": {"security": [_TEST_DATA], "tag": [{"display": content.notice}]}} if content.test_only else {}
    return {"resourceType": kind, "id": name, **meta}


def _subject(content: Content) -> dict[str, Any]:
    whom = content.whom
    if not whom.patient_id:
        return {}
    issuer = {"assigner": {"display": whom.issuer_of_patient_id}} if whom.issuer_of_patient_id else {}
    return {"subject": {"type": "Patient", "identifier": {"value": whom.patient_id, **issuer}}}


def _device_id(content: Content) -> str:
    return f"fvlm-d-{derived(content.model.digest)}"


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"reference": f"{kind}/{name}"}


def _coded(code: Code) -> dict[str, Any]:
    return _concept(_SYSTEMS.get(code.scheme, f"{_LOCAL_SYSTEM}.0"), code.value, code.meaning)


def _concept(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def _instant(content: Content) -> str:
    return content.analysed_at.isoformat(timespec="seconds")


def _is_transaction_response(content: bytes) -> bool:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and (told.get("resourceType"), told.get("type")) == ("Bundle", "transaction-response")
