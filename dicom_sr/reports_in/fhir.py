"""FHIR R4 DiagnosticReport (JSON, alone or in a Bundle) -> Report.

Own reading of a dozen elements: the typed FHIR libraries refuse a resource for any element that is not as the
specification has it, and a report that is a little wrong is still a report.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from pydicom.sr.coding import Code

from config import Reason
from dicom_sr.reports_in import pdf, text, times
from dicom_sr.reports_in.parts import (
    PRESENCES,
    CodedFinding,
    ObserverKind,
    Presence,
    Report,
    ReportError,
    Section,
    SourceKind,
    Status,
)

Json: TypeAlias = Mapping[str, Any]

_STATUSES = {
    "registered": Status.PRELIMINARY, "partial": Status.PRELIMINARY, "preliminary": Status.PRELIMINARY,
    "final": Status.FINAL, "amended": Status.CORRECTED, "corrected": Status.CORRECTED, "appended": Status.CORRECTED,
}  # fmt: skip
_VOID = frozenset({"cancelled", "entered-in-error"})
_SCHEMES = {
    "http://snomed.info/sct": "SCT",
    "http://loinc.org": "LN",
    "http://dicom.nema.org/resources/ontology/DCM": "DCM",
    "http://radlex.org": "RADLEX",
    "http://www.radlex.org": "RADLEX",
}
_PEOPLE = frozenset({"Practitioner", "PractitionerRole"})
_UID_SYSTEM, _OID = "urn:dicom:uid", "urn:oid:"


def read(data: bytes) -> Report:
    """What the resource says. Raises ReportError."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ReportError(Reason.REPORT_DAMAGED, "JSON that is not well-formed") from error
    resources = _Resources(parsed)
    report = resources.report
    status = str(report.get("status", ""))
    if status in _VOID:
        raise ReportError(Reason.NOT_A_REPORT, "its status says that it does not count")
    observations = [
        found
        for reference in _dicts(report, "result")
        if (found := resources.resolve(reference)).get("resourceType") == "Observation"
        and found.get("status") not in _VOID
    ]
    observer, name = _observer(report, resources)
    sections = [*_conclusion(report), *_forms(report), *_told(observations)]
    if not sections and isinstance(report.get("text"), dict):
        sections = text.split("", text.plain(text.html_to_text(str(report["text"].get("div", "")))))
    return Report(
        source=SourceKind.FHIR,
        status=_STATUSES.get(status, Status.PRELIMINARY),
        study_instance_uid=_study(report, resources),
        accession_number=_accession(report, resources),
        patient_id=_patient(report, resources),
        document_id=str(report.get("id", "")),
        issued=times.iso(str(report.get("issued") or report.get("effectiveDateTime") or "")),
        examined=times.day(times.iso(_effective(report))),
        language=str(report.get("language", "")),
        title=_meaning(report.get("code")),
        sections=tuple(sections),
        findings=tuple(_findings(report, observations)),
        observer=observer,
        observer_name=name,
    )


class _Resources:
    """The report, and what it refers to: contained in it, or beside it in its Bundle."""

    def __init__(self, parsed: Any) -> None:
        """Raises ReportError if there is not exactly one report."""
        entries = [parsed]
        self._by_url: dict[str, Json] = {}
        if isinstance(parsed, dict) and parsed.get("resourceType") == "Bundle":
            entries = []
            for entry in _dicts(parsed, "entry"):
                resource = entry.get("resource")
                if isinstance(resource, dict):
                    entries.append(resource)
                    self._by_url[str(entry.get("fullUrl"))] = resource
                    self._by_url[f"{resource.get('resourceType')}/{resource.get('id')}"] = resource
        reports = [one for one in entries if isinstance(one, dict) and one.get("resourceType") == "DiagnosticReport"]
        if len(reports) != 1:
            raise ReportError(Reason.NOT_A_REPORT, "JSON without exactly one DiagnosticReport")
        self.report: Json = reports[0]
        self._by_url |= {f"#{one.get('id')}": one for one in _dicts(self.report, "contained")}

    def resolve(self, reference: Json) -> Json:
        """What a Reference refers to; empty if it is not here."""
        return self._by_url.get(str(reference.get("reference")), {})

    def identifiers(self, reference: Json) -> list[Json]:
        """Of a Reference itself, and of what it refers to."""
        own = reference.get("identifier")
        return [*([own] if isinstance(own, dict) else []), *_dicts(self.resolve(reference), "identifier")]

    def kind(self, reference: Json) -> str:
        """The type of what it refers to, as far as it is told."""
        told = str(reference.get("reference", ""))
        resolved = str(self.resolve(reference).get("resourceType", ""))
        return resolved or str(reference.get("type", "")) or (told.split("/")[-2] if "/" in told else "")


def _dicts(parent: Json, key: str) -> list[Json]:
    """The objects under a key, be it a list (as FHIR has it) or a single one."""
    value = parent.get(key)
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]


def _codings(concept: Any) -> list[Json]:
    return _dicts(concept, "coding") if isinstance(concept, dict) else []


