"""The report of a synthetic patient says what was drawn."""

import re

import pytest

from config.vocabulary import load_vocabulary
from ct.phantom import ANATOMIES, DISEASES, PhantomPatient, write_report
from ct.phantom.wording import load_wording

WORDS = {
    "lung.nodule": r"nodule",
    "lung.emphysema": r"emphysema",
    "lung.consolidation": r"consolidation",
    "lung.atelectasis": r"atelectasis",
    "lung.pleural_effusion": r"pleural effusion",
    "heart.cardiomegaly": r"cardiomegaly|enlarged",
    "heart.pericardial_effusion": r"pericardi(al|um)",
    "heart.coronary_calcification": r"calcif|coronary",
    "esophagus.hiatal_hernia": r"hernia",
    "liver.steatosis": r"steatosis|fatty|density",
    "liver.cyst": r"cyst",
    "liver.tumor": r"tumor|mass|metastases",
    "gallbladder.stone": r"stone|calcul|cholelithiasis",
    "pancreas.cyst": r"cyst",
    "pancreas.tumor": r"tumor|mass",
    "spleen.splenomegaly": r"splenomegaly|enlarged",
    "kidney.cyst": r"cyst",
    "kidney.stone": r"stone|nephrolithiasis",
    "kidney.hydronephrosis": r"hydronephrosis",
    "adrenal_gland.nodule": r"nodule",
    "stomach.wall_thickening": r"thicken",
    "portal_vein.dilatation": r"dilat|increased|wide",
    "small_intestine.obstruction": r"obstruction|ileus",
    "colon.obstruction": r"obstruction",
    "colon.tumor": r"tumor|mass",
    "urinary_bladder.stone": r"stone|calcul",
    "urinary_bladder.tumor": r"tumor|mass",
    "sacrum.metastasis": r"sclerotic|osteoblastic",
}
DENIAL = re.compile(r"^No |^The .* (not|no|normal|unremarkable|thin|clear)\b|normal|unremarkable|without", re.I)


def affirmed(text: str) -> list[str]:
    """Sentences that do not deny something."""
    return [sentence for sentence in re.split(r"(?<=\.)\s+", text) if sentence and not DENIAL.search(sentence)]


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_reports_state_what_was_drawn_and_nothing_else(first: int) -> None:
    for seed in range(first, first + 50):
        patient = PhantomPatient.draw(seed)
        report = write_report(patient)
        assert tuple(report.by_anatomy) == ANATOMIES
        for name, text in report.by_anatomy.items():
            keys = [key for key in patient.keys if key.startswith(name + ".")]
            assert text.normal == (not keys)
            assert text.findings in report.findings
            assert text.impression in report.impression
            assert bool(text.impression) == bool(keys)
            for part in (text.findings, text.impression) if keys else ():
                told = " ".join(affirmed(part))
                for key in keys:
                    assert re.search(WORDS[key], told, re.I), (key, told)
                for key in DISEASES:
                    if key.startswith(name + ".") and key not in keys:
                        assert not re.search(WORDS[key], told, re.I), (key, told)
            if text.normal:
                assert text.impression == ""


def test_report_of_a_healthy_patient_says_so() -> None:
    for seed in range(20):
        report = write_report(PhantomPatient.draw(seed, ()))
        assert all(text.normal for text in report.by_anatomy.values())
        assert report.impression in load_wording().healthy
        assert report.findings


def test_report_is_deterministic_and_varied() -> None:
    patient = PhantomPatient.draw(4)
    assert write_report(patient) == write_report(PhantomPatient.draw(4))
    told = {write_report(PhantomPatient.draw(s, ["kidney.cyst"])).by_anatomy["kidney"].findings for s in range(60)}
    assert len(told) > 30


def test_prompts_of_the_vocabulary_are_among_the_sentences() -> None:
    ill = " ".join(write_report(PhantomPatient.draw(s, DISEASES)).findings for s in range(40))
    healthy = " ".join(write_report(PhantomPatient.draw(s, ())).findings for s in range(400))
    for prompt in load_vocabulary().preset("phantom").prompts:
        assert prompt.positive in ill
        assert prompt.negative in healthy


def test_sides_and_sizes_are_those_drawn() -> None:
    for seed in range(60):
        patient = PhantomPatient.draw(seed, ["kidney.cyst", "lung.pleural_effusion"])
        report = write_report(patient)
        for name in ("kidney", "lung"):
            sides = {lesion.side for lesion in patient.diseases if lesion.anatomy == name}
            other = {"left", "right"} - sides
            told = " ".join(affirmed(report.by_anatomy[name].findings)).lower()
            for side in other:
                assert not re.search(rf"\b{side}\b", told), told
        largest = max(lesion.size_mm for lesion in patient.lesions("kidney.cyst"))
        for size in re.findall(r"(\d+) mm", report.by_anatomy["kidney"].findings):
            assert int(size) == round(largest)
