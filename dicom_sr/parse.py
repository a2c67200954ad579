"""Our own SR read back with plain pydicom: a `Reading` again, and the content tree as text."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code
from pydicom.valuerep import DSfloat

from config import Reason, Vocabulary, load_vocabulary
from ct.anatomy import AlgorithmIdentity
from dicom_sr import codes, identity
from dicom_sr.errors import ReadError, reading_foreign
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict

_SHORT_UNITS = frozenset({"%", "mm", "mm2", "mm3", "cm", "cm3", "ml"})
"""UCUM values that are their own symbol; of all others the meaning is printed."""


@dataclass(frozen=True)
class ParsedReport:
    """What one of our SR says."""

    reading: Reading
    """As written, at the SR's precision: certainty to 0.1 %, volume to 1 mm3, attenuation to 0.1 HU.
    `analysed_at` is the Content Date and Time."""
    tracking_uids: Mapping[str, str]
    """Tracking UID of every anatomy (`liver`), side of one (`kidney.left`) and finding (`liver.cyst`) with a group."""
    statements: tuple[str, ...]
    """The comments about the whole series, in order: marks, summary, algorithms."""
    study_instance_uid: str
    sop_instance_uid: str
    verified: bool


def open_report(file: Path) -> Dataset:
    """A file's data set. Raises ReadError if it is not DICOM or is damaged, OSError if it cannot be read."""
    with file.open("rb") as stream, reading_foreign("damaged"):
        try:
            return dcmread(stream)
        except InvalidDicomError as error:
            raise ReadError("not DICOM") from error


def read(dataset: Dataset) -> ParsedReport:
    """Read an SR that `dicom_sr.write` wrote. Raises ReadError if it is not one or is damaged."""
    with reading_foreign("not a report of this node, or damaged"):
        if not codes.is_a(dataset, codes.IMAGING_MEASUREMENT_REPORT):
            raise ReadError("not an Imaging Measurement Report (TID 1500)")
        return _read(dataset, load_vocabulary())


