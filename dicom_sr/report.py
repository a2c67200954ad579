"""The reading as a Comprehensive 3D SR: Measurement Report, TID 1500 of PS3.16."""

from collections.abc import Sequence
from datetime import datetime

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    CodeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    MeasurementReport,
    ObservationContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from config import Vocabulary
from dicom_sr import codes, identity, templates
from dicom_sr.groups import GroupWriter, percent
from dicom_sr.identity import Kind, Names, Predecessor, WriteContext
from dicom_sr.prior import comparison
from dicom_sr.segmentation import Segments
from dicom_sr.sources import requested_procedures
from fvlm.reading import Finding, NotAssessed, Reading, Verdict


def build(
    reading: Reading,
    segments: Segments | None,
    headers: Sequence[Dataset],
    names: Names,
    context: WriteContext,
    moment: datetime,
    vocabulary: Vocabulary,
) -> Dataset:
    """The SR: never verified, preliminary, complete. `headers` are working copies of all source instances.

    One entry stands for the series in its image library (TID 1600): a middle slice.
    """
    report = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=templates.device_observer(context.device_uid)  # TID 1001
        ),
        procedure_reported=codes.CT_UNSPECIFIED_REGION,
        imaging_measurements=GroupWriter(reading, segments, names, vocabulary, context.prior).all(),
        title=codes.IMAGING_MEASUREMENT_REPORT,
        referenced_images=[headers[len(headers) // 2]],
    )
    root = report[0]
    _put_before_image_library(root, _statements(reading, context, vocabulary))
    _separate(root)
    evidence = [*headers, segments.dataset] if segments is not None else list(headers)
    dataset: Dataset = Comprehensive3DSR(
        evidence=evidence,
        content=root,
        series_instance_uid=names.series(Kind.SR),
        series_number=Kind.SR.series_number,
        sop_instance_uid=names.instance(Kind.SR),
        instance_number=1,
        manufacturer=identity.MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=requested_procedures(headers[0]) or None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=identity.contributing_equipment(reading, moment),
        series_description=Kind.SR.series_description(reading.test_only),
        manufacturer_model_name=identity.PRODUCT,
        software_versions=identity.software_versions(reading, context),
        device_serial_number=identity.long_string(context.device_uid),
        content_date=moment.date(),
        content_time=moment.time(),
        coding_schemes=_coding_schemes(reading, context, vocabulary),
    )
    if context.predecessor is not None:
        dataset.PredecessorDocumentsSequence = [_reference(context.predecessor, str(headers[0].StudyInstanceUID))]
    identity.stamp(dataset, moment, context, headers[0])
    return dataset


def _reference(document: Predecessor, study_uid: str) -> Dataset:
    """An earlier report of the study as item of the Predecessor Documents Sequence (PS3.3 C.17.2, table C.17-3)."""
    study, series, instance = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = document.sop_class_uid
    instance.ReferencedSOPInstanceUID = document.sop_instance_uid
    series.ReferencedSOPSequence = [instance]
    series.SeriesInstanceUID = document.series_instance_uid
    study.ReferencedSeriesSequence = [series]
    study.StudyInstanceUID = study_uid
    return study


def _coding_schemes(
    reading: Reading, context: WriteContext, vocabulary: Vocabulary
) -> list[CodingSchemeIdentificationItem] | None:
    """The declaration of the local codes (0008,0110), where one is used."""
    findings = [finding for anatomy in reading.anatomies for finding in anatomy.findings]
    public = all(vocabulary.finding(finding.key).code.scheme != codes.LOCAL_SCHEME for finding in findings)
    if public and not reading.not_assessed and context.prior is None:
        return None
    return [
        CodingSchemeIdentificationItem(
            designator=codes.LOCAL_SCHEME,
            name=codes.LOCAL_SCHEME_NAME,
            version=context.node_version,
            responsible_organization=identity.MANUFACTURER,
        )
    ]


def _statements(reading: Reading, context: WriteContext, vocabulary: Vocabulary) -> ContainerContentItem:
    """What is said about the whole series, in the report's Qualitative Evaluations container (TID 1500, row 12)."""
    container = ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS
    )
    items: list[ContentItem] = []
    if reading.test_only:
        items.append(_comment(identity.TEST_MARKER))
    items.append(_comment(identity.NOT_VERIFIED))
    if context.predecessor is not None:
        items.append(_comment(identity.REPLACES))
    summary = processing_summary(reading)
    if summary is not None:
        items.append(_code(codes.PROCESSING_SUMMARY, summary))
    items.extend(_comment(sentence) for sentence in summary_sentences(reading, vocabulary))
    if context.prior is not None:
        items.extend(_comment(sentence) for sentence in comparison(reading, context.prior, vocabulary))
        items.append(_comment(f"The earlier reading's report: SOP Instance UID {context.prior.report_uid}."))
    items.extend(_not_assessed(entry, vocabulary) for entry in reading.not_assessed)
    for role, algorithm in ((identity.READS, reading.model), (identity.SEGMENTS, reading.segmenter)):
        items.append(
            _comment(f"{role}: {algorithm.name} {algorithm.version}, weights SHA-256 {algorithm.digest or 'unknown'}.")
        )
    container.ContentSequence = ContentSequence(items)
    return container


