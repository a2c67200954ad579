"""A message as HL7 version 2.5.1 ORU^R01, preliminary (chapters 2 and 7).

Own writing of six segments, as `dicom_sr.reports_in.hl7` reads its own: the library escapes what is not ASCII in a way
that receivers do not read back. Without the level `patient` there is no PID segment, which ORU^R01 allows.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from pydicom.sr.coding import Code

from config import load_vocabulary
from config.message_settings import Hl7Destination
from dicom_sr import codes
from fvlm.reading import Verdict
from node.messages.content import Content, Told
from node.messages.rows import Kind

_ESCAPES = str.maketrans({"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\"})
CONTROL_ID = 20
"""Characters of MSH-10 in version 2.5.1."""


def compose(receiver: Hl7Destination, message_id: str, kind: Kind, content: Content) -> str:
    """The message, segments ended by carriage returns. Always the same for the same row and settings."""
    at = _time(content.analysed_at)
    whom = content.whom
    lines = [_msh(receiver, message_id, content, at)]
    if whom.patient_id:
        lines.append(f"PID|1||{_escape(whom.patient_id)}^^^{_escape(whom.issuer_of_patient_id)}||^^^^^^U")
    lines.append(
        f"OBR|1||{content.thread}^{_escape(receiver.sender)}|25045-6^CT Unspecified body region^LN|||{at}"
        f"|||||||||||{_escape(whom.accession_number)}||||{at}||CT|P"
    )
    if kind is Kind.URGENT:
        lines.append("TQ1|1||||||||S^Stat^HL70485")
    lines += [line.format(number) for number, line in enumerate(_observations(content, at), 1)]
    return "".join(f"{line}\r" for line in lines)


def _msh(receiver: Hl7Destination, message_id: str, content: Content, at: str) -> str:
    names = (receiver.sender, receiver.sender_facility, receiver.application, receiver.facility)
    told = "|".join(map(_escape, names))
    processing = "T" if content.test_only else "P"
    control = message_id[:CONTROL_ID]
    return f"MSH|^~\\&|{told}|{at}||ORU^R01^ORU_R01|{control}|{processing}|2.5.1||||||UNICODE UTF-8"


def _observations(content: Content, at: str) -> Iterator[str]:
    """OBX lines with a place for their number."""
    model, whom, local = content.model, content.whom, codes.LOCAL_SCHEME
    device = f"{model.digest[:32]}^{_escape(model.name)}"

    def line(kind: str, asked: str, value: str, group: str = "", units: str = "", flag: str = "") -> str:
        # OBX-18, the equipment, says that no person has observed this.
        fields = f"{kind}|{asked}|{group}|{value}|{units}||{flag}|||P|||{at}||||{device}"
        return "OBX|{}|" + fields.replace("{", "{{").replace("}", "}}")

    yield line("TX", f"NOTICE^Notice^{local}", _escape(content.notice))
    named = f"{model.name}, {model.version}, {model.digest}"
    yield line("ST", f"MODEL^Model, version, SHA-256^{local}", _escape(named))
    yield line("NM", f"JOB^Job of the node^{local}", str(content.job))
    if whom.study_instance_uid:
        yield line("ST", "110180^Study Instance UID^DCM", _escape(whom.study_instance_uid))
        yield line("ST", "112002^Series Instance UID^DCM", _escape(whom.series_instance_uid))
    for number, told in enumerate(content.findings, 1):
        group, flag = str(number), _flag(told)
        finding = codes.coded(load_vocabulary().finding(told.finding).code)
        verdict = codes.VERDICTS.get(told.verdict)
        value = f"^{told.verdict.capitalize()}" if verdict is None else _coded(verdict)
        yield line("CWE", _coded(finding), value, group, flag=flag)
        meant = f"{_coded(codes.CERTAINTY_OF_FINDING)}^{_calibration(told)}^{local}"
        yield line("NM", meant, f"{100 * told.probability:.1f}", group, _coded(codes.PERCENT), flag)
    for anatomy, reason in content.not_assessed:
        text = f"{load_vocabulary().anatomy(anatomy).title}: {reason}"
        yield line("TX", f"NOTASSESSED^Not assessed^{local}", _escape(text))


def _flag(told: Told) -> str:
    """OBX-8: very abnormal, abnormal, or nothing said."""
    return "AA" if told.urgent else "A" if told.verdict is Verdict.PRESENT else ""


def _calibration(told: Told) -> str:
    return "CALIBRATED^Certainty, calibrated" if told.calibrated else "RAW^Certainty, not calibrated"


def _coded(code: Code) -> str:
    return "^".join(map(_escape, (code.value, code.meaning, code.scheme_designator)))


def _escape(text: str) -> str:
    """As the value of a component: separators escaped, control characters as spaces."""
    return "".join(c if c.isprintable() else " " for c in text).translate(_ESCAPES)


def _time(moment: datetime) -> str:
    """HL7 TS, UTC."""
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
