"""HL7 version 2 ORU^R01 -> Report.

Own reading of the little that a report needs (chapter 2: separators, escapes, character sets; chapter 7: OBR, OBX): the
libraries for HL7 v2 check messages against their version or leave escapes and character sets to the caller; messages
of the field keep to no version, and a report that is a little wrong is still a report.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pydicom.sr.coding import Code

from config import Reason
from dicom_sr.reports_in import pdf, text, times
from dicom_sr.reports_in.parts import (
    PRESENCES,
    CodedFinding,
    ObserverKind,
    Report,
    ReportError,
    Section,
    SourceKind,
    Status,
)

_ENCODINGS = {
    "": "", "ASCII": "ascii", "UNICODE UTF-8": "utf-8", "UNICODE": "utf-8", "UTF-8": "utf-8", "UTF8": "utf-8",
    "UNICODE UTF-16": "utf-16", "ISO IR14": "iso2022_jp", "ISO IR87": "iso2022_jp", "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030", "KS X 1001": "euc_kr", "BIG-5": "big5", "CNS 11643-1992": "euc_tw",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}  # fmt: skip
"""HL7 table 0211 -> Python."""
_STATUSES = {
    "F": Status.FINAL, "C": Status.CORRECTED, "P": Status.PRELIMINARY, "R": Status.PRELIMINARY,
    "S": Status.PRELIMINARY, "A": Status.PRELIMINARY, "I": Status.PRELIMINARY,
}  # fmt: skip
"""Table 0123, result status of OBR-25."""
_VOID = frozenset({"D", "X", "W", "N"})
"""OBX-11 (table 0085) of what was deleted, cannot be had, is another patient's or was not asked."""
_SUFFIXES = {"IMP": "Impression", "GDT": "Findings", "REC": "Recommendation", "ADT": "Addendum"}
"""OBX-3 suffixes (chapter 7, observation identifier suffixes)."""
_STUDY_INSTANCE_UID = frozenset({"113014", "STUDYINSTANCEUID", "STUDY INSTANCE UID"})
_SCHEMES = {"SCT": "SCT", "SNM": "SCT", "SNOMED-CT": "SCT", "LN": "LN", "LOINC": "LN", "DCM": "DCM"}
_MESSAGE = re.compile(rb"^MSH", re.MULTILINE)


@dataclass(frozen=True)
class _Separators:
    """MSH-1 and MSH-2."""

    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str

    def unescape(self, value: str) -> str:
        r"""`\F\ \S\ \T\ \R\ \E\`, `\Xdd..\`, and the formatting commands of FT as line breaks or nothing."""
        if not self.escape or self.escape not in value:
            return value
        mark = re.escape(self.escape)
        return re.sub(f"{mark}([^{mark}\r\n]{{1,400}}){mark}", self._escaped, value)

    def _escaped(self, found: re.Match[str]) -> str:
        code = found[1]
        known = {"F": self.field, "S": self.component, "T": self.subcomponent, "R": self.repetition, "E": self.escape}
        if code in known:
            return known[code]
        if code.startswith("X") and re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", code):
            return text.decode(bytes.fromhex(code[1:]))
        command = re.fullmatch(r"\.(br|sp|fi|nf|in|ti|sk|ce)\s*([+-]?\d{0,3})", code)
        if command is None:
            return ""  # highlighting, character set switches, local escapes
        if command[1] in ("br", "ce", "sp"):
            return "\n" * max(1, min(int(command[2] or 1), 10)) if command[1] == "sp" else "\n"
        return " " if command[1] == "sk" else ""


class _Segment:
    """One segment; fields counted as HL7 does (MSH-1 is the field separator itself)."""

    def __init__(self, line: str, separators: _Separators) -> None:
        self._separators = separators
        fields = line.split(separators.field)
        self.name = fields[0]
        self._fields = [self.name, separators.field, *fields[1:]] if self.name == "MSH" else fields

    def raw(self, field: int) -> str:
        return self._fields[field] if field < len(self._fields) else ""

    def repetitions(self, field: int) -> list[str]:
        value = self.raw(field)
        return value.split(self._separators.repetition) if value else []

    def components(self, field: int) -> list[str]:
        """Of the first repetition, unescaped."""
        first = next(iter(self.repetitions(field)), "")
        return [self._separators.unescape(part) for part in first.split(self._separators.component)]

    def component(self, field: int, number: int = 1) -> str:
        parts = self.components(field)
        return parts[number - 1].strip() if number <= len(parts) else ""

    def identifier(self, field: int) -> str:
        """The medical record number (CX.5 `MR`) among several identifiers, else the first."""
        parts = [one.split(self._separators.component) for one in self.repetitions(field)]
        chosen = next((one for one in parts if len(one) > 4 and one[4] == "MR"), parts[0] if parts else [""])
        return self._separators.unescape(chosen[0]).strip()

    def written(self, field: int) -> str:
        """The whole field as text: a line a repetition."""
        return "\n".join(self._separators.unescape(one) for one in self.repetitions(field))


