"""What the SR says: read back it is the reading, and every statement about presence is one that can be made."""

import math
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from sr_synthetic import (
    MOMENT,
    SERIES,
    anatomy_map,
    as_test_model,
    ct_headers,
    empty_map,
    nothing_assessed,
    nothing_present,
    reading,
)

import dicom_sr
from config import WHOLE_SCAN, Reason, load_vocabulary
from dicom_sr import codes
from dicom_sr.groups import percent
from dicom_sr.report import processing_summary, summary_sentences
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict

PRESENT_FINDING = Finding("lung.nodule", 0.9, Verdict.PRESENT, 0.5)
ABSENT_FINDING = Finding("lung.nodule", 0.1, Verdict.ABSENT, 0.5)
UNSURE = Finding("lung.nodule", 0.4, Verdict.UNDETERMINED, 0.5)
UNJUDGED = Finding("lung.nodule", 0.8, Verdict.NO_OPERATING_POINT)


def sr_of(of: Reading) -> Dataset:
    return dicom_sr.write(of, anatomy_map(), ct_headers())[-1]


def at_precision(of: Reading) -> Reading:
    """The reading as far as an SR keeps it."""
    return replace(
        of,
        anatomies=tuple(
            replace(
                anatomy,
                volume_ml=round(anatomy.volume_ml * 1000) / 1000,
                mean_hu=round(anatomy.mean_hu, 1),
                findings=tuple(
                    replace(finding, probability=round(percent(finding.probability) / 100, 4))
                    for finding in sorted(anatomy.findings, key=lambda f: -f.probability)
                ),
            )
            for anatomy in of.anatomies
        ),
    )


def items(parent: Dataset) -> Iterator[Dataset]:
    for child in parent.get("ContentSequence") or []:
        yield child
        yield from items(child)


@pytest.mark.parametrize(
    "of",
    [reading(), nothing_present(), nothing_present(complete=True), nothing_assessed(), as_test_model(reading())],
    ids=["findings", "negative", "all negative", "nothing", "test model"],
)
def test_read_back_it_is_the_reading(of: Reading, tmp_path: Path) -> None:
    sr_of(of).save_as(tmp_path / "sr.dcm")
    parsed = dicom_sr.read(dcmread(tmp_path / "sr.dcm"))
    assert parsed.reading == at_precision(of)
    assert parsed.verified is False
    assert parsed.reading.test_only == of.test_only


def test_read_back_without_segments() -> None:
    sr = dicom_sr.write(reading(), empty_map(), ct_headers())[-1]
    assert dicom_sr.read(sr).reading == at_precision(reading())


def test_whole_vocabulary_comes_back() -> None:
    """Every anatomy and finding has its own pair of codes."""
    vocabulary = load_vocabulary()
    whole = replace(
        reading(),
        anatomies=tuple(
            AnatomyReading(
                anatomy.name,
                100.0,
                40.0,
                tuple(
                    Finding(f.key, 0.5, UNSURE.verdict, 0.5) for f in vocabulary.findings if f.anatomy == anatomy.name
                ),
            )
            for anatomy in vocabulary.anatomies
        ),
        not_assessed=(),
    )
    parsed = dicom_sr.read(sr_of(whole))
    assert parsed.reading == whole
    of_anatomies = [finding for finding in vocabulary.findings if finding.anatomy != WHOLE_SCAN]
    assert len(set(parsed.tracking_uids.values())) == len(vocabulary.anatomies) + len(of_anatomies)


