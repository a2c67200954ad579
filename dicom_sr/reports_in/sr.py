"""Any DICOM SR -> Report: the content tree as sections, coded findings inside and outside of measurement groups.

TID 2000 (basic diagnostic imaging reports), TID 1500 (measurement reports) and templates that nobody knows: the tree is
walked as it is, nothing is asked of it but that it is one. (PS3.3 C.17.3, PS3.16.)
"""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.parse import printed
from dicom_sr.reports_in import text, times
from dicom_sr.reports_in.parts import (
    CodedFinding,
    ObserverKind,
    Presence,
    Report,
    Section,
    SourceKind,
    Status,
)

_CONTEXT = frozenset({"HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD"})
"""Relationships to what a report is about and who speaks; not what it says."""
_OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
_PERSON = Code("121006", "DCM", "Person")
_PERSON_NAME = Code("121008", "DCM", "Person Observer Name")
_LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
_STATED = (
    codes.FINDING,
    Code("121073", "DCM", "Impression"),
    Code("121077", "DCM", "Conclusion"),
)
"""Concepts whose CODE value is a finding (CID 7002)."""
_PRESENCES = {codes.PRESENT: Presence.PRESENT, codes.ABSENT: Presence.ABSENT, codes.UNDETERMINED: Presence.UNDETERMINED}
_TOLD_ELSEWHERE = frozenset({"PNAME", "UIDREF", "IMAGE", "COMPOSITE", "WAVEFORM", "SCOORD", "SCOORD3D", "TCOORD"})
"""Value types that are no text of a report: people, references, coordinates."""


def read(dataset: Dataset) -> Report:
    """What the SR says. May raise whatever pydicom raises for a damaged one."""
    observer, name = _observer(dataset)
    zone = str(dataset.get("TimezoneOffsetFromUTC") or "")
    language = next((c for c in _children(dataset) if codes.is_a(c, _LANGUAGE)), None)
    return Report(
        source=SourceKind.SR,
        status=_status(dataset),
        study_instance_uid=str(dataset.get("StudyInstanceUID") or ""),
        accession_number=str(dataset.get("AccessionNumber") or "").strip(),
        patient_id=str(dataset.get("PatientID") or "").strip(),
        document_id=str(dataset.get("SOPInstanceUID") or ""),
        issued=times.compact(f"{dataset.get('ContentDate') or ''}{dataset.get('ContentTime') or ''}", zone),
        examined=times.day(times.compact(str(dataset.get("StudyDate") or ""))),
        language=_value(language).value if language is not None else "",
        title=_name(dataset),
        sections=tuple(_sections(dataset)),
        findings=tuple(_findings(dataset)),
        observer=observer,
        observer_name=name,
    )


def _children(item: Dataset) -> list[Dataset]:
    return list(item.get("ContentSequence") or [])


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeMeaning") or "").strip() if names else ""


def _value(item: Dataset) -> Code:
    return codes.code_of(item.ConceptCodeSequence[0])


def _status(dataset: Dataset) -> Status:
    if dataset.get("PredecessorDocumentsSequence"):
        return Status.CORRECTED
    final = dataset.get("PreliminaryFlag") == "FINAL" or dataset.get("VerificationFlag") == "VERIFIED"
    return Status.FINAL if final else Status.PRELIMINARY


def _observer(dataset: Dataset) -> tuple[ObserverKind | None, str]:
    """A person, if one is named anywhere: verifier, author, observer; else a device; else nobody knows."""
    for verifier in dataset.get("VerifyingObserverSequence") or []:
        return ObserverKind.PERSON, str(verifier.get("VerifyingObserverName") or "")
    context = [child for child in _children(dataset) if child.get("RelationshipType") == "HAS OBS CONTEXT"]
    kinds = [_value(item) for item in context if codes.is_a(item, _OBSERVER_TYPE)]
    names = [str(item.get("PersonName") or "") for item in context if codes.is_a(item, _PERSON_NAME)]
    authors = {str(item.get("ObserverType")): item for item in dataset.get("AuthorObserverSequence") or []}
    if _PERSON in kinds or names:
        return ObserverKind.PERSON, next(iter(names), "")
    if "PSN" in authors:
        return ObserverKind.PERSON, str(authors["PSN"].get("PersonName") or "")
    return (ObserverKind.DEVICE if codes.DEVICE in kinds or "DEV" in authors else None), ""