def read(data: bytes) -> Report:
    """What the message says. Raises ReportError."""
    segments = _segments(data)
    header = segments[0]
    if header.component(9) != "ORU" or header.component(9, 2) not in ("R01", "W01", "R30", "R32", ""):
        raise ReportError(Reason.NOT_A_REPORT, "an HL7 message, but no ORU^R01")
    observations = [one for one in segments if one.name == "OBX" and one.component(11) not in _VOID]
    order = next((one for one in segments if one.name == "OBR"), None)
    patient = next((one for one in segments if one.name == "PID"), None)
    orders = {_accession(one, segments) for one in segments if one.name == "OBR"}
    if sum(one.name == "PID" for one in segments) > 1 or len(orders) > 1:
        raise ReportError(Reason.NOT_A_REPORT, "reports of several patients or orders: the message has to be split")
    person, name = _interpreter(order, observations)
    device = any(one.raw(18) for one in observations)
    return Report(
        source=SourceKind.HL7,
        status=_status(order, observations),
        study_instance_uid=_study(segments),
        accession_number=_accession(order, segments),
        patient_id=patient.identifier(3) if patient else "",
        document_id=header.component(10),
        issued=_issued(header, order),
        examined=times.day(times.compact(order.component(7))) if order else None,
        language=header.component(19),
        title=(order.component(4, 2) or order.component(4)) if order else "",
        sections=tuple(_sections(observations)),
        findings=tuple(_findings(observations)),
        observer=ObserverKind.PERSON if person else ObserverKind.DEVICE if device else None,
        observer_name=name,
    )


def _segments(data: bytes) -> list[_Segment]:
    data = data.strip(b"\x0b\x1c\r\n \t\0").removeprefix(b"\xef\xbb\xbf")
    if len(_MESSAGE.findall(data.replace(b"\r", b"\n"))) != 1 or not data.startswith(b"MSH") or len(data) < 8:
        raise ReportError(Reason.NOT_A_REPORT, "not one HL7 message: a batch has to be split")
    head = data[:8].decode("latin-1")
    field, marks = head[3], head[4:8].split(head[3])[0].ljust(4, "\0")
    separators = _Separators(field, *marks)
    if field.isalnum() or not field.isprintable() or "\0" in marks[:1]:
        raise ReportError(Reason.REPORT_DAMAGED, "MSH-1 and MSH-2 name no separators")
    whole = _decoded(data, separators)
    lines = [line for line in re.split(r"[\r\n]+", whole) if line.strip()]
    return [_Segment(line, separators) for line in lines]


def _decoded(data: bytes, separators: _Separators) -> str:
    """The message in the character set that MSH-18 names first; without one UTF-8 or Windows-1252."""
    first_line = re.split(rb"[\r\n]", data, maxsplit=1)[0].decode("latin-1")
    named = _Segment(first_line, separators).repetitions(18)
    encoding = _ENCODINGS.get(named[0].strip().upper() if named else "")
    if encoding is None:
        raise ReportError(Reason.REPORT_DAMAGED, "MSH-18 names a character set that nobody knows")
    if any("IR87" in one or "IR159" in one for one in named):
        encoding = "iso2022_jp_2"
    try:
        return data.decode(encoding) if encoding else text.decode(data)
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("utf-8")  # what senders name is often not what they write
    except UnicodeDecodeError as error:
        raise ReportError(Reason.REPORT_DAMAGED, "it is not in the character set that MSH-18 names") from error


def _status(order: _Segment | None, observations: list[_Segment]) -> Status:
    told = {one.component(11) for one in observations}
    if "C" in told:
        return Status.CORRECTED
    asked = order.component(25) if order else ""
    if asked in _STATUSES:
        return _STATUSES[asked]
    if asked == "X":
        raise ReportError(Reason.NOT_A_REPORT, "the order was cancelled: there is no result")
    return Status.FINAL if told and told <= {"F"} else Status.PRELIMINARY


