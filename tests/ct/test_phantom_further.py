"""Diseases that are drawn only when they are asked for by name."""

import numpy as np
import pytest

from ct.phantom import DISEASES, FURTHER_DISEASES, LABELS, Habits, PhantomPatient, lesion_mask, render, write_report

SPACING, SHAPE = (6.0, 4.0, 4.0), (104, 72, 96)


def test_patients_drawn_by_prevalence_never_have_them() -> None:
    assert not set(DISEASES) & set(FURTHER_DISEASES)
    assert all(not PhantomPatient.draw(seed).keys & set(FURTHER_DISEASES) for seed in range(60))


@pytest.mark.parametrize("key", FURTHER_DISEASES)
def test_it_changes_its_own_organ_and_no_label(key: str) -> None:
    anatomy = key.split(".")[0]
    healthy = render(PhantomPatient.draw(11, ()), SPACING, SHAPE, noise=False)
    patient = PhantomPatient.draw(11, [key])
    ill = render(patient, SPACING, SHAPE, noise=False)
    assert np.array_equal(healthy.labels, ill.labels)
    changed = healthy.hu != ill.hu
    assert (ill.labels[changed] == LABELS[anatomy]).mean() > 0.99
    masks = [lesion_mask(patient, lesion, SPACING, SHAPE) for lesion in patient.diseases]
    inside = np.logical_or.reduce(masks)
    difference = float(ill.hu[inside].mean()) - float(healthy.hu[inside].mean())
    falls = {"kidney.angiomyolipoma", "spleen.cyst"}
    assert difference < -15 if key in falls else difference > 15


def test_other_lesions_stay_where_they_were() -> None:
    known = ["liver.cyst", "liver.tumor", "kidney.cyst"]
    alone, joined = PhantomPatient.draw(4, known), PhantomPatient.draw(4, [*known, *FURTHER_DISEASES])
    assert alone.diseases == tuple(lesion for lesion in joined.diseases if lesion.key in known)


@pytest.mark.parametrize("key", FURTHER_DISEASES)
def test_its_report_says_so(key: str) -> None:
    report = write_report(PhantomPatient.draw(11, [key]))
    said = report.by_anatomy[key.split(".")[0]]
    assert not said.normal
    assert said.findings
    assert said.impression in report.impression


def test_habits() -> None:
    """Who never takes up a disease in the impression, and who mentions no normal anatomy."""
    patient = PhantomPatient.draw(3, ["liver.cyst", "kidney.stone"])
    silent = write_report(patient, Habits(findings_only=1.0, unmentioned=1.0))
    assert [name for name, said in silent.by_anatomy.items() if said.findings] == ["liver", "kidney"]
    assert not any(said.impression for said in silent.by_anatomy.values())
    assert not silent.by_anatomy["liver"].normal
    assert write_report(patient, Habits()) == write_report(patient)
