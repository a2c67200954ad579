"""HL7 CDA Release 2 (and PS3.20 imaging reports) -> Report. Document types and entities are refused (defusedxml)."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
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

_V3 = {"v3": "urn:hl7-org:v3", "dicom": "urn:dicom-org:ps3-20"}
_SCHEMES = {
    "2.16.840.1.113883.6.96": "SCT",
    "2.16.840.1.113883.6.1": "LN",
    "1.2.840.10008.2.16.4": "DCM",
    "2.16.840.1.113883.6.256": "RADLEX",
}
"""Code systems by OID (PS3.16 section 8); others are named by their OID."""
_BLOCKS = frozenset({"paragraph", "br", "item", "tr", "table", "list", "caption"})
_STUDY_INSTANCE_UID = "113014"


@dataclass(frozen=True)
class _Document:
    root: Element

    def all(self, path: str) -> list[Element]:
        return self.root.findall(path, _V3)

    def attribute(self, path: str, name: str) -> str:
        """Of the first element there that has it."""
        return next((value for one in self.all(path) if (value := one.get(name, "").strip())), "")


def read(data: bytes) -> Report:
    """What the document says. Raises ReportError."""
    try:
        root = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise ReportError(Reason.REPORT_UNSAFE, "XML with a document type or entities") from error
    except (ParseError, ValueError, LookupError) as error:
        raise ReportError(Reason.REPORT_DAMAGED, "XML that is not well-formed") from error
    if root.tag != f"{{{_V3['v3']}}}ClinicalDocument":
        raise ReportError(Reason.NOT_A_REPORT, "XML, but no CDA")
    document = _Document(root)
    person = document.all("v3:author/v3:assignedAuthor/v3:assignedPerson") or document.all(
        "v3:legalAuthenticator/v3:assignedEntity/v3:assignedPerson"
    )
    device = document.all("v3:author/v3:assignedAuthor/v3:assignedAuthoringDevice")
    return Report(
        source=SourceKind.CDA,
        status=_status(document),
        study_instance_uid=_study(document),
        accession_number=document.attribute("v3:inFulfillmentOf/v3:order/dicom:accessionNumber", "extension")
        or document.attribute("v3:inFulfillmentOf/v3:order/v3:id", "extension"),
        patient_id=document.attribute("v3:recordTarget/v3:patientRole/v3:id", "extension"),
        document_id=document.attribute("v3:id", "extension") or document.attribute("v3:id", "root"),
        issued=times.compact(document.attribute("v3:effectiveTime", "value")),
        examined=times.day(times.compact(_service_time(document))),
        language=document.attribute("v3:languageCode", "code"),
        title=_joined(document.all("v3:title")),
        sections=tuple(_sections(document)),
        findings=tuple(_findings(root)),
        observer=ObserverKind.PERSON if person else ObserverKind.DEVICE if device else None,
        observer_name=text.plain(" ".join(" ".join(one.itertext()) for one in person[:1])).replace("\n", " "),
    )


def _service_time(document: _Document) -> str:
    """When what is documented was done, or began."""
    where = "v3:documentationOf/v3:serviceEvent/v3:effectiveTime"
    return document.attribute(where, "value") or document.attribute(f"{where}/v3:low", "value")


def _status(document: _Document) -> Status:
    if any(one.get("typeCode") in ("RPLC", "APND") for one in document.all("v3:relatedDocument")):
        return Status.CORRECTED
    signed = document.all("v3:legalAuthenticator") or document.all("v3:authenticator")
    return Status.FINAL if signed else Status.PRELIMINARY


def _study(document: _Document) -> str:
    """From the service event, or from the act of the DICOM object catalog (PS3.20 section 9.8.11)."""
    for act in document.all(".//v3:act"):
        code, identifier = act.find("v3:code", _V3), act.find("v3:id", _V3)
        if code is not None and identifier is not None and code.get("code") == _STUDY_INSTANCE_UID:
            return identifier.get("root", "")
    return document.attribute("v3:documentationOf/v3:serviceEvent/v3:id", "root")


def _sections(document: _Document) -> Iterator[Section]:
    for section in document.all(".//v3:section"):
        written = "\n".join(_narrative(one) for one in section.findall("v3:text", _V3))
        yield from text.split(_joined(section.findall("v3:title", _V3)), text.plain(written))
    for body in document.all("v3:component/v3:nonXMLBody/v3:text"):
        yield from _encapsulated(body)


def _encapsulated(body: Element) -> list[Section]:
    kind, content = body.get("mediaType", "text/plain").lower(), "".join(body.itertext())
    if body.get("representation") != "B64":
        return text.split("", text.plain(content))
    try:
        data = base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ReportError(Reason.REPORT_DAMAGED, "a body that is not base64") from error
    return pdf.sections(data) if kind == "application/pdf" else text.split("", text.plain(text.decode(data)))


def _joined(elements: list[Element]) -> str:
    return text.plain(" ".join("".join(one.itertext()) for one in elements)).replace("\n", " ")


def _narrative(element: Element) -> str:
    """The text of a narrative block, a line a paragraph, item or row (CDA R2 section 4.3.5)."""
    tag = element.tag.rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""
    inner = (element.text or "").replace("\n", " ")
    for child in element:
        inner += _narrative(child) + (child.tail or "").replace("\n", " ")
    if tag in _BLOCKS:
        return f"\n{inner}\n"
    return f"{inner}\t" if tag in ("td", "th") else inner


def _findings(root: Element) -> Iterator[CodedFinding]:
    """Observations whose value is a code."""
    for observation in root.iterfind(".//v3:observation", _V3):
        value = observation.find("v3:value", _V3)
        if value is None or not value.get("code"):
            continue
        site = observation.find("v3:targetSiteCode", _V3)
        absent = observation.get("negationInd") == "true"
        asked, answer = observation.find("v3:code", _V3), PRESENCES.get(value.get("code", ""))
        if answer is not None and asked is not None and asked.get("code"):
            negated = {Presence.PRESENT: Presence.ABSENT, Presence.ABSENT: Presence.PRESENT}
            presence = negated.get(answer, answer) if absent else answer
            yield CodedFinding(_code(asked), presence, _code(site) if site is not None else None)
            continue
        yield CodedFinding(
            _code(value), Presence.ABSENT if absent else Presence.PRESENT, _code(site) if site is not None else None
        )


def _code(element: Element) -> Code:
    system = element.get("codeSystem", "")
    return Code(element.get("code", ""), _SCHEMES.get(system, system), element.get("displayName", ""))