def _sections(root: Dataset) -> list[Section]:
    """The text of each container under its name, in the order of the tree."""
    found: dict[str, list[str]] = {}
    for child in _children(root):
        _gather(child, "", found)
    sections: list[Section] = []
    for title, lines in found.items():
        sections += text.split(title, "\n".join(lines))
    return sections


def _gather(item: Dataset, title: str, found: dict[str, list[str]]) -> None:
    if item.get("RelationshipType") in _CONTEXT:
        return
    name, kind = _name(item), str(item.get("ValueType") or "")
    if kind == "CONTAINER":
        title = name or title
    elif kind and kind not in _TOLD_ELSEWHERE:
        said = text.plain(str(item.get("TextValue") or "")) if kind == "TEXT" else printed(item)
        if said and kind == "TEXT" and not title:
            title = name
            found.setdefault(title, []).append(said)
        elif said:
            labelled = name and not (kind == "TEXT" and title.lower().startswith(name.lower()))
            found.setdefault(title, []).append(f"{name}: {said}" if labelled else said)
    for child in _children(item):
        _gather(child, title, found)


def _findings(item: Dataset) -> Iterator[CodedFinding]:
    for child in _children(item):
        if codes.is_a(child, codes.MEASUREMENT_GROUP):
            yield from _of_group(child)
            continue
        if child.get("ValueType") == "CODE" and child.get("ConceptCodeSequence"):
            value = _value(child)
            if value in _PRESENCES and child.get("ConceptNameCodeSequence"):
                yield CodedFinding(codes.code_of(child.ConceptNameCodeSequence[0]), _PRESENCES[value], _site(child))
            elif any(codes.is_a(child, concept) for concept in _STATED):
                yield CodedFinding(value, Presence.PRESENT, _site(child))
        yield from _findings(child)


def _of_group(group: Dataset) -> Iterator[CodedFinding]:
    """The finding of a measurement group (TID 1411, TID 1501 and their like); none if it measures an organ."""
    items = _children(group)
    concept = next((_value(item) for item in items if codes.is_a(item, codes.FINDING)), None)
    categories = [_value(item) for item in items if codes.is_a(item, codes.FINDING_CATEGORY)]
    if concept is None or codes.ANATOMICAL_STRUCTURE in categories:
        return
    said = [_value(i) for i in items if codes.is_a(i, concept) and i.get("ConceptCodeSequence")]
    presence = next((_PRESENCES[value] for value in said if value in _PRESENCES), None)
    certainty = next((_percent(item) for item in items if codes.is_a(item, codes.CERTAINTY_OF_FINDING)), None)
    uid = next((str(item.get("UID") or "") for item in items if codes.is_a(item, codes.TRACKING_UID)), "")
    if presence is None and certainty is None:
        presence = Presence.PRESENT  # somebody describes it
    yield CodedFinding(concept, presence, _site(group), certainty, uid)


def _site(item: Dataset) -> Code | None:
    return next((_value(child) for child in _children(item) if codes.is_a(child, codes.FINDING_SITE)), None)


def _percent(item: Dataset) -> float | None:
    values = item.get("MeasuredValueSequence")
    if not values or values[0].get("NumericValue") is None:
        return None
    units = values[0].get("MeasurementUnitsCodeSequence")
    factor = 100.0 if units and units[0].get("CodeValue") == "1" else 1.0
    return round(float(values[0].NumericValue) * factor, 6)
