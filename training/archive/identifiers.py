"""Who is named: names, numbers, addresses and days that must not be found in a scrubbed text, from headers of any kind.

Everything here is wide on purpose: what is collected too much costs a word of the text, what is missed is a leak.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring
from pydicom import DataElement, Dataset, dcmread

_NUMBERS = (
    "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "ServiceEpisodeID", "PatientAddress",
    "PatientTelephoneNumbers", "PatientTelecomInformation", "PatientInsurancePlanCodeSequence", "MedicalRecordLocator",
    "MilitaryRank", "InstitutionName", "InstitutionAddress", "StationName", "DeviceSerialNumber", "PersonAddress",
    "PersonTelephoneNumbers", "PerformedProcedureStepID", "RequestedProcedureID", "ScheduledProcedureStepID",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest", "CurrentPatientLocation",
    "PatientInstitutionResidence", "RegionOfResidence", "OrderCallbackPhoneNumber",
)  # fmt: skip
"""Attributes that hold numbers and places of people (PS3.15 table E.1-1)."""
_HL7_NAMES = {"PID": (5, 6, 9), "NK1": (2,), "PV1": (7, 8, 9, 17, 52), "OBR": (10, 16, 28, 32, 33, 34, 35),
              "ORC": (10, 11, 12), "OBX": (16,), "PD1": (4,), "GT1": (3,), "IN1": (16,)}  # fmt: skip
_HL7_NUMBERS = {"PID": (2, 3, 4, 11, 13, 14, 18, 19, 20), "NK1": (4, 5), "PV1": (3, 19), "OBR": (2, 3, 17, 18, 19, 20),
                "ORC": (2, 3, 14), "MSH": (4, 6), "GT1": (5, 6), "IN1": (19, 36), "IPC": (1,)}  # fmt: skip
_HL7_DAYS = {"PID": (7, 29)}
_FHIR_PEOPLE = frozenset({"subject", "performer", "resultsInterpreter", "generalPractitioner", "requester"})
_CDA_HEADER = ("recordTarget", "author", "legalAuthenticator", "authenticator", "dataEnterer", "informant",
               "custodian", "informationRecipient", "participant", "componentOf", "inFulfillmentOf")  # fmt: skip
_TITLES = frozenset(
    {"dr", "prof", "med", "md", "phd", "mr", "mrs", "ms", "miss", "herr", "frau", "jr", "sr", "ii", "iii", "iv", "von",
     "van", "de", "der", "den", "del", "della", "di", "da", "la", "le", "du", "dos", "el", "al", "und", "and", "the",
     "of", "st"}
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """What is known of the people around a study. Never shown, never logged."""

    names: frozenset[str] = field(default=frozenset(), repr=False)
    """Single parts of names of people."""
    numbers: frozenset[str] = field(default=frozenset(), repr=False)
    """Numbers, addresses, telephone numbers, institutions: to be found as a whole."""

    def __or__(self, other: "Known") -> "Known":
        return Known(self.names | other.names, self.numbers | other.numbers)

    def to_json(self) -> dict[str, list[str]]:
        return {"names": sorted(self.names), "numbers": sorted(self.numbers)}

    @classmethod
    def from_json(cls, values: dict[str, list[str]]) -> "Known":
        return cls(frozenset(values["names"]), frozenset(values["numbers"]))


def known(names: Iterable[str] = (), numbers: Iterable[str] = ()) -> Known:
    """From whole names and numbers as they stand in headers."""
    parts = {part for name in names for part in _parts(unicodedata.normalize("NFC", name))}
    texts = (" ".join(unicodedata.normalize("NFC", one).split()) for one in numbers)
    return Known(frozenset(parts), frozenset(filter(_tells, texts)))


def of_dataset(dataset: Dataset) -> Known:
    """Of a DICOM header or SR, nested items included: every value of VR PN, and the numbers of people."""
    names, numbers = list[str](), list[str]()
    for element in _elements(dataset):
        if element.VR == "PN":
            values = element.value if element.VM > 1 else [element.value]
            names += [str(one) for one in values if one]
        elif element.keyword in _NUMBERS and element.VR != "SQ" and element.value:
            values = element.value if element.VM > 1 else [element.value]
            numbers += [str(one) for one in values]
    return known(names, numbers)


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """All of a data set, nested ones too, but for those whose value breaks the rules of its VR."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # pydicom raises nearly any type on a foreign value
            continue
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)


