"""Reports decomposed by anatomy and labelled: phantoms' reports, annotated sentences, layouts, captions."""

from pathlib import Path

import pytest

from config import load_vocabulary
from ct.phantom import PhantomPatient, write_report
from training.report_text import AnatomyText, Mention, decompose, label
from training.report_text.agreement import (
    SentencesError,
    disagreements,
    on_phantoms,
    on_sentences,
    phantom_report,
    read_sentences,
)
from training.report_text.sentences import sections_of, sentences_of
from training.report_text.words import load_words

VOCABULARY = load_vocabulary()
HERE = Path(__file__).parent


def by_rules(reports: list[str]) -> list[dict[str, AnatomyText]]:
    return [decompose(report, VOCABULARY) for report in reports]


def said(report: str) -> dict[str, bool]:
    """Anatomy that is mentioned -> whether it is normal."""
    return {name: text.normal for name, text in decompose(report, VOCABULARY).items() if text.mentioned}


def labels(report: str) -> dict[str, str]:
    return {key: str(m) for key, m in label(report, VOCABULARY).items() if m != Mention.UNMENTIONED}


def test_phantom_reports_agree() -> None:
    seen: list[int] = []
    agreement = on_phantoms(by_rules, VOCABULARY, range(70_000, 70_200), seen.append)
    assert seen[-1] == 200
    assert agreement["anatomies, text exact"].total == 200 * len(VOCABULARY.anatomies)
    assert agreement["drawn diseases that are labelled present"].total > 400
    for what, share in agreement.items():
        assert share.value >= 0.99, (what, share)


def test_agreement_sees_disagreement() -> None:
    """An engine that says nothing agrees on what is not said, and on nothing else."""

    def silent(reports: list[str]) -> list[dict[str, AnatomyText]]:
        return [{a.name: AnatomyText(a.name, "", "", True) for a in VOCABULARY.anatomies} for _ in reports]

    agreement = on_phantoms(silent, VOCABULARY, range(6), lambda _: None)
    assert agreement["reports, all anatomies exact"].right == 0
    assert 0 < agreement["anatomies, normality"].value < 1


def test_sentences_that_the_rules_were_made_with() -> None:
    sentences = read_sentences(HERE / "report_sentences.yaml", VOCABULARY)
    assert disagreements(VOCABULARY, by_rules, sentences) == []


def test_sentences_that_the_rules_had_not_seen() -> None:
    """The figures of docs/researcher/report-text.md."""
    sentences = read_sentences(HERE / "report_sentences_unseen.yaml", VOCABULARY)
    shares = {what: (share.right, share.total) for what, share in on_sentences(by_rules, VOCABULARY, sentences).items()}
    page = (HERE.parents[1] / "docs" / "researcher" / "report-text.md").read_text(encoding="utf-8")
    for what, (right, total) in shares.items():
        assert f"| {what} | {right} of {total} |" in page


@pytest.mark.parametrize("heading", [title for title, kind in load_words().sections.items() if kind == "impression"])
def test_spellings_of_headings(heading: str) -> None:
    for text in (
        f"Findings: Clear lungs.\n{heading.upper()}:\nGallstones.",
        f"Clear lungs.\n\n{heading.title()}\nGallstones.",
    ):
        assert sections_of(text) == {"findings": "Clear lungs.", "impression": "Gallstones."}


def test_a_report_without_headings_is_findings() -> None:
    assert sections_of("Gallstones. Normal liver.") == {"findings": "Gallstones. Normal liver.", "impression": ""}


def test_sections_that_are_no_findings() -> None:
    report = (
        "CLINICAL INFORMATION: Cirrhosis, splenomegaly?\nTECHNIQUE: Portal venous phase.\nCOMPARISON: CT chest 2019.\n"
        "FINDINGS: Normal spleen.\nIMPRESSION: Normal spleen.\nElectronically signed by: The Heart Center"
    )
    assert said(report) == {"spleen": True}
    assert labels(report) == {}


def test_sentences() -> None:
    text = (
        "1. A 1.2 cm cyst in seg. 4, approx. 3.5 cm from the dome. 2) No stone.\n- Normal spleen\n- The pancreas is\n"
        "normal.\n\nLungs:\n* Clear.\n* No effusion.\n\nNormal heart."
    )
    assert [(s.label, s.text) for s in sentences_of(text)] == [
        ("", "A 1.2 cm cyst in seg. 4, approx. 3.5 cm from the dome."),
        ("", "No stone."),
        ("", "Normal spleen"),
        ("", "The pancreas is normal."),
        ("Lungs", "Clear."),
        ("Lungs", "No effusion."),
        ("", "Normal heart."),
    ]