def _code(concept: Any) -> Code | None:
    """The best code of a CodeableConcept: SNOMED CT before others."""
    ranked = sorted(_codings(concept), key=lambda coding: _SCHEMES.get(str(coding.get("system"))) != "SCT")
    for coding in ranked:
        if coding.get("code"):
            system = str(coding.get("system", ""))
            meaning = str(coding.get("display") or concept.get("text") or "")
            return Code(str(coding["code"]), _SCHEMES.get(system, system), meaning)
    return None


def _meaning(concept: Any) -> str:
    if not isinstance(concept, dict):
        return ""
    return str(concept.get("text") or next((c["display"] for c in _codings(concept) if c.get("display")), ""))


def _effective(report: Json) -> str:
    """`effectiveDateTime`, or the start of `effectivePeriod`."""
    period = next(iter(_dicts(report, "effectivePeriod")), {})
    return str(report.get("effectiveDateTime") or period.get("start") or "")


def _study(report: Json, resources: _Resources) -> str:
    for reference in (*_dicts(report, "imagingStudy"), *_dicts(report, "study")):
        for identifier in resources.identifiers(reference):
            value = str(identifier.get("value", ""))
            if identifier.get("system") == _UID_SYSTEM or value.startswith(_OID):
                return value.removeprefix(_OID)
    return ""


def _accession(report: Json, resources: _Resources) -> str:
    """An identifier of type ACSN (table 0203) of the report, its order or its study; else that of its one order."""
    orders = [i for one in _dicts(report, "basedOn") for i in resources.identifiers(one)]
    studies = [i for one in _dicts(report, "imagingStudy") for i in resources.identifiers(one)]
    for identifier in (*_dicts(report, "identifier"), *orders, *studies):
        if any(coding.get("code") == "ACSN" for coding in _codings(identifier.get("type"))):
            return str(identifier.get("value", ""))
    return str(orders[0].get("value", "")) if len(orders) == 1 else ""


def _patient(report: Json, resources: _Resources) -> str:
    found = [i for one in _dicts(report, "subject") for i in resources.identifiers(one)]
    typed = [i for i in found if any(coding.get("code") == "MR" for coding in _codings(i.get("type")))]
    return next((str(one.get("value", "")) for one in (*typed, *found)), "")


def _observer(report: Json, resources: _Resources) -> tuple[ObserverKind | None, str]:
    references = [*_dicts(report, "resultsInterpreter"), *_dicts(report, "performer")]
    for reference in references:
        if resources.kind(reference) in _PEOPLE:
            names = _dicts(resources.resolve(reference), "name")
            told = names[0].get("text") or names[0].get("family") if names else reference.get("display")
            return ObserverKind.PERSON, str(told or "")
    if any(resources.kind(reference) == "Device" for reference in references):
        return ObserverKind.DEVICE, ""
    return None, ""


def _conclusion(report: Json) -> list[Section]:
    said = text.plain(str(report.get("conclusion") or ""))
    return [Section("Conclusion", said)] if said else []


def _forms(report: Json) -> Iterator[Section]:
    """The whole report as it was issued: text, HTML, RTF or PDF; other forms are left out."""
    for form in _dicts(report, "presentedForm"):
        if not form.get("data"):
            continue
        kind = str(form.get("contentType", "")).split(";")[0].strip().lower()
        try:
            data = base64.b64decode("".join(str(form["data"]).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ReportError(Reason.REPORT_DAMAGED, "a presentedForm that is not base64") from error
        if kind == "application/pdf" or data.startswith(b"%PDF"):
            yield from pdf.sections(data)
        elif kind.startswith("text/") or kind in ("application/rtf", "application/xhtml+xml"):
            yield from text.split(str(form.get("title", "")), text.plain(text.decode(data)))


def _told(observations: list[Json]) -> Iterator[Section]:
    """Observations in words: their values and notes."""
    for one in observations:
        lines = [_value(one), *(f"{_meaning(c.get('code'))}: {_value(c)}" for c in _dicts(one, "component"))]
        lines += [str(note.get("text", "")) for note in _dicts(one, "note")]
        yield from text.split(_meaning(one.get("code")), text.plain("\n".join(line for line in lines if line)))


def _value(observation: Json) -> str:
    if "valueString" in observation:
        return str(observation["valueString"])
    if isinstance(observation.get("valueBoolean"), bool):
        return "yes" if observation["valueBoolean"] else "no"
    quantity = observation.get("valueQuantity")
    if isinstance(quantity, dict):
        return f"{quantity.get('value', '')} {quantity.get('unit') or quantity.get('code') or ''}".strip()
    return _meaning(observation.get("valueCodeableConcept"))


def _findings(report: Json, observations: list[Json]) -> Iterator[CodedFinding]:
    for concept in _dicts(report, "conclusionCode"):
        if (code := _code(concept)) is not None:
            yield CodedFinding(code)
    for one in observations:
        asked, value = _code(one.get("code")), _code(one.get("valueCodeableConcept"))
        site = _code(one.get("bodySite"))
        said = one.get("valueBoolean")
        if asked is not None and isinstance(said, bool):
            yield CodedFinding(asked, Presence.PRESENT if said else Presence.ABSENT, site)
        elif asked is not None and value is not None and value.value in PRESENCES:
            yield CodedFinding(asked, PRESENCES[value.value], site)
        elif value is not None:
            yield CodedFinding(value, Presence.PRESENT, site)