def _read(dataset: Dataset, vocabulary: Vocabulary) -> ParsedReport:
    tree = _Tree(vocabulary)
    statements = next(c for c in dataset.ContentSequence if codes.is_a(c, codes.QUALITATIVE_EVALUATIONS))
    measurements = next(c for c in dataset.ContentSequence if codes.is_a(c, codes.IMAGING_MEASUREMENTS))
    anatomies: dict[str, AnatomyReading] = {}
    findings: dict[str, list[Finding]] = {}
    tracking: dict[str, str] = {}
    for group in measurements.ContentSequence:
        concept = _first(group, codes.FINDING)
        if concept is None:
            continue
        uid = str(_need(group, codes.TRACKING_UID).UID)
        site = _first(group, codes.FINDING_SITE)
        if _value(_need(group, codes.FINDING_CATEGORY)) == codes.ANATOMICAL_STRUCTURE:
            anatomy = tree.anatomy(_value(concept))
            side = None if site is None else _first(site, codes.LATERALITY)
            tracking[anatomy if side is None else f"{anatomy}.{_side(side)}"] = uid
            if _first(group, codes.VOLUME) is not None:
                volume, attenuation = _number(group, codes.VOLUME) / 1000.0, _number(group, codes.ATTENUATION)
                anatomies[anatomy] = _with_part(anatomies.get(anatomy), anatomy, volume, attenuation)
        else:
            finding = tree.finding(group, _value(concept), _value(_need(group, codes.FINDING_SITE)))
            tracking[finding.key] = uid
            findings.setdefault(finding.anatomy, []).append(finding)
    equipment = {
        role: item
        for item in dataset.ContributingEquipmentSequence
        for role in (identity.READS, identity.SEGMENTS)
        if str(item.get("ContributionDescription", "")).startswith(role)
    }
    reading = Reading(
        model=_algorithm(equipment[identity.READS]),
        segmenter=_algorithm(equipment[identity.SEGMENTS]),
        anatomies=tuple(
            AnatomyReading(a.anatomy, a.volume_ml, a.mean_hu, tuple(findings.get(a.anatomy, ())))
            for a in anatomies.values()
        ),
        not_assessed=tuple(tree.not_assessed(item) for item in _not_evaluated(statements)),
        analysed_at=_moment(dataset),
    )
    return ParsedReport(
        reading=reading,
        tracking_uids=tracking,
        statements=tuple(str(item.TextValue) for item in _all(statements, codes.COMMENT)),
        study_instance_uid=str(dataset.StudyInstanceUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        verified=dataset.VerificationFlag != "UNVERIFIED",
    )


def _side(item: Dataset) -> str:
    return next(side for side, code in codes.SIDES.items() if code == _value(item))


def _with_part(known: AnatomyReading | None, anatomy: str, volume_ml: float, mean_hu: float) -> AnatomyReading:
    """An anatomy with one more of its sides."""
    if known is None:
        return AnatomyReading(anatomy, volume_ml, mean_hu, ())
    whole = known.volume_ml + volume_ml
    mean = (known.mean_hu * known.volume_ml + mean_hu * volume_ml) / whole if whole else mean_hu
    return AnatomyReading(anatomy, whole, mean, ())


class _Tree:
    """Content items back into names of the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._anatomies = {codes.coded(a.code): a.name for a in vocabulary.anatomies}
        self._findings = {(f.anatomy, codes.coded(f.code)): f.key for f in vocabulary.findings}

    def anatomy(self, code: Code) -> str:
        return self._anatomies[code]

    def finding(self, group: Dataset, concept: Code, site: Code) -> Finding:
        parameters = dict(str(item.TextValue).split("=", 1) for item in _all(group, codes.ALGORITHM_PARAMETERS))
        verdict = _first(group, concept)
        by_code = {code: verdict for verdict, code in codes.VERDICTS.items()}
        return Finding(
            key=self._findings[self.anatomy(site), concept],
            probability=round(_number(group, codes.CERTAINTY_OF_FINDING) / 100.0, 4),
            verdict=Verdict.NO_OPERATING_POINT if verdict is None else by_code[_value(verdict)],
            threshold=float(parameters["threshold"]) if "threshold" in parameters else None,
            calibrated=parameters["calibrated"] == "yes",
            absent_below=float(parameters["absent_below"]) if "absent_below" in parameters else None,
        )

    def not_assessed(self, item: Dataset) -> NotAssessed:
        anatomy = self.anatomy(codes.code_of(item.ConceptNameCodeSequence[0]))
        detail = _first(item, codes.COMMENT)
        return NotAssessed(
            anatomy=anatomy,
            reason=Reason(_value(_need(item, codes.WHY_NOT_ASSESSED)).value),
            detail="" if detail is None else str(detail.TextValue),
            findings=tuple(
                self._findings[anatomy, codes.code_of(finding.ConceptNameCodeSequence[0])]
                for finding in _not_evaluated(item)
            ),
        )


def _all(parent: Dataset, concept: Code) -> Iterator[Dataset]:
    return (item for item in parent.get("ContentSequence") or [] if codes.is_a(item, concept))


def _first(parent: Dataset, concept: Code) -> Dataset | None:
    return next(_all(parent, concept), None)


def _need(parent: Dataset, concept: Code) -> Dataset:
    item = _first(parent, concept)
    if item is None:
        raise KeyError(f"no {concept.meaning}")
    return item


def _value(item: Dataset) -> Code:
    return codes.code_of(item.ConceptCodeSequence[0])


def _number(parent: Dataset, concept: Code) -> float:
    value: DSfloat = _need(parent, concept).MeasuredValueSequence[0].NumericValue
    return float(value)


def _not_evaluated(statements: Dataset) -> Iterator[Dataset]:
    for item in statements.ContentSequence:
        if item.ValueType == "CODE" and _value(item) == codes.NOT_EVALUATED:
            yield item


def _algorithm(item: Dataset) -> AlgorithmIdentity:
    return AlgorithmIdentity(
        name=str(item.ManufacturerModelName),
        version=str(item.SoftwareVersions),
        digest=str(item.DeviceSerialNumber),
        manufacturer=str(item.Manufacturer),
        test_only=identity.TEST_MARKER in str(item.ContributionDescription),
    )


def _moment(dataset: Dataset) -> datetime:
    time = str(dataset.ContentTime)
    text = f"{dataset.ContentDate}{time}{dataset.TimezoneOffsetFromUTC}"
    return datetime.strptime(text, "%Y%m%d%H%M%S.%f%z" if "." in time else "%Y%m%d%H%M%S%z")


def as_text(dataset: Dataset) -> str:
    """The content tree of any SR as indented lines `name: value`, without the header (no patient data).

    Raises ReadError if the data set has no content tree or is damaged.
    """
    with reading_foreign("damaged"):
        if "ValueType" not in dataset:
            raise ReadError("not a structured report")
        return "\n".join(_lines(dataset, 0))


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    names = item.get("ConceptNameCodeSequence")
    name = str(names[0].get("CodeMeaning", "")) if names else str(item.get("ValueType", "?"))
    value = printed(item)
    yield f"{'  ' * depth}{name}: {value}" if value else f"{'  ' * depth}{name}"
    for child in item.get("ContentSequence") or []:
        yield from _lines(child, depth + 1)


def printed(item: Dataset) -> str:
    """The value of a content item as one line; empty if it has none."""
    kind = str(item.get("ValueType", ""))
    if kind == "CODE":
        values = item.get("ConceptCodeSequence")
        return str(values[0].get("CodeMeaning", "")) if values else ""
    if kind == "NUM":
        return _printed_number(item)
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        references = item.get("ReferencedSOPSequence")
        if not references:
            return ""
        segment = references[0].get("ReferencedSegmentNumber")
        uid = str(references[0].get("ReferencedSOPInstanceUID", ""))
        return uid if segment is None else f"{uid}, segment {segment}"
    attribute = {
        "TEXT": "TextValue",
        "UIDREF": "UID",
        "PNAME": "PersonName",
        "DATE": "Date",
        "TIME": "Time",
        "DATETIME": "DateTime",
    }.get(kind)
    return re.sub(r"\s+", " ", str(item.get(attribute) or "")).strip() if attribute else ""


def _printed_number(item: Dataset) -> str:
    values = item.get("MeasuredValueSequence")
    if not values:
        return ""
    number = values[0].get("NumericValue")
    text = "" if number is None else f"{float(number):.10g}"
    units = values[0].get("MeasurementUnitsCodeSequence")
    if not units:
        return text
    symbol = str(units[0].get("CodeValue", ""))
    unit = symbol if symbol in _SHORT_UNITS else str(units[0].get("CodeMeaning", ""))
    return f"{text} {unit}".strip()