def of_report(data: bytes) -> Known:
    """Of the file of a report, whatever kind it is. What cannot be read names nobody; it is no report either."""
    start = data[:64].lstrip(b"\xef\xbb\xbf\x0b \r\n\t")
    try:
        if data[128:132] == b"DICM":
            dataset = dcmread(BytesIO(data))
            document = bytes(dataset.get("EncapsulatedDocument") or b"").rstrip(b"\0 ")
            return of_dataset(dataset) | (of_report(document) if document else Known())
        if start.startswith(b"MSH"):
            return _of_hl7(data)
        if start.startswith(b"{"):
            return _of_json(json.loads(data))
        if start.startswith(b"<"):
            return _of_cda(fromstring(data, forbid_dtd=True))
    except Exception:  # strangers wrote it; pydicom raises nearly any type on damaged data
        return Known()
    return Known()


def _of_hl7(data: bytes) -> Known:
    names, numbers = list[str](), list[str]()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    text = text.lstrip("\ufeff\x0b \r\n\t")
    separator, marks = text[3], text[4:8]
    for line in re.split(r"[\r\n]+", text):
        fields = line.split(separator)
        if fields[0] == "MSH":
            fields = ["MSH", separator, *fields[1:]]
        for table, found in ((_HL7_NAMES, names), (_HL7_NUMBERS, numbers)):
            for number in table.get(fields[0], ()):
                if number < len(fields):
                    found += [part for part in re.split(f"[{re.escape(marks)}]", fields[number]) if part]
        for number in _HL7_NAMES.get(fields[0], ()):
            if number < len(fields):  # XCN: the number of a person stands before the name
                numbers += [one for one in re.split(f"[{re.escape(marks)}]", fields[number]) if re.search(r"\d", one)]
    return known(names, numbers)


def _of_json(value: Any) -> Known:
    names, numbers = list[str](), list[str]()
    for path, text in _leaves(value, ()):
        key, inside = path[-1], set(path)
        person = key == "display" and inside & _FHIR_PEOPLE and "type" not in inside
        if person or key in ("family", "given") or (key == "text" and "name" in inside):
            names.append(text)
        place = key in ("line", "city", "postalCode", "text") and "address" in inside
        if place or (key == "value" and inside & {"identifier", "telecom"}):
            numbers.append(text)
    return known(names, numbers)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(one, (*path, str(key)))
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one, path)
    elif isinstance(value, str) and path:
        yield path, value


def _of_cda(root: Element) -> Known:
    names, numbers = list[str](), list[str]()
    for header in root:
        if _tag(header) not in _CDA_HEADER:
            continue
        for element in header.iter():
            tag, text = _tag(element), " ".join("".join(element.itertext()).split())
            if tag in ("name", "family", "given"):
                names += [text, *("".join(part.itertext()) for part in element)]
            elif tag in ("streetAddressLine", "city", "postalCode", "addr"):
                numbers.append(text)
            elif tag == "telecom":
                numbers.append(element.get("value", "").partition(":")[2] or element.get("value", ""))
            elif tag in ("id", "accessionNumber"):
                numbers.append(element.get("extension", ""))
    return known(names, numbers)


def _tag(element: Element) -> str:
    return element.tag.rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""


def _parts(name: str) -> Iterator[str]:
    """The words of a name in any order and script: PN components and groups, hyphens, titles left out."""
    for part in re.split(r"[\^=\s,;()/\\.&]+", name):
        for word in (part, *(part.split("-") if "-" in part else ())):
            trimmed = word.strip("'’-\"")
            if len(trimmed) > 1 and trimmed.lower() not in _TITLES and not re.search(r"\d", trimmed):
                yield trimmed


def _tells(number: str) -> bool:
    """Whether a value may be looked for in a text: not so short that it stands there for something else."""
    letters = re.sub(r"\W|_", "", number)
    return len(letters) >= (4 if letters.isdigit() else 3)
