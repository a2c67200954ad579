"""The reading as a text to be read: Enhanced SR in the form of a Basic Diagnostic Imaging Report (PS3.16 TID 2000).

For viewers that show a TID 1500 report as an empty page, and for people: sections of plain sentences.
"""

from collections.abc import Mapping, Sequence

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    EnhancedSR,
    ImageContentItem,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes, identity
from dicom_sr.companion import Case
from dicom_sr.groups import percent
from dicom_sr.identity import Kind
from dicom_sr.key_objects import named_images
from dicom_sr.prior import comparison
from dicom_sr.report import summary_sentences
from dicom_sr.sources import requested_procedures
from dicom_sr.templates import device_observer
from fvlm.reading import Finding, Verdict

CONTAINS = RelationshipTypeValues.CONTAINS
Line = tuple[str, Sequence[int]]
"""A sentence, and the source slices that it points at."""


def build(case: Case, slices: Mapping[str, Sequence[int]]) -> Dataset:
    """The report: never verified, preliminary. `slices`: of each present finding, the source slices to look at."""
    root = ContainerContentItem(name=codes.CT_REPORT, is_content_continuous=False, template_id="2000")
    observed: ObserverContext = device_observer(case.context.device_uid)
    language = CodeContentItem(
        name=codes.LANGUAGE, value=codes.ENGLISH, relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD
    )
    sections = [_section(case, *section) for section in sections_of(case, slices)]
    root.ContentSequence = ContentSequence([language, *ObservationContext(observer_device_context=observed), *sections])
    shown = sorted({index for of_finding in slices.values() for index in of_finding}) or [len(case.headers) // 2]
    dataset: Dataset = EnhancedSR(
        evidence=[case.headers[index] for index in shown],
        content=root,
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=requested_procedures(case.headers[0]) or None,
        **case.arguments(Kind.TEXT),
    )
    case.finish(dataset)
    return dataset


def sections_of(case: Case, slices: Mapping[str, Sequence[int]]) -> list[tuple[Code, Code, list[Line]]]:
    """The sections in reading order: title, what each of its lines is, and the lines."""
    reading, vocabulary = case.reading, case.vocabulary
    marks = [identity.TEST_MARKER] if reading.test_only else []
    told = [*marks, identity.NOT_VERIFIED, *summary_sentences(reading, vocabulary)]
    sections = [
        (codes.IMPRESSIONS, codes.IMPRESSION, [_line(text) for text in told]),
        (codes.FINDINGS, codes.FINDING, _findings(case, slices)),
        (codes.PREVIOUS_FINDINGS, codes.FINDING, [_line(text) for text in _comparison(case)]),
        (
            codes.NOT_EVALUATED,
            codes.FINDING,
            [
                _line(f"{vocabulary.anatomy(entry.anatomy).title}: {entry.reason.meaning} ({entry.reason}).")
                for entry in reading.not_assessed
            ],
        ),
        (codes.PROCEDURE_DESCRIPTIONS, codes.PROCEDURE_DESCRIPTION, [_line(text) for text in _method(case)]),
    ]
    return [section for section in sections if section[2]]


def _line(text: str) -> Line:
    return text, ()


def _findings(case: Case, slices: Mapping[str, Sequence[int]]) -> list[Line]:
    """Present findings a line each with their slices, then the undetermined, those without verdict, the absent ones."""
    lines: list[Line] = []
    every = [finding for anatomy in case.reading.anatomies for finding in anatomy.findings]
    for finding in case.reading.positives:
        seen = slices.get(finding.key, ())
        look = f" Look at {named_images(case, seen)}." if seen else ""
        lines.append((f"PRESENT: {_told(case, finding)}.{look}", seen))
    names = {
        Verdict.UNDETERMINED: "Undetermined",
        Verdict.NO_OPERATING_POINT: "Probability only, no verdict",
        Verdict.ABSENT: "Absent",
    }
    for verdict, name in names.items():
        of_verdict = sorted((f for f in every if f.verdict is verdict), key=lambda finding: -finding.probability)
        if of_verdict:
            lines.append(_line(f"{name}: {'; '.join(_told(case, finding) for finding in of_verdict)}."))
    measured = [
        f"{case.vocabulary.anatomy(a.anatomy).title} {a.volume_ml:,.0f} ml, {a.mean_hu:.0f} HU"
        for a in case.reading.anatomies
    ]
    if measured:
        lines.append(_line(f"Volume and mean attenuation: {'; '.join(measured)}."))
    return lines


def _comparison(case: Case) -> list[str]:
    prior = case.context.prior
    return [] if prior is None else comparison(case.reading, prior, case.vocabulary)


def _told(case: Case, finding: Finding) -> str:
    return f"{case.title(finding)} ({case.site(finding).lower()}) {percent(finding.probability):.1f} %"


def _method(case: Case) -> list[str]:
    """Who said it, and what its numbers mean."""
    reading = case.reading
    told = [
        f"{role}: {algorithm.name} {algorithm.version} by {algorithm.manufacturer}, weights SHA-256 "
        f"{algorithm.digest or 'unknown'}."
        for role, algorithm in ((identity.READS, reading.model), (identity.SEGMENTS, reading.segmenter))
    ]
    told.append(
        f"The percentages are probabilities of the model, {reading.calibration}. A finding belongs to the anatomy as a "
        "whole: no lesion was outlined. The slices named are those that speak most for the finding or, "
        "where no place does, the largest slice of the anatomy."
    )
    return told


def _section(case: Case, title: Code, of_line: Code, lines: Sequence[Line]) -> ContainerContentItem:
    section = ContainerContentItem(name=title, relationship_type=CONTAINS, is_content_continuous=False)
    items: list[ContentItem] = []
    for text, seen in lines:
        item = TextContentItem(name=of_line, value=text, relationship_type=CONTAINS)
        if seen:
            item.ContentSequence = ContentSequence([_image(case.headers[index]) for index in seen])
        items.append(item)
    section.ContentSequence = ContentSequence(items)
    return section


def _image(header: Dataset) -> ImageContentItem:
    return ImageContentItem(
        name=codes.BEST_ILLUSTRATION,
        referenced_sop_class_uid=header.SOPClassUID,
        referenced_sop_instance_uid=header.SOPInstanceUID,
        relationship_type=RelationshipTypeValues.INFERRED_FROM,
    )