def test_a_sentence_with_several_anatomies_is_cut() -> None:
    texts = decompose(
        "Emphysema, and the liver is steatotic, while no gallstones or hiatal hernia are seen.", VOCABULARY
    )
    assert texts["lung"].findings == "Emphysema."
    assert texts["liver"].findings == "The liver is steatotic."
    assert texts["gallbladder"].findings == texts["esophagus"].findings
    assert "no gallstones or hiatal hernia" in texts["gallbladder"].findings.lower()
    assert texts["gallbladder"].normal


@pytest.mark.parametrize(
    ("text", "finding", "mention"),
    [
        ("No evidence of pleural effusion.", "lung.pleural_effusion", "absent"),
        ("Pleural effusion is not seen.", "lung.pleural_effusion", "absent"),
        ("Pleural effusion, nodule or consolidation is not identified.", "lung.nodule", "absent"),
        ("No pleural effusion but a nodule in the lung.", "lung.nodule", "present"),
        ("No pleural effusion and mild emphysema.", "lung.emphysema", "present"),
        ("No significant change of the pleural effusion.", "lung.pleural_effusion", "present"),
        ("Emphysema is unlikely.", "lung.emphysema", "uncertain"),
        ("Opacity, possibly pneumonia, and emphysema.", "lung.emphysema", "present"),
        ("No definite or suspected pneumothorax.", "lung.pneumothorax", "absent"),
        ("Possible nodule in the left lower lobe.\nImpression: Lung nodule.", "lung.nodule", "present"),
        ("A nodule of the thyroid.", "lung.nodule", "unmentioned"),
        ("The lungs are unremarkable.", "lung.nodule", "unmentioned"),
    ],
)
def test_negation_and_doubt(text: str, finding: str, mention: str) -> None:
    assert label(text, VOCABULARY)[finding] == mention


def test_every_finding_has_words_and_is_found_by_its_title() -> None:
    assert load_words().findings.keys() == {finding.key for finding in VOCABULARY.findings}
    for finding in VOCABULARY.findings:
        where = "" if finding.anatomy == "scan" else f"{finding.anatomy.replace('_', ' ')}: "
        assert label(f"{where}{finding.title}.", VOCABULARY)[finding.key] == Mention.PRESENT, finding.key


def test_a_smaller_vocabulary() -> None:
    """What is said of anatomies that it has not goes nowhere; the duodenum is small intestine."""
    small = VOCABULARY.model_copy(
        update={"anatomies": tuple(a for a in VOCABULARY.anatomies if a.name in ("heart", "small_intestine"))}
    )
    texts = decompose("Emphysema. It is severe. Cardiomegaly. Duodenal ulcer.", small)
    assert {name: text.findings for name, text in texts.items()} == {
        "heart": "Cardiomegaly.",
        "small_intestine": "Duodenal ulcer.",
    }


def test_captions() -> None:
    both = AnatomyText("kidney", 'A "simple" cyst (left).', "Renal cyst", normal=False)
    assert both.caption() == 'Renal cyst. A "simple" cyst (left).'
    assert both.caption(as_reference=True) == "Renal cyst.A simple cyst left."
    only_findings = AnatomyText("kidney", "Renal cyst.", "", normal=False)
    assert not only_findings.counts_as_normal()
    assert only_findings.counts_as_normal(as_reference=True)
    nothing = AnatomyText("adrenal_gland", "", "", normal=True)
    assert (
        nothing.caption() == nothing.caption(as_reference=True) == "adrenal gland shows no significant abnormalities."
    )


@pytest.mark.parametrize(
    "report", ["", "\n\n:::", "Findings:", "....", "no", "1.", "🫁 " * 50, "a" * 20_000, "no, " * 2000]
)
def test_any_text_is_taken(report: str) -> None:
    assert all(text.normal for text in decompose(report, VOCABULARY).values())
    assert set(label(report, VOCABULARY).values()) == {Mention.UNMENTIONED}


def test_a_sentence_without_end_costs_no_more_than_its_length() -> None:
    endless = "No mass" + ", nodule" * 20_000 + " or pleural effusion. Gallstones."
    assert said(endless)["gallbladder"] is False


def test_layouts_keep_the_sections_apart() -> None:
    report = write_report(PhantomPatient.draw(5))
    for layout in range(6):
        assert sections_of(phantom_report(report, layout)) == {
            "findings": report.findings,
            "impression": report.impression,
        }


@pytest.mark.parametrize(
    ("content", "why"),
    [("- {text: A, normal: [hand]}", "hand"), ("- {text: A, words: A}", "Extra inputs"), ("a: [", "cannot be read")],
)
def test_damaged_annotations(content: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "sentences.yaml"
    file.write_text(content)
    with pytest.raises(SentencesError, match=why):
        read_sentences(file, VOCABULARY)
