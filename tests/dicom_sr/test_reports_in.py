"""Reports of other systems are understood, whatever they come as; bad ones end with a reason."""

import base64
import gzip
import json
import random
import sys
import zlib
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import KeyObjectSelectionDocumentStorage
from report_files import (
    PERSON,
    STUDY,
    cda,
    code,
    encapsulated,
    fhir,
    hl7,
    item,
    one_text,
    part10,
    pdf,
    sr,
    tid_2000,
)
from sr_synthetic import SERIES, anatomy_map, ct_headers, reading
from typer.testing import CliRunner

import dicom_sr
from config import Reason
from dicom_sr import codes
from dicom_sr.identity import derive_uid
from dicom_sr.reports_in import (
    LARGEST,
    CodedFinding,
    ObserverKind,
    Presence,
    Report,
    ReportError,
    Section,
    SourceKind,
    Status,
    pdf_child,
    read_report,
    text,
    times,
)
from dicom_sr.reports_in.pdf_child import page_texts
from node.cli import app

NODULE, EFFUSION, LUNG = "786838002", "60046008", "39607008"


def said(report: Report) -> list[tuple[str, str]]:
    return [(one.title, one.text) for one in report.sections]


def reason_of(data: bytes | Dataset) -> Reason:
    with pytest.raises(ReportError) as caught:
        read_report(data)
    return caught.value.reason


def test_a_radiologists_sr() -> None:
    report = read_report(part10(tid_2000()))
    assert report.source is SourceKind.SR
    assert report.status is Status.FINAL
    assert (report.study_instance_uid, report.accession_number, report.patient_id) == (STUDY, "A-9", "P-9")
    assert report.issued == datetime(2026, 3, 1, 10, 15, 0, 500000, timezone(timedelta(hours=-3, minutes=-30)))
    assert (report.language, report.title) == ("de-DE", "Diagnostic imaging report")
    assert (report.observer, report.observer_name) == (ObserverKind.PERSON, "Curie^Marie")
    assert said(report) == [
        (
            "Findings",
            "Ein Rundherd im Oberlappen,\nsonst unauffällig.\nFinding: Nodule of lung\nLong axis: 9 mm\n"
            "Pleural effusion: Absent",
        ),
        ("Impression", "Rundherd."),
    ]
    assert [(f.code.value, f.presence, f.site and f.site.value) for f in report.findings] == [
        (NODULE, Presence.PRESENT, LUNG), (EFFUSION, Presence.ABSENT, None),
    ]  # fmt: skip
    assert "Curie" not in report.text


def test_our_own_sr() -> None:
    report = read_report(dicom_sr.write(reading(), anatomy_map(), ct_headers())[-1])
    assert (report.observer, report.status) == (ObserverKind.DEVICE, Status.PRELIMINARY)
    found = {f.tracking_uid: (f.presence, f.certainty_percent, f.site and f.site.value) for f in report.findings}
    assert len(found) == 6, "organ groups are no findings"
    assert found[derive_uid("tracking", SERIES, "lung.nodule")] == (Presence.PRESENT, 91.3, LUNG)
    assert found[derive_uid("tracking", SERIES, "lung.emphysema")] == (Presence.ABSENT, 6.0, LUNG)
    assert found[derive_uid("tracking", SERIES, "liver.tumor")][:2] == (None, 12.3), "nothing was said about it"


