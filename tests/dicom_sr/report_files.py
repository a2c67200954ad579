"""Reports as other systems write them, made here: SR of three kinds, PDF, CDA, HL7, FHIR."""

import base64
import json
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedCDAStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
)

STUDY = "1.2.826.0.1.3680043.8.498.77"


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def item(kind: str, name: tuple[str, str, str] | None, relationship: str = "CONTAINS", **values: Any) -> Dataset:
    made = Dataset()
    made.RelationshipType, made.ValueType = relationship, kind
    if name:
        made.ConceptNameCodeSequence = code(*name)
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def header(sop_class: str) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = sop_class, f"{STUDY}.5"
    made.StudyInstanceUID, made.SeriesInstanceUID = STUDY, f"{STUDY}.4"
    made.PatientID, made.PatientName, made.AccessionNumber = "P-9", "Núñez^Ana", "A-9"
    made.ContentDate, made.ContentTime, made.TimezoneOffsetFromUTC = "20260301", "101500.5", "-0330"
    return made


def part10(dataset: Dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def sr(*content: Dataset, sop_class: str = EnhancedSRStorage, title: tuple[str, str, str] | None = None) -> Dataset:
    made = header(sop_class)
    made.Modality, made.ValueType, made.ContinuityOfContent = "SR", "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = code(*(title or ("18748-4", "LN", "Diagnostic imaging report")))
    made.CompletionFlag, made.VerificationFlag = "COMPLETE", "UNVERIFIED"
    made.ContentSequence = Sequence(content)
    return made


FINDINGS = ("121070", "DCM", "Findings")
FINDING = ("121071", "DCM", "Finding")
IMPRESSION = ("121073", "DCM", "Impression")
PERSON = (
    item("CODE", ("121005", "DCM", "Observer Type"), "HAS OBS CONTEXT",
         ConceptCodeSequence=code("121006", "DCM", "Person")),
    item("PNAME", ("121008", "DCM", "Person Observer Name"), "HAS OBS CONTEXT", PersonName="Curie^Marie"),
)  # fmt: skip


def tid_2000() -> Dataset:
    """A report of a radiologist: language, observer, two sections, a coded finding with a negative beside it."""
    nodule = item("CODE", FINDING, ConceptCodeSequence=code("786838002", "SCT", "Nodule of lung"))
    nodule.ContentSequence = Sequence(
        [
            item("CODE", ("G-C0E3", "SRT", "Finding Site"), "HAS CONCEPT MOD",
                 ConceptCodeSequence=code("39607008", "SCT", "Lung")),
            item("NUM", ("103339001", "SCT", "Long axis"), "HAS PROPERTIES",
                 MeasuredValueSequence=_measured("9", "mm")),
        ]
    )  # fmt: skip
    findings = item("CONTAINER", FINDINGS, ContinuityOfContent="SEPARATE")
    findings.ContentSequence = Sequence(
        [
            item("TEXT", FINDING, TextValue="Ein Rundherd im  Oberlappen,\r\nsonst unauffällig."),
            nodule,
            item("CODE", ("60046008", "SCT", "Pleural effusion"),
                 ConceptCodeSequence=code("272519000", "SCT", "Absent")),
        ]
    )  # fmt: skip
    made = sr(
        item("CODE", ("121049", "DCM", "Language of Content Item and Descendants"), "HAS CONCEPT MOD",
             ConceptCodeSequence=code("de-DE", "RFC5646", "German")),
        *PERSON,
        findings,
        item("TEXT", IMPRESSION, TextValue="Rundherd."),
    )  # fmt: skip
    made.VerificationFlag = "VERIFIED"
    return made


def _measured(value: str, unit: str) -> Sequence:
    made = Dataset()
    made.NumericValue, made.MeasurementUnitsCodeSequence = value, code(unit, "UCUM", unit)
    return Sequence([made])


def one_text(text: str) -> Dataset:
    """A Basic Text SR with everything in one item that has no name, as old systems send it."""
    return sr(item("TEXT", None, TextValue=text), sop_class=BasicTextSRStorage)


def pdf(*pages: str, encrypted: bool = False) -> bytes:
    """A PDF of plain text, a line a line."""
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b""]
    kids = []
    for page in pages:
        shown = "".join(f"({line}) Tj T* " for line in page.split("\n"))
        stream = f"BT /F1 11 Tf 14 TL 40 760 Td {shown}ET".encode("latin-1")
        kids.append(len(objects) + 1)
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents %d 0 R/Resources<</Font<</F1"
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>>>>>>>" % (len(objects) + 2)
        )
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
    objects[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(b"%d 0 R" % kid for kid in kids))
    made, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"<</Size %d/Root 1 0 R>>" % (len(objects) + 1)
    made += b"xref\n0 %d\n0000000000 65535 f \n%strailer%s\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1, table, trailer, len(made),
    )  # fmt: skip
    if not encrypted:
        return made
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(BytesIO(made)))
    writer.encrypt("secret", algorithm="RC4-128")
    stream_out = BytesIO()
    writer.write(stream_out)
    return stream_out.getvalue()