def _study(segments: list[_Segment]) -> str:
    for one in segments:
        if one.name == "ZDS":
            return one.component(1)
        if one.name == "IPC" and one.component(3):
            return one.component(3)
        if one.name == "OBX" and {one.component(3).upper(), one.component(3, 2).upper()} & _STUDY_INSTANCE_UID:
            return one.component(5)
    return ""


def _accession(order: _Segment | None, segments: list[_Segment]) -> str:
    """IPC-1, else OBR-18 or OBR-20 (where worklist systems put it), else the filler's order number."""
    imaging = next((one.component(1) for one in segments if one.name == "IPC"), "")
    fields = [order.component(number) for number in (18, 20, 3)] if order else []
    return next((value for value in (imaging, *fields) if value), "")


def _issued(header: _Segment, order: _Segment | None) -> datetime | None:
    fields = [order.component(22), order.component(7)] if order else []
    return next((found for value in (*fields, header.component(7)) if (found := times.compact(value))), None)


def _interpreter(order: _Segment | None, observations: list[_Segment]) -> tuple[bool, str]:
    """Whether a person is named as interpreter (OBR-32) or responsible observer (OBX-16), and who."""
    sources = [(order, 32)] if order else []
    for segment, field in [*sources, *((one, 16) for one in observations)]:
        if segment is not None and (told := " ".join(part for part in segment.components(field) if part).strip()):
            return True, told
    return False, ""


def _sections(observations: list[_Segment]) -> Iterator[Section]:
    """Consecutive text under the same identifier (OBX-3) is one section."""
    title, lines = "", list[str]()
    for one in observations:
        kind, heading = one.raw(2), _heading(one)
        if kind in ("ED", "RP") or heading != title:
            yield from text.split(title, text.plain("\n".join(lines)))
            title, lines = heading, []
        if kind == "ED":
            yield from _encapsulated(one)
        elif kind in ("TX", "FT", "ST", ""):
            lines.append(one.written(5))
        elif kind in ("NM", "SN"):
            lines.append(f"{one.component(5)} {one.component(6)}".strip())
        elif kind in ("CE", "CWE", "CF", "CNE"):
            lines.append(one.component(5, 2) or one.component(5))
    yield from text.split(title, text.plain("\n".join(lines)))


def _heading(observation: _Segment) -> str:
    code, meaning = observation.component(3), observation.component(3, 2)
    if {code.upper(), meaning.upper()} & _STUDY_INSTANCE_UID:
        return ""
    suffix = code.rsplit("&", 1)[-1] if "&" in code else ""
    return _SUFFIXES.get(suffix, meaning or code)


def _encapsulated(observation: _Segment) -> list[Section]:
    """ED: source ^ type ^ subtype ^ encoding ^ data. What is no text (an image) is left out."""
    kind, subtype = observation.component(5, 2).upper(), observation.component(5, 3).upper()
    encoding, content = observation.component(5, 4).upper(), observation.component(5, 5)
    if encoding == "BASE64":
        try:
            data = base64.b64decode(re.sub(r"\s", "", content), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ReportError(Reason.REPORT_DAMAGED, "an OBX-5 that is not base64") from error
    elif encoding == "HEX":
        try:
            data = bytes.fromhex(content)
        except ValueError as error:
            raise ReportError(Reason.REPORT_DAMAGED, "an OBX-5 that is not hexadecimal") from error
    else:
        data = content.encode()
    if "PDF" in (kind, subtype) or data.startswith(b"%PDF"):
        return pdf.sections(data)
    if kind in ("TEXT", "FT", "") or subtype in ("HTML", "RTF", "PLAIN", "X-RTF", "XML"):
        return text.split("", text.plain(text.decode(data)))
    return []


def _findings(observations: list[_Segment]) -> Iterator[CodedFinding]:
    """Coded observations: a finding that is stated, or one that is asked in OBX-3 and said to be present or absent."""
    for one in observations:
        if one.raw(2) not in ("CE", "CWE", "CF", "CNE") or not one.component(5):
            continue
        value, asked = _code(one, 5), _code(one, 3)
        presence = PRESENCES.get(value.value)
        yield CodedFinding(value) if presence is None else CodedFinding(asked, presence)


def _code(segment: _Segment, field: int) -> Code:
    scheme = segment.component(field, 3)
    return Code(segment.component(field), _SCHEMES.get(scheme.upper(), scheme), segment.component(field, 2))