def test_a_foreign_measurement_report_in_old_codes() -> None:
    """Viewers write groups without the evaluation we write, certainty as a ratio, SRT codes."""
    ratio = Dataset()
    ratio.NumericValue, ratio.MeasurementUnitsCodeSequence = "0.83", code("1", "UCUM", "no units")
    group = item("CONTAINER", ("125007", "DCM", "Measurement Group"), ContinuityOfContent="SEPARATE")
    group.ContentSequence = Sequence(
        [
            item("UIDREF", ("112040", "DCM", "Tracking Unique Identifier"), "HAS OBS CONTEXT", UID="2.25.7"),
            item("CODE", ("121071", "DCM", "Finding"), ConceptCodeSequence=code(NODULE, "SCT", "Nodule of lung")),
            item("CODE", ("G-C0E3", "SRT", "Finding Site"), ConceptCodeSequence=code("T-28000", "SRT", "Lung")),
            item("NUM", ("111012", "DCM", "Certainty of Finding"), MeasuredValueSequence=Sequence([ratio])),
        ]
    )
    bare = item("CONTAINER", ("125007", "DCM", "Measurement Group"), ContinuityOfContent="SEPARATE")
    bare.ContentSequence = Sequence([group.ContentSequence[1]])
    measurements = item("CONTAINER", ("126010", "DCM", "Imaging Measurements"))
    measurements.ContentSequence = Sequence([group, bare])
    (scored, described) = read_report(sr(measurements, title=("126000", "DCM", "Imaging Measurement Report"))).findings
    assert (scored.tracking_uid, scored.certainty_percent, scored.presence) == ("2.25.7", 83.0, None)
    assert scored.site == codes.Code(LUNG, "SCT", "Lung")
    assert described.presence is Presence.PRESENT, "a person describes it"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("TECHNIQUE: CT.\r\nFINDINGS:\r\nA nodule.\r\n\r\n\r\nOther.\r\nIMPRESSION: Nodule.",
         [("Technique", "CT."), ("Findings", "A nodule.\n\nOther."), ("Impression", "Nodule.")]),
        ("Befund\nEin Herd.\nBeurteilung: Herd.", [("Befund", "Ein Herd."), ("Beurteilung", "Herd.")]),
        ("The findings: are below normal.", [("", "The findings: are below normal.")]),
        (r"{\rtf1\ansi\ansicpg1252 Findings:\par Gr\'f6\'dfe {\b normal}.\par}", [("Findings", "Größe normal.")]),
        ("<html><style>p{}</style><p>Findings:<br>A &lt; B</p><script>x</script></html>", [("Findings", "A < B")]),
        ("size <5 mm and > 3 mm", [("", "size <5 mm and > 3 mm")]),
        ("tab\tcolumn\x07\xa0end", [("", "tab column end")]),
    ],
)  # fmt: skip
def test_a_whole_report_in_one_text(written: str, expected: list[tuple[str, str]]) -> None:
    assert said(read_report(one_text(written))) == expected


@pytest.mark.parametrize("verified", ["VERIFIED", "UNVERIFIED", None])
def test_an_encapsulated_pdf(verified: str | None) -> None:
    made = encapsulated(pdf("Findings:\nTwo nodules, K\xe4se.", "Impression: Nodules."))
    if verified:
        made.VerificationFlag = verified
    report = read_report(part10(made))
    assert report.source is SourceKind.PDF
    assert report.status is (Status.PRELIMINARY if verified == "UNVERIFIED" else Status.FINAL)
    assert said(report) == [("Findings", "Two nodules, Käse."), ("Impression", "Nodules.")]
    assert (report.patient_id, report.accession_number, report.title) == ("P-9", "A-9", "CT chest")


def test_a_cda_document_bare_and_in_dicom() -> None:
    bare = read_report(cda())
    assert said(bare) == [
        ("Findings", "Two nodules.\n\nleft\n\nright\n\nsize 9 mm"), ("Impression", "Nodules — follow up."),
    ]  # fmt: skip
    assert (bare.accession_number, bare.patient_id, bare.study_instance_uid) == ("A-9", "P-9", STUDY)
    assert bare.issued == datetime(2026, 3, 1, 9, 15, tzinfo=UTC)
    assert (bare.language, bare.status, bare.observer) == ("en-US", Status.FINAL, ObserverKind.PERSON)
    assert bare.observer_name == "Marie Curie"
    (absent,) = bare.findings
    assert (absent.code.value, absent.code.scheme_designator, absent.presence) == ("36118008", "SCT", Presence.ABSENT)
    wrapped = read_report(part10(encapsulated(cda(), cda=True)))
    assert (wrapped.sections, wrapped.document_id) == (bare.sections, f"{STUDY}.5")
    inside = base64.b64encode(pdf("Impression: fine.")).decode()
    body = f'<nonXMLBody><text mediaType="application/pdf" representation="B64">{inside}</text></nonXMLBody>'
    assert said(read_report(cda(body))) == [("Impression", "fine.")]


