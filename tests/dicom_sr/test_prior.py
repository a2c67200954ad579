"""A reading beside the patient's earlier one: a change for each finding, in every object that tells findings."""

from collections.abc import Iterator
from datetime import date

import pytest
from pydicom import Dataset
from sr_synthetic import anatomy_map, ct_headers, reading, volume

import dicom_sr
from config import Output, Plan, load_vocabulary
from dicom_sr import Change, Prior, Said, codes
from dicom_sr.prior import comparison
from fvlm.reading import Finding, Verdict

DAY = date(2025, 11, 3)
PRIOR = Prior(
    DAY,
    "2.25.4713",
    {
        "lung.nodule": Said(0.05, Verdict.ABSENT),
        "lung.emphysema": Said(0.80, Verdict.PRESENT),
        "lung.peribronchial_thickening": Said(0.30, Verdict.UNDETERMINED),
        "heart.cardiomegaly": Said(0.95, Verdict.PRESENT),
    },
)
EVERYTHING = Plan(frozenset({Output.SEG, Output.SC, Output.TEXT, Output.PDF, Output.SR}))


@pytest.mark.parametrize(
    ("then", "now", "change"),
    [
        (Said(0.1, Verdict.ABSENT), (0.9, Verdict.PRESENT), Change.NEW),
        (Said(0.9, Verdict.PRESENT), (0.1, Verdict.ABSENT), Change.RESOLVED),
        (Said(0.55, Verdict.PRESENT), (0.95, Verdict.PRESENT), Change.UP),
        (Said(0.45, Verdict.UNDETERMINED), (0.70, Verdict.PRESENT), Change.UP),
        (Said(0.95, Verdict.PRESENT), (0.55, Verdict.PRESENT), Change.DOWN),
        (Said(0.55, Verdict.PRESENT), (0.69, Verdict.PRESENT), Change.UNCHANGED),
        (Said(0.48, Verdict.UNDETERMINED), (0.52, Verdict.PRESENT), Change.UNCHANGED),
        (Said(0.1, Verdict.NO_OPERATING_POINT), (0.9, Verdict.NO_OPERATING_POINT), Change.UP),
    ],
)
def test_what_a_change_is_called(then: Said, now: tuple[float, Verdict], change: Change) -> None:
    prior = Prior(DAY, "2.25.1", {"lung.nodule": then})
    assert prior.change(Finding("lung.nodule", *now)) is change
    assert prior.change(Finding("liver.cyst", *now)) is None


def test_changes_are_told_new_ones_first() -> None:
    assert comparison(reading(), PRIOR, load_vocabulary()) == [
        "Compared with the AI reading of 2025-11-03 by the same release (certainty of the model then and now):",
        "New: Lung nodule (lung), 5.0 % to 91.3 %.",
        "Resolved: Emphysema (lung), 80.0 % to 6.0 %.",
        "Down: Cardiomegaly (heart), 95.0 % to 72.0 %.",
        "Unchanged: 1 of 4 compared findings.",
    ]


def test_nothing_to_compare_is_said() -> None:
    assert comparison(reading(), Prior(DAY, "2.25.1", {}), load_vocabulary()) == [
        "No finding could be compared with the AI reading of 2025-11-03: it assessed none of them."
    ]


def _written(prior: Prior | None) -> dict[str, Dataset]:
    context = dicom_sr.WriteContext(prior=prior)
    made = dicom_sr.write(reading(), anatomy_map(), ct_headers(), context, EVERYTHING, volume())
    return {dicom_sr.output_of(dataset): dataset for dataset in made}


def _items(parent: Dataset) -> Iterator[Dataset]:
    for item in parent.get("ContentSequence") or []:
        yield item
        yield from _items(item)


def test_each_compared_finding_carries_its_change_in_the_sr_and_reads_back_the_same() -> None:
    sr = _written(PRIOR)["SR"]
    changes = [
        (str(next(i for i in _items(group) if codes.is_a(i, codes.FINDING)).ConceptCodeSequence[0].CodeMeaning), change)
        for group in _items(sr)
        if codes.is_a(group, codes.MEASUREMENT_GROUP)
        for item in group.ContentSequence
        if codes.is_a(item, codes.CHANGE)
        for change in [str(item.ConceptCodeSequence[0].CodeValue)]
    ]
    assert dict(changes) == {
        "Nodule of lung": "NEW",
        "Pulmonary emphysema": "RESOLVED",
        "Peribronchial thickening": "UNCHANGED",
        "Cardiomegaly": "DOWN",
    }
    assert "2.25.4713" in dicom_sr.as_text(sr)
    assert dicom_sr.read(sr).reading == dicom_sr.read(_written(None)["SR"]).reading


def test_the_text_report_and_the_page_tell_it() -> None:
    text = dicom_sr.as_text(_written(PRIOR)["TEXT"])
    assert "New: Lung nodule (lung), 5.0 % to 91.3 %." in text
    assert _written(PRIOR)["SC"].PixelData != _written(None)["SC"].PixelData


def test_what_tells_changes_has_another_uid_for_another_prior_and_the_seg_the_same() -> None:
    alone, compared = _written(None), _written(PRIOR)
    other = _written(Prior(DAY, "2.25.4714", PRIOR.findings))
    for kind in ("SR", "TEXT", "SC", "PDF"):
        assert len({made[kind].SOPInstanceUID for made in (alone, compared, other)}) == 3, kind
    assert len({made["SEG"].SOPInstanceUID for made in (alone, compared, other)}) == 1