def encapsulated(document: bytes, cda: bool = False) -> Dataset:
    made = header(EncapsulatedCDAStorage if cda else EncapsulatedPDFStorage)
    made.Modality, made.DocumentTitle = "DOC", "CT chest"
    made.MIMETypeOfEncapsulatedDocument = "text/XML" if cda else "application/pdf"
    made.EncapsulatedDocumentLength = len(document)
    made.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    return made


def cda(body: str = "", doctype: str = "") -> bytes:
    sections = (
        body
        or """
    <structuredBody><component><section><title>Findings</title>
      <text><paragraph>Two <content>nodules</content>.</paragraph><list><item>left</item><item>right</item></list>
        <table><tr><td>size</td><td>9 mm</td></tr></table></text>
      <entry><observation classCode="OBS" negationInd="true"><code code="ASSERTION"/>
        <value code="36118008" codeSystem="2.16.840.1.113883.6.96" displayName="Pneumothorax"/>
        <targetSiteCode code="39607008" codeSystem="2.16.840.1.113883.6.96" displayName="Lung"/></observation></entry>
    </section></component><component><section><title>Impression</title><text>Nodules &#x2014; follow up.</text>
    </section></component></structuredBody>"""
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>{doctype}
<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:ps3-20="urn:dicom-org:ps3-20">
  <id root="1.2.3" extension="doc-7"/><title>CT report</title>
  <effectiveTime value="20260301101500+0100"/><languageCode code="en-US"/>
  <recordTarget><patientRole><id extension="P-9"/></patientRole></recordTarget>
  <author><assignedAuthor><assignedPerson><name><given>Marie</given> <family>Curie</family></name></assignedPerson>
  </assignedAuthor></author>
  <legalAuthenticator><assignedEntity/></legalAuthenticator>
  <inFulfillmentOf><order><id extension="PLACER"/><ps3-20:accessionNumber extension="A-9"/></order></inFulfillmentOf>
  <documentationOf><serviceEvent><id root="{STUDY}"/></serviceEvent></documentationOf>
  <component>{sections}</component>
</ClinicalDocument>""".encode()


ORDER = (
    "OBR|1|PL-1|FI-1|CTCHEST^CT chest^L|||20260301100000|||||||||||A-9||||20260301101500+0100|||F|||||||77&Curie&Marie"
)


def hl7(
    *observations: str, header: str = "", order: str = ORDER, study: str = f"ZDS|{STUDY}^RAD^Application^DICOM"
) -> bytes:
    lines = [
        header or r"MSH|^~\&|RIS|HOSP|NODE|HOSP|20260301101600+0100||ORU^R01^ORU_R01|M-1|P|2.5.1",
        "PID|1||P-9^^^HOSP^MR||Núñez^Ana",
        order,
        *observations,
        study,
    ]
    return ("\r".join(lines) + "\r").encode()


def _concept(value: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://snomed.info/sct", "code": value, "display": display}]}


def fhir(**changes: Any) -> bytes:
    made: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "language": "en",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "24627-2", "display": "CT Chest"}]},
        "contained": [
            {"resourceType": "Patient", "id": "p", "identifier": [{"value": "P-9"}]},
            {"resourceType": "Practitioner", "id": "d", "name": [{"text": "Marie Curie"}]},
            {"resourceType": "ImagingStudy", "id": "s",
             "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}]},
            {
                "resourceType": "Observation",
                "id": "o",
                "status": "final",
                "code": _concept("60046008", "Pleural effusion"),
                "valueBoolean": False,
                "bodySite": _concept("3120008", "Pleura"),
                "note": [{"text": "Costophrenic angles are clear."}],
            },
        ],
        "subject": {"reference": "#p"},
        "resultsInterpreter": [{"reference": "#d"}],
        "imagingStudy": [{"reference": "#s"}],
        "basedOn": [{"identifier": {"type": {"coding": [{"code": "ACSN"}]}, "value": "A-9"}}],
        "issued": "2026-03-01T10:15:00.5+01:00",
        "result": [{"reference": "#o"}],
        "conclusion": "One nodule.",
        "conclusionCode": [_concept("786838002", "Nodule of lung")],
        "presentedForm": [
            {"contentType": "text/html", "data": base64.b64encode(b"<p>Findings:</p><p>A nodule.</p>").decode()}
        ],
    }  # fmt: skip
    made |= changes
    return json.dumps({key: value for key, value in made.items() if value is not None}).encode()