def test_an_oru_message() -> None:
    message = hl7(
        r"OBX|1|FT|59776-5^Findings^LN|1|Nodule 9\T\10 mm\.br\left\F\right~second \H\bold\N\ \X41\|||||F",
        "OBX|2|TX|59776-5^Findings^LN|2|Third line.||||||F",
        "OBX|3|TX|CT&IMP^CT^L|1|Nodule.||||||F",
        "OBX|4|TX|CT&IMP^CT^L|1|Deleted||||||D",
        f"OBX|5|CWE|{EFFUSION}^Pleural effusion^SCT||272519000^Absent^SCT||||||F",
        f"OBX|6|CE|F^Finding^L||{NODULE}^Nodule of lung^SCT||||||F",
    )
    report = read_report(message)
    assert report.source is SourceKind.HL7
    assert said(report) == [
        ("Findings", "Nodule 9&10 mm\nleft|right\nsecond bold A\nThird line."),
        ("Impression", "Nodule."),
        ("Pleural effusion", "Absent"),
        ("Finding", "Nodule of lung"),
    ]
    assert [(f.code.value, f.presence) for f in report.findings] == [
        (EFFUSION, Presence.ABSENT), (NODULE, Presence.PRESENT),
    ]  # fmt: skip
    assert (report.accession_number, report.patient_id, report.study_instance_uid) == ("A-9", "P-9", STUDY)
    assert (report.document_id, report.title, report.status) == ("M-1", "CT chest", Status.FINAL)
    assert report.issued == datetime(2026, 3, 1, 9, 15, tzinfo=UTC)
    assert (report.observer, report.observer_name) == (ObserverKind.PERSON, "77&Curie&Marie")


def test_oru_with_a_pdf_and_its_study_uid_in_an_observation() -> None:
    inside = base64.b64encode(pdf("Impression: fine.")).decode()
    report = read_report(
        hl7(f"OBX|1|ST|113014^Study Instance UID^DCM||{STUDY}||||||F",
            f"OBX|2|ED|18748-4^Report^LN||RIS^AP^PDF^Base64^{inside}||||||C", study="")
    )  # fmt: skip
    assert said(report)[-1] == ("Impression", "fine.")
    assert (report.study_instance_uid, report.status) == (STUDY, Status.CORRECTED)


@pytest.mark.parametrize(
    ("named", "encoding", "word"),
    [("", "utf-8", "Größe"), ("", "cp1252", "Größe"), ("8859/1", "latin-1", "Größe"),
     ("8859/15", "iso8859-15", "100 €"),
     ("UNICODE UTF-8", "utf-8", "大きさ"), ("~ISO IR87", "iso2022_jp", "大きさ"), ("GB 18030-2000", "gb18030", "结节"),
     ("ASCII", "utf-8", "Größe"), ("KS X 1001", "euc_kr", "결절")],
)  # fmt: skip
def test_oru_character_sets(named: str, encoding: str, word: str) -> None:
    head = rf"MSH|^~\&|RIS|HOSP|NODE|HOSP|20260301||ORU^R01|M-1|P|2.5.1||||||{named}"
    message = hl7("OBX|1|TX|A^Text^L||" + word, header=head, order="OBR|1").decode().replace("Núñez", "X")
    assert said(read_report(message.encode(encoding))) == [("Text", word)]


def test_oru_separators_of_its_own_and_line_ends_of_unix() -> None:
    message = "MSH$*!?@$RIS$$$$20260301$$ORU*R01$M$P$2.3\nPID$1$$P-9*x\nOBR$1\nOBX$1$TX$A*Text$$a?F?b?S?c?T?d?E?!e\n"
    assert said(read_report(message.encode())) == [("Text", "a$b*c@d?\ne")]
    assert said(read_report(b"\x0b" + message.encode() + b"\x1c\r")) == [("Text", "a$b*c@d?\ne")], "MLLP framing"