def processing_summary(reading: Reading) -> Code | None:
    """CID 6047: with or without findings, over all or only some anatomies; None where neither can be said.

    "Without findings" is said only if every finding of every assessed anatomy has the verdict ABSENT.
    """
    verdicts = {finding.verdict for anatomy in reading.anatomies for finding in anatomy.findings}
    if not verdicts:
        return codes.NONE_SUCCEEDED
    complete = not reading.not_assessed
    if Verdict.PRESENT in verdicts:
        return codes.ALL_WITH_FINDINGS if complete else codes.SOME_WITH_FINDINGS
    if verdicts == {Verdict.ABSENT}:
        return codes.ALL_WITHOUT_FINDINGS if complete else codes.SOME_WITHOUT_FINDINGS
    return None


def summary_sentences(reading: Reading, vocabulary: Vocabulary) -> list[str]:
    """The whole reading in a few sentences, with the explicit negative where it can be said."""
    findings = [finding for anatomy in reading.anatomies for finding in anatomy.findings]
    by_verdict = {verdict: [f for f in findings if f.verdict is verdict] for verdict in Verdict}
    unjudged = len(by_verdict[Verdict.NO_OPERATING_POINT])
    sentences = []
    if not findings:
        sentences.append("No anatomy was assessed: nothing is said about this series.")
    elif reading.positives:
        sentences.append(f"Present: {_listing(reading.positives, vocabulary)}.")
        if by_verdict[Verdict.ABSENT]:
            sentences.append(
                f"{_count(len(by_verdict[Verdict.ABSENT]), 'other finding')} of the model's list: not present in the "
                "assessed anatomies."
            )
    elif len(by_verdict[Verdict.ABSENT]) == len(findings):
        sentences.append("No finding of the model's list is present in the assessed anatomies.")
    elif unjudged < len(findings):
        sentences.append(_none_judged_present(len(findings), unjudged, len(by_verdict[Verdict.UNDETERMINED])))
    if by_verdict[Verdict.UNDETERMINED]:
        sentences.append(f"Undetermined: {_listing(by_verdict[Verdict.UNDETERMINED], vocabulary)}.")
    if unjudged:
        sentences.append(
            f"Without operating point: {_count(unjudged, 'finding')}, of which only the certainty is given."
        )
    if partly := [vocabulary.anatomy(a.anatomy).title for a in reading.anatomies if a.cut]:
        sentences.append(f"Only partly in the scan, and read as far as they are: {', '.join(partly)}.")
    if findings:
        sentences.append(f"The certainties are probabilities of the model, {reading.calibration}.")
    sentences.append(
        f"Assessed: {_count(len(reading.anatomies), 'anatomy', 'anatomies')}, {_count(len(findings), 'finding')}. "
        f"Not assessed: {_count(len(reading.not_assessed), 'anatomy', 'anatomies')}."
    )
    return sentences


def _none_judged_present(findings: int, unjudged: int, undetermined: int) -> str:
    """The limited negative, where not every finding is absent; in step with the closing line of the summary image."""
    limits = []
    if undetermined:
        limits.append(f"{undetermined} of them {'is' if undetermined == 1 else 'are'} undetermined")
    if unjudged:
        limits.append(f"{unjudged} more {'has' if unjudged == 1 else 'have'} no operating point")
    return f"None of the {_count(findings - unjudged, 'judged finding')} is called present; {', '.join(limits)}."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _listing(findings: Sequence[Finding], vocabulary: Vocabulary) -> str:
    ordered = sorted(findings, key=lambda finding: -finding.probability)
    return "; ".join(
        f"{vocabulary.finding(f.key).title} ({vocabulary.anatomy(f.anatomy).title.lower()}, "
        f"{percent(f.probability):.1f} %)"
        for f in ordered
    )


def _not_assessed(entry: NotAssessed, vocabulary: Vocabulary) -> ContentItem:
    """(anatomy) = (373121007, SCT, "Not Evaluated"), with the coded reason, the detail, and the same of each finding.

    Row 13 of TID 1500, which is extensible: the properties are ours.
    """
    item = _code(codes.coded(vocabulary.anatomy(entry.anatomy).code), codes.NOT_EVALUATED)
    properties: list[ContentItem] = [_code(codes.WHY_NOT_ASSESSED, codes.reason(entry.reason), _PROPERTY)]
    if entry.detail:
        properties.append(_comment(entry.detail, _PROPERTY))
    for key in entry.findings:
        properties.append(_code(codes.coded(vocabulary.finding(key).code), codes.NOT_EVALUATED, _PROPERTY))
    item.ContentSequence = ContentSequence(properties)
    return item


_PROPERTY = RelationshipTypeValues.HAS_PROPERTIES


def _comment(text: str, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS) -> TextContentItem:
    return TextContentItem(name=codes.COMMENT, value=text, relationship_type=relationship)


def _code(
    name: Code, value: Code, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS
) -> CodeContentItem:
    return CodeContentItem(name=name, value=value, relationship_type=relationship)


def _put_before_image_library(root: ContentItem, container: ContainerContentItem) -> None:
    """The statements come first for whoever reads the tree as text; the order has no significance (TID 1500)."""
    items = list(root.ContentSequence)
    first = next(index for index, item in enumerate(items) if item.ValueType == "CONTAINER")
    root.ContentSequence = ContentSequence([*items[:first], container, *items[first:]])


def _separate(item: Dataset) -> None:
    """SEPARATE containers: viewers print CONTINUOUS ones as one sentence without the names of the items."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence") or []:
        _separate(child)