def test_never_verified_always_preliminary_and_complete() -> None:
    sr = sr_of(reading())
    assert (sr.VerificationFlag, sr.CompletionFlag, sr.PreliminaryFlag) == ("UNVERIFIED", "COMPLETE", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in sr
    assert "not verified" in sr.SeriesDescription


def everything_said(dataset: Dataset) -> str:
    return "\n".join(str(element.value) for element in dataset.iterall() if element.VR != "SQ")


def test_marker_of_a_test_model_is_everywhere_and_only_then() -> None:
    seg, sr = dicom_sr.write(as_test_model(reading()), anatomy_map(), ct_headers())
    for written in (seg, sr):
        assert dicom_sr.TEST_MARKER in written.SeriesDescription
        assert len(written.SeriesDescription) <= 64
        assert written.ContentQualification == "RESEARCH"
    assert seg.ContentDescription == dicom_sr.TEST_MARKER
    assert seg.ContentLabel == "TEST_MODEL"
    assert dicom_sr.TEST_MARKER in dicom_sr.read(sr).statements
    parameters = [str(i.TextValue) for i in items(sr) if codes.is_a(i, codes.ALGORITHM_PARAMETERS)]
    assert f"use={dicom_sr.TEST_MARKER}" in parameters
    for written in dicom_sr.write(reading(), anatomy_map(), ct_headers()):
        assert "TEST" not in everything_said(written).upper()


def test_a_test_segmenter_alone_marks_the_seg_too() -> None:
    of = replace(reading(), segmenter=replace(reading().segmenter, test_only=True))
    seg, _ = dicom_sr.write(of, anatomy_map(segmenter=of.segmenter), ct_headers())
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert dicom_sr.TEST_MARKER in algorithm.AlgorithmParameters


def test_groups_are_what_viewers_need() -> None:
    """Containers SEPARATE, one image in the library, tracking UID the first UIDREF, a child under each NUM."""
    sr = sr_of(reading())
    assert sr.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert {i.ContinuityOfContent for i in [sr, *items(sr)] if i.ValueType == "CONTAINER"} == {"SEPARATE"}
    library = next(i for i in sr.ContentSequence if codes.code_of(i.ConceptNameCodeSequence[0]).value == "111028")
    assert len([i for i in items(library) if i.ValueType == "IMAGE"]) == 1
    groups = [i for i in items(sr) if codes.is_a(i, codes.MEASUREMENT_GROUP)]
    assert len(groups) == 3 + 6 + 1
    for group in groups:
        assert codes.is_a(next(i for i in group.ContentSequence if i.ValueType == "UIDREF"), codes.TRACKING_UID)
        assert all(i.get("ContentSequence") for i in group.ContentSequence if i.ValueType == "NUM")
        assert any("ReferencedSOPSequence" in i for i in group.ContentSequence)


def test_findings_of_an_anatomy_fall_in_probability() -> None:
    lung = dicom_sr.read(sr_of(reading())).reading.anatomies[0]
    assert [f.key for f in lung.findings] == ["lung.nodule", "lung.peribronchial_thickening", "lung.emphysema"]


def test_no_verdict_without_operating_point() -> None:
    sr = sr_of(reading())
    tumor = load_vocabulary().finding("liver.tumor").code
    verdicts = [i for i in items(sr) if i.ValueType == "CODE" and codes.is_a(i, codes.coded(tumor))]
    assert verdicts == []


@pytest.mark.parametrize(
    ("findings", "complete", "code", "sentence"),
    [
        ((PRESENT_FINDING,), True, codes.ALL_WITH_FINDINGS, "Present: Lung nodule (lung, 90.0 %)."),
        ((PRESENT_FINDING,), False, codes.SOME_WITH_FINDINGS, "Not assessed: 1 anatomy."),
        ((ABSENT_FINDING,), True, codes.ALL_WITHOUT_FINDINGS, "No finding of the model's list is present"),
        ((ABSENT_FINDING,), False, codes.SOME_WITHOUT_FINDINGS, "Not assessed: 1 anatomy."),
        ((UNSURE,), True, None, "Undetermined: Lung nodule"),
        ((UNJUDGED,), True, None, "Without operating point: 1 finding"),
        ((), False, codes.NONE_SUCCEEDED, "nothing is said about this series"),
    ],
)
def test_summary_says_only_what_can_be_said(
    findings: tuple[Finding, ...], complete: bool, code: object, sentence: str
) -> None:
    of = replace(
        reading(),
        anatomies=(AnatomyReading("lung", 1.0, 1.0, findings),) if findings else (),
        not_assessed=() if complete else (NotAssessed("heart", Reason.ANATOMY_ABSENT),),
    )
    said = " ".join(summary_sentences(of, load_vocabulary()))
    assert processing_summary(of) == code
    assert sentence in said
    negative = "No finding of the model's list is present" in said
    assert negative == (bool(findings) and findings[0].verdict is Verdict.ABSENT)


@pytest.mark.parametrize(
    ("findings", "sentence"),
    [
        ((ABSENT_FINDING,), "No finding of the model's list is present in the assessed anatomies."),
        (
            (ABSENT_FINDING, UNSURE),
            "None of the 2 judged findings is called present; 1 of them is undetermined.",
        ),
        (
            (ABSENT_FINDING, UNSURE, UNJUDGED, UNJUDGED),
            "None of the 2 judged findings is called present; 1 of them is undetermined, 2 more have no operating "
            "point.",
        ),
        (
            (ABSENT_FINDING, UNJUDGED),
            "None of the 1 judged finding is called present; 1 more has no operating point.",
        ),
    ],
)
def test_the_negative_claims_no_more_than_was_judged(findings: tuple[Finding, ...], sentence: str) -> None:
    of = replace(reading(), anatomies=(AnatomyReading("lung", 1.0, 1.0, findings),), not_assessed=())
    assert summary_sentences(of, load_vocabulary())[0] == sentence


def test_what_is_only_partly_in_the_scan_is_named() -> None:
    whole, cut = (AnatomyReading(name, 1.0, 1.0, (ABSENT_FINDING,), cut=name == "aorta") for name in ("lung", "aorta"))
    said = summary_sentences(replace(reading(), anatomies=(whole, cut)), load_vocabulary())
    assert "Only partly in the scan, and read as far as they are: Aorta." in said
    assert not any("partly" in line for line in summary_sentences(reading(), load_vocabulary()))


@pytest.mark.parametrize(("calibrated", "said"), [(0, "not calibrated"), (1, "1 of 2 calibrated"), (2, "calibrated")])
def test_the_report_says_whether_its_certainties_are_calibrated(calibrated: int, said: str) -> None:
    findings = tuple(Finding("lung.nodule", 0.1, Verdict.ABSENT, 0.5, n < calibrated, 0.2) for n in range(2))
    of = replace(reading(), anatomies=(AnatomyReading("lung", 1.0, 1.0, findings),))
    assert f"The certainties are probabilities of the model, {said}." in summary_sentences(of, load_vocabulary())


@given(st.floats(0, 1))
def test_percent_has_one_decimal_and_is_near(probability: float) -> None:
    value = percent(probability)
    assert 0 <= value <= 100
    assert abs(value - probability * 100) <= 0.05 + 1e-9
    assert len(str(value)) <= 5
    assert str(value).split(".")[1] == f"{value:.1f}"[-1]


@pytest.mark.parametrize("probability", [math.nan, -0.01, 1.01])
def test_probability_out_of_range_is_refused(probability: float) -> None:
    of = reading(lung=(Finding("lung.nodule", probability, Verdict.PRESENT, 0.5),))
    with pytest.raises(dicom_sr.WriteError, match=r"lung\.nodule"):
        sr_of(of)


def test_volume_that_is_no_number_is_refused() -> None:
    of = reading(anatomies=(AnatomyReading("lung", math.inf, 0.0, ()),))
    with pytest.raises(dicom_sr.WriteError):
        sr_of(of)


def test_unknown_finding_is_refused() -> None:
    with pytest.raises(dicom_sr.WriteError) as caught:
        sr_of(reading(lung=(Finding("lung.unheard_of", 0.5, Verdict.ABSENT, 0.6),)))
    assert caught.value.reason is Reason.INVALID_OBJECT


def test_times_are_in_the_zone_of_the_source() -> None:
    sr = dicom_sr.write(reading(), anatomy_map(), ct_headers(TimezoneOffsetFromUTC="-0330"))[-1]
    assert (sr.ContentDate, sr.ContentTime, sr.TimezoneOffsetFromUTC) == ("20260301", "050015.250000", "-0330")
    assert dicom_sr.read(sr).reading.analysed_at == MOMENT
    own = sr_of(replace(reading(), analysed_at=datetime(2026, 3, 1, 23, 59, 59, 1, timezone(timedelta(hours=5.5)))))
    assert (own.ContentDate, own.ContentTime, own.TimezoneOffsetFromUTC) == ("20260301", "235959.000001", "+0530")
    with pytest.raises(dicom_sr.WriteError):
        sr_of(replace(reading(), analysed_at=datetime(2026, 3, 1)))


def test_text_has_names_values_and_no_patient() -> None:
    text = dicom_sr.as_text(sr_of(reading()))
    for line in (
        "    Comment: AI result, not verified by a radiologist.",
        "      Certainty of Finding: 91.3 %",
        "      Volume: 5231410 mm3",
        "      Attenuation Coefficient: -801.3 Hounsfield unit",
        "      Nodule of lung: Present",
        "    Kidney: Not Evaluated",
        "      Reason for not being assessed: The anatomy is cut by the border of the scan.",
        "      Comment: 4 % of the surface lies on the border",
        f"      Source Series for Segmentation: {SERIES}",
    ):
        assert line in text.splitlines()
    assert "Müller" not in text
    assert "P-17" not in text


def test_what_is_not_our_report_is_refused() -> None:
    with pytest.raises(dicom_sr.ReadError):
        dicom_sr.read(ct_headers(count=1)[0])
    with pytest.raises(dicom_sr.ReadError):
        dicom_sr.as_text(ct_headers(count=1)[0])
    sr = sr_of(reading())
    del sr.ContributingEquipmentSequence
    with pytest.raises(dicom_sr.ReadError):
        dicom_sr.read(sr)


@pytest.mark.peers
@pytest.mark.parametrize("of", [reading(), nothing_assessed()], ids=["findings", "nothing"])
def test_dcmtk_prints_it_without_complaint(of: Reading, tmp_path: Path) -> None:
    sr_of(of).save_as(tmp_path / "sr.dcm")
    done = subprocess.run(["dsrdump", tmp_path / "sr.dcm"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]
    assert "Certainty of Finding" in done.stdout or of.anatomies == ()