def test_a_fhir_report() -> None:
    report = read_report(fhir())
    assert said(report) == [
        ("Conclusion", "One nodule."),
        ("Findings", "A nodule."),
        ("Pleural effusion", "no\nCostophrenic angles are clear."),
    ]
    assert [(f.code.value, f.presence, f.site and f.site.value) for f in report.findings] == [
        (NODULE, Presence.PRESENT, None), (EFFUSION, Presence.ABSENT, "3120008"),
    ]  # fmt: skip
    assert (report.accession_number, report.patient_id, report.study_instance_uid) == ("A-9", "P-9", STUDY)
    assert (report.status, report.language, report.title) == (Status.FINAL, "en", "CT Chest")
    assert report.issued == datetime(2026, 3, 1, 9, 15, 0, 500000, UTC)
    assert (report.observer, report.observer_name) == (ObserverKind.PERSON, "Marie Curie")


def test_a_fhir_report_in_a_bundle_with_its_observations_beside_it() -> None:
    single = json.loads(fhir())
    observation = single.pop("contained")[3]
    single["result"] = [{"reference": "urn:uuid:1"}, {"reference": "urn:uuid:missing"}]
    bundle = {
        "resourceType": "Bundle",
        "entry": [{"resource": single}, {"fullUrl": "urn:uuid:1", "resource": observation}, {"resource": None}, 7],
    }
    report = read_report(json.dumps(bundle).encode())
    assert [f.code.value for f in report.findings] == [NODULE, EFFUSION]
    assert report.observer is None


@pytest.mark.parametrize(
    ("status", "expected"), [("amended", Status.CORRECTED), ("partial", Status.PRELIMINARY), ("x", Status.PRELIMINARY)]
)
def test_the_status_of_fhir(status: str, expected: Status) -> None:
    assert read_report(fhir(status=status)).status is expected


def test_the_status_of_sr() -> None:
    made = one_text("Fine.")
    assert read_report(made).status is Status.PRELIMINARY
    made.PreliminaryFlag = "FINAL"
    assert read_report(made).status is Status.FINAL
    made.PredecessorDocumentsSequence = Sequence([Dataset()])
    assert read_report(made).status is Status.CORRECTED


_BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
_EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
_MSH = r"MSH|^~\&|A|B|C|D|20260301||{}|M|P|2.5" + "\r"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.NOT_A_REPORT),
        (b"hello", Reason.NOT_A_REPORT),
        (b"<html/>", Reason.NOT_A_REPORT),
        (b"<a>" * 100_000, Reason.REPORT_DAMAGED),
        (b"{" * 100_000, Reason.REPORT_DAMAGED),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, Reason.REPORT_DAMAGED),
        (b'{"resourceType": "Patient"}', Reason.NOT_A_REPORT),
        (fhir(status="entered-in-error"), Reason.NOT_A_REPORT),
        (fhir(presentedForm=[{"contentType": "text/plain", "data": "?"}]), Reason.REPORT_DAMAGED),
        (fhir(conclusion=None, conclusionCode=None, presentedForm=None, result=None), Reason.REPORT_NO_TEXT),
        (cda(doctype=_BOMB), Reason.REPORT_UNSAFE),
        (cda(doctype=_EXTERNAL), Reason.REPORT_UNSAFE),
        (cda()[:-30], Reason.REPORT_DAMAGED),
        (cda("<structuredBody/>"), Reason.REPORT_NO_TEXT),
        (_MSH.format("ADT^A01").encode(), Reason.NOT_A_REPORT),
        (2 * _MSH.format("ORU^R01").encode(), Reason.NOT_A_REPORT),
        (b"MSH", Reason.NOT_A_REPORT),
        (b"MSHHHHHHHHHH", Reason.REPORT_DAMAGED),
        (hl7(), Reason.REPORT_NO_TEXT),
        (hl7("OBX|1|TX|A||x", order="OBR|1" + "|" * 24 + "X"), Reason.NOT_A_REPORT),
        (hl7("OBX|1|ED|A||RIS^AP^PDF^Base64^?"), Reason.REPORT_DAMAGED),
        (hl7("OBX|1|TX|A||x", header=_MSH.format("ORU^R01").strip() + "||||||KLINGON"), Reason.REPORT_DAMAGED),
        (pdf(""), Reason.REPORT_NO_TEXT),
        (pdf("secret", encrypted=True), Reason.REPORT_ENCRYPTED),
        (b"%PDF-1.4\nnonsense", Reason.REPORT_DAMAGED),
        (b"\0" * 128 + b"DICM" + b"\xff" * 50, Reason.NOT_A_REPORT),
        (b"%PDF" + b"\0" * LARGEST, Reason.REPORT_TOO_LARGE),
        (b"<" + b" " * (16 * 2**20), Reason.REPORT_TOO_LARGE),
    ],
    ids=lambda value: value if isinstance(value, Reason) else None,
)
def test_bad_ones_end_with_a_reason(data: bytes, reason: Reason) -> None:
    assert reason_of(data) is reason


