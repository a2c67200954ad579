"""The slices to look at as a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010)."""

from collections.abc import Mapping, Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset

from dicom_sr import codes, identity
from dicom_sr.companion import Case
from dicom_sr.groups import percent
from dicom_sr.identity import Kind
from dicom_sr.sources import requested_procedures
from dicom_sr.templates import device_observer


def build(case: Case, slices: Mapping[str, Sequence[int]]) -> Dataset | None:
    """The selection, "Of Interest"; None if there is nothing to point at.

    `slices`: of each present finding (key), the source slices to look at.
    """
    chosen = sorted({index for of_finding in slices.values() for index in of_finding})
    if not chosen:
        return None
    images = [case.headers[index] for index in chosen]
    selection = KeyObjectSelection(
        document_title=codes.OF_INTEREST,
        referenced_objects=images,
        observer_device_context=device_observer(case.context.device_uid),
        description=_description(case, slices),
    )
    dataset: Dataset = KeyObjectSelectionDocument(
        evidence=images,
        content=selection,
        requested_procedures=requested_procedures(case.headers[0]) or None,
        **case.arguments(Kind.KO),
    )
    for item in dataset.ContentSequence:
        if item.ValueType == "IMAGE" and "ConceptNameCodeSequence" in item:
            del item.ConceptNameCodeSequence  # TID 2010 allows no purpose of reference
    case.finish(dataset)
    return dataset


def _description(case: Case, slices: Mapping[str, Sequence[int]]) -> str:
    mark = f"{identity.TEST_MARKER}. " if case.reading.test_only else ""
    lines = [
        f"{case.title(finding)}, {case.site(finding).lower()}, {percent(finding.probability):.1f} %: "
        f"{named_images(case, slices[finding.key])}."
        for finding in case.reading.positives
        if slices.get(finding.key)
    ]
    chosen = "The slices that speak most for each finding; where no place does, the largest slice of its anatomy."
    return f"{mark}{identity.NOT_VERIFIED} {chosen} {' '.join(lines)}"


def named_images(case: Case, slices: Sequence[int]) -> str:
    """`image 47`, `images 12 and 47`: Instance Numbers, where the source has them."""
    numbers = [case.headers[index].get("InstanceNumber") for index in slices]
    names = [str(index + 1 if number in (None, "") else number) for index, number in zip(slices, numbers, strict=True)]
    return f"image {names[0]}" if len(names) == 1 else f"images {', '.join(names[:-1])} and {names[-1]}"