def test_other_dicom_is_no_report() -> None:
    assert reason_of(part10(ct_headers(1)[0])) is Reason.NOT_A_REPORT
    key_objects = sr(*PERSON)
    key_objects.SOPClassUID = KeyObjectSelectionDocumentStorage
    assert reason_of(key_objects) is Reason.NOT_A_REPORT
    assert reason_of(sr(*PERSON)) is Reason.REPORT_NO_TEXT, "names are no text"
    deep = item("TEXT", None, TextValue="end")
    for _ in range(3000):
        outer = item("CONTAINER", None)
        outer.ContentSequence = Sequence([deep])
        deep = outer
    assert reason_of(sr(deep)) is Reason.REPORT_DAMAGED


def test_a_pdf_that_eats_memory_ends_with_a_reason() -> None:
    """A stream of 256 MB of zeros in 256 kB."""
    packer = zlib.compressobj(9)
    chunk = bytes(2**24)
    packed = b"".join(packer.compress(chunk) for _ in range(16)) + packer.flush()
    made = pdf("x").replace(b"/Length 51>>", b"/Filter/FlateDecode/Length %d>>" % len(packed))
    at, end = made.index(b"stream\n") + 7, made.index(b"\nendstream")
    assert reason_of(made[:at] + packed + made[end:]) in (
        Reason.REPORT_TOO_LARGE, Reason.REPORT_DAMAGED, Reason.REPORT_NO_TEXT,
    )  # fmt: skip


def test_a_pdf_that_takes_for_ever_ends_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(pdf_child.__file__).read_text()
    opens = "        reader = Pdf"
    endless = source.replace("CPU_S = 20", "CPU_S = 1").replace(
        opens, f"        while True:\n            pass\n{opens}"
    )
    assert endless != source
    slow = tmp_path / "slow.py"
    slow.write_text(endless)
    monkeypatch.setattr("dicom_sr.reports_in.pdf._COMMAND", (sys.executable, "-P", str(slow)))
    assert reason_of(pdf("x")) is Reason.REPORT_DAMAGED


def mutated(data: bytes, random_of: random.Random) -> bytes:
    """A few bytes flipped, cut, doubled or put in."""
    made = bytearray(data)
    for _ in range(random_of.randint(1, 6)):
        at = random_of.randrange(len(made) + 1)
        length = random_of.choice((1, 2, 8, 200))
        match random_of.randrange(5):
            case 0:
                made[at : at + length] = random_of.randbytes(length)
            case 1:
                del made[at : at + length]
            case 2:
                made[at:at] = made[at : at + length] * random_of.choice((1, 50))
            case 3:
                made[at:at] = random_of.choice((b"\xff\xff\xff\xff", b"\\X", b"<![CDATA[", b"{[", b"|||~^&", b"\0"))
            case _:
                made = made[: max(at, 1)]
    return bytes(made)


@pytest.mark.parametrize("kind", ["sr", "cda", "hl7", "fhir", "wrapped"])
def test_damage_is_never_more_than_a_reason(kind: str) -> None:
    whole = {
        "sr": part10(tid_2000()),
        "cda": cda(),
        "hl7": hl7(r"OBX|1|FT|59776-5^Findings^LN|1|Nodule\.br\\X41\~second|||||F"),
        "fhir": fhir(),
        "wrapped": part10(encapsulated(cda(), cda=True)),
    }[kind]
    for seed in range(150):
        data = mutated(whole, random.Random(f"{kind} {seed}"))
        if data.startswith(b"%PDF"):
            continue
        told = ""
        try:
            report = read_report(data)
        except ReportError as error:
            told = str(error)
        else:
            assert report.sections or report.findings
        assert "Curie" not in told


def test_damaged_pdf_is_text_or_an_error() -> None:
    """In this process, as a hundred children would take too long; `main` catches what is raised."""
    whole = pdf("Findings:\nTwo nodules.", "Impression: Nodules.")
    read = 0
    for seed in range(120):
        with suppress(Exception):  # pypdf raises nearly any type; what must not be is a hang or the end of the process
            read += bool(page_texts(mutated(whole, random.Random(seed))))
    assert read > 10


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026", datetime(2026, 1, 1)),
        ("202603", datetime(2026, 3, 1)),
        ("20260301", datetime(2026, 3, 1)),
        ("2026030110", datetime(2026, 3, 1, 10)),
        ("20260301101500.25-0330", datetime(2026, 3, 1, 13, 45, 0, 250000, UTC)),
        ("20261301", None),
        ("20260301 10", None),
        ("20260301+9900", None),
        ("", None),
    ],
)
def test_compact_times(written: str, expected: datetime | None) -> None:
    assert times.compact(written) == expected


def test_iso_times() -> None:
    assert times.iso("2026-03-01T10:15:00Z") == datetime(2026, 3, 1, 10, 15, tzinfo=UTC)
    assert times.iso("2026-03") == datetime(2026, 3, 1)
    assert times.iso("2026-13-01") is None
    assert times.iso("yesterday") is None


def test_text_without_a_character_set() -> None:
    assert text.decode("\ufeffGröße".encode()) == "Größe"
    assert text.decode("Größe".encode("utf-16")) == "Größe"
    assert text.decode(b"Gr\xf6\xdfe \x81") == "Größe \ufffd"


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "report.dcm"
    file.write_bytes(part10(tid_2000()))
    shown = CliRunner().invoke(app, ["report", "read", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "status: final" in shown.output
    assert "[Impression]\nRundherd." in shown.output
    assert f"Nodule of lung ({NODULE}, SCT), present, in Lung" in shown.output
    told = json.loads(CliRunner().invoke(app, ["report", "read", str(file), "--json"]).output)
    assert told["sections"][1] == {"title": "Impression", "text": "Rundherd."}
    assert told["findings"][1]["presence"] == "absent"
    file.write_bytes(gzip.compress(b"x"))
    refused = CliRunner().invoke(app, ["report", "read", str(file)])
    assert "NOT_A_REPORT" in str(refused.exception)
    missing = CliRunner().invoke(app, ["report", "read", str(tmp_path / "none")])
    assert "cannot be read" in str(missing.exception)
    assert "Example: fvlm-node report read" in CliRunner().invoke(app, ["report", "read", "--help"]).output


def test_sections_are_one_text() -> None:
    report = Report(SourceKind.PDF, Status.FINAL, sections=(Section("", "a"), Section("Impression", "b")))
    assert report.text == "a\n\nImpression\nb"
    assert CodedFinding(codes.FINDING).presence is Presence.PRESENT


def _dated_sr() -> Dataset:
    made = tid_2000()
    made.StudyDate = "20260228"
    return made


def _dated_cda() -> bytes:
    when = b'<serviceEvent><effectiveTime><low value="202602281000"/></effectiveTime>'
    return cda().replace(b"<serviceEvent>", when)


@pytest.mark.parametrize(
    ("report", "day"),
    [
        (hl7("OBX|1|TX|GDT||A nodule."), date(2026, 3, 1)),
        (hl7("OBX|1|TX|GDT||A nodule.", order="OBR|1|PL-1|FI-1"), None),
        (fhir(effectiveDateTime="2026-02-28T09:00:00Z"), date(2026, 2, 28)),
        (fhir(effectivePeriod={"start": "2026-02-28"}), date(2026, 2, 28)),
        (fhir(), None),
        (_dated_cda(), date(2026, 2, 28)),
        (_dated_sr(), date(2026, 2, 28)),
    ],
)
def test_the_day_of_the_examination_is_told_where_the_source_says_it(report: bytes | Dataset, day: date | None) -> None:
    assert read_report(report).examined == day
