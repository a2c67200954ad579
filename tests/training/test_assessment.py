"""`train evaluate`: a tiny release on phantoms and on shards, and each figure on data whose answer is known."""

import json
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from data_sets import PROMPTS, SHAPE, SPACING, write_release
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from ct.phantom import ANATOMIES, PhantomPatient
from fvlm import Reader, load_release
from fvlm.config import Calibration, FindingConfig
from fvlm.release import read_release
from training.assessment import retrieval as retrieving
from training.assessment.cases import Case, phantom_cases, shard_cases
from training.assessment.examined import Examined, examine
from training.assessment.probe import probe
from training.assessment.prompts import OWN, read_templates, robustness
from training.assessment.reliability import calibration_error, reliability
from training.assessment.run import Data, assess
from training.assessment.zero_shot import auc, scored, subgroups
from training.cli import app
from training.evaluation.data_set import DataError
from training.report_text import AnatomyText, Mention
from training.shards.build import build
from training.shards.format import ShardError
from training.shards.plan import ShardPlan
from training.sources.phantom import phantoms

PATIENTS = 24
FINDING = "heart.cardiomegaly"


def quiet(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "tiny"
    write_release(folder)
    return folder


@pytest.fixture(scope="module")
def shards(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coarse phantoms as shards, all for the test."""
    folder = tmp_path_factory.mktemp("shards")
    studies = [replace(study, split="test") for study in phantoms(PATIENTS, 0, SPACING, SHAPE).studies]
    found = read_release(release)
    plan = ShardPlan.of_release(found.config, tuple(PROMPTS))
    built = build(studies, (), plan, folder, 1, lambda *_: None)
    assert len(built.index.studies) == PATIENTS
    return folder


def test_shards_from_the_command_line(release: Path, shards: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(release), str(shards), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Zero-shot, macro AUC %" in done.output
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert (found["studies"], found["patients"], found["problems"]) == (PATIENTS, PATIENTS, {})
    assert found["release"]["digest"] == read_release(release).digest
    assert {row["finding"] for row in found["reliability"]} == set(PROMPTS)
    assert {row["attribute"] for row in found["subgroups"]} == {"contrast phase", "slice thickness", "sex", "age"}
    assert sum(row["cases"] for row in found["subgroups"] if row["attribute"] == "sex") == PATIENTS
    assert set(found["prompts"][0]["auc"]) == {OWN, *(template.name for template in read_templates())}
    page = (tmp_path / "evaluation.md").read_text()
    titles = ("Retrieval", "Prompts", "Calibration", "Subgroups", "CT-CLIP protocol: as published")
    assert all(f"## {title}\n" in page for title in titles)
    assert "TEST MODEL - NOT FOR CLINICAL USE" in page

    reader, scores, truth = Reader(load_release(release)), [], []
    for study in phantoms(PATIENTS, 0, SPACING, SHAPE).studies:
        reading = reader.read(*study.load(()))
        heart = next((a for a in reading.anatomies if a.anatomy == "heart"), None)
        if heart is not None:
            scores.append(next(f.probability for f in heart.findings if f.key == FINDING))
            truth.append(study.known[FINDING])
    row = next(row for row in found["zero_shot"]["rows"] if row["target"] == FINDING)
    assert (row["volumes"], row["positives"]) == (len(truth), sum(truth))
    assert row["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(truth, scores), abs=0.03)


def test_phantoms_and_a_run_that_goes_on(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data("phantoms", count=3, first=40)
    first = assess(release, data, tmp_path, "cpu", None, quiet)
    assert (first.studies, first.data) == (3, "3 phantoms, seeds 40 to 42")
    rows = {row.target: row.positives for row in first.zero_shot.rows}
    drawn = [PhantomPatient.draw(seed).keys for seed in (40, 41, 42)]
    assert rows == {key: sum(key in keys for keys in drawn) for key in PROMPTS}

    def refuse(*_: object) -> None:
        raise AssertionError("what is done is not done again")

    monkeypatch.setattr("training.assessment.examined._encode", refuse)
    again = assess(release, data, tmp_path, "cpu", None, quiet)
    assert json.dumps(again.zero_shot.rows, default=vars) == json.dumps(first.zero_shot.rows, default=vars)


def test_a_study_that_cannot_be_read_is_named(release: Path, tmp_path: Path) -> None:
    good, bad = phantom_cases(2, 40)

    def damaged() -> None:
        raise ShardError("shard.safetensors: damaged")

    model = load_release(release)
    findings = model.release.findings
    found = examine(model, findings, [replace(bad, load=damaged), good], tmp_path, quiet)
    assert found.problems == {"phantom/0000041": "shard.safetensors: damaged"}
    assert found.subjects == (good.subject,)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--split", "valid"), "no shard of split valid"),
        (("--templates", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--probe-split", "test"), "the same studies are evaluated"),
    ],
)
def test_user_errors(arguments: tuple[str, ...], why: str, release: Path, shards: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(release), str(shards), "--out", str(tmp_path), *arguments])
    assert done.exit_code == 2
    assert why in done.output


def test_shards_of_another_grid(release: Path, shards: Path, tmp_path: Path) -> None:
    config = read_release(release).config
    finer = config.model_copy(update={"preprocess": config.preprocess.model_copy(update={"spacing": (3.0, 1.0, 1.0)})})
    with pytest.raises(DataError, match="--release of this release"):
        shard_cases(shards, "test", finer)
    with pytest.raises(ShardError, match="cannot be read"):
        shard_cases(tmp_path, "test", config)


def known_answers(features: np.ndarray, positive: np.ndarray, **more: object) -> Examined:
    """N cases of one finding; features [N, E] are the heart's."""
    count = len(features)
    everywhere = np.full((count, len(ANATOMIES), features.shape[1]), np.nan)
    everywhere[:, ANATOMIES.index("heart")] = features
    nothing_said = tuple(AnatomyText(name, "", "", True) for name in ANATOMIES)
    found = Examined(
        subjects=tuple(map(str, range(count))),
        attributes=({},) * count,
        anatomies=ANATOMIES,
        findings=(FINDING,),
        features=everywhere,
        texts=(nothing_said,) * count,
        positive=positive[:, None],
        known=np.ones((count, 1), bool),
        problems={},
    )
    return replace(found, **more)


def test_probe_reads_what_is_there() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.4
    features = rng.normal(size=(200, 8))
    assert auc(scored(known_answers(features, positive), probe(known_answers(features, positive)))).macro[
        "auc"
    ].value == pytest.approx(0.5, abs=0.12)
    features[:, 3] += 4 * positive
    told = known_answers(features, positive)
    assert auc(scored(told, probe(told))).macro["auc"].value > 0.97


def test_probe_does_not_know_a_patient_from_another_fold() -> None:
    """Ten images of each patient, features that only say who it is."""
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(40), 10)
    features = np.eye(40)[owner] + rng.normal(scale=0.01, size=(400, 40))
    positive = (rng.random(40) < 0.5)[owner]
    told = known_answers(features, positive, subjects=tuple(f"p{number}" for number in owner))
    assert auc(scored(told, probe(told))).macro["auc"].value < 0.6
    alone = replace(told, subjects=tuple(map(str, range(400))))
    assert auc(scored(alone, probe(alone))).macro["auc"].value > 0.95


def test_probe_learns_from_another_split() -> None:
    """The finding lies in another direction there: what is told is what was learned, not what is evaluated."""
    rng = np.random.default_rng(2)
    positive = rng.random(200) < 0.4
    features = rng.normal(size=(200, 4))
    features[:, 0] += 4 * positive
    told = known_answers(features, positive)
    other = replace(known_answers(-features, positive), subjects=tuple(f"t{number}" for number in range(200)))
    assert auc(scored(told, probe(told, other))).macro["auc"].value < 0.1
    assert np.isnan(probe(told, told)).all(), "its own patients are not learned from"
    few = replace(other, known=(np.cumsum(positive) < 10)[:, None])
    assert np.isnan(probe(told, few)).all()


def test_probe_needs_ten_of_each_class() -> None:
    positive = np.arange(100) < 9
    assert np.isnan(probe(known_answers(np.random.default_rng(0).normal(size=(100, 4)), positive))).all()


def test_what_a_report_leaves_open_is_left_out() -> None:
    positive = np.array([True, False, False, True])
    told = known_answers(np.ones((4, 2)), positive, known=np.array([[True], [True], [False], [True]]))
    row = auc(scored(told, np.array([[0.9], [0.1], [0.95], [0.8]]))).rows[0]
    assert (row.volumes, row.metrics["auc"].value) == (3, 1.0)


def test_retrieval() -> None:
    own = np.array([0, 1, 2, 2])
    rate = partial(retrieving._rate, "heart")
    right = rate(np.eye(3)[own], own)
    assert right.image_to_text == right.text_to_image == {1: 1.0, 5: 1.0, 10: 1.0}
    assert (right.images, right.captions) == (4, 3)
    blind = rate(np.zeros((4, 3)), own)
    assert blind.image_to_text[1] == blind.text_to_image[1] == 0.0, "equals count in the worst order"
    second = rate(np.array([[0.5, 0.9, 0.0], [0.0, 1.0, 0.2], [0.1, 0.2, 0.9], [0.8, 0.7, 0.6]]), own)
    assert second.image_to_text[1] == 0.5
    assert second.image_to_text[5] == 1.0
    assert right.image_to_text_by_chance[1] == pytest.approx(1 / 3)


def test_chance_of_retrieval() -> None:
    drawn = list(combinations(range(7), 3))
    expected = sum(not {0, 1}.isdisjoint(some) for some in drawn) / len(drawn)
    assert retrieving._chance(7, 2, 3) == pytest.approx(expected)
    assert retrieving._chance(4, 2, 3) == 1.0


def test_calibration_error() -> None:
    labels = np.array([True, False, True, True])
    assert calibration_error(labels, np.array([0.9, 0.1, 0.9, 0.9])) == pytest.approx(0.1)
    assert calibration_error(np.array([True, False]), np.array([0.5, 0.5])) == 0.0
    assert calibration_error(np.array([False, False]), np.array([1.0, 1.0])) == 1.0


def test_reliability_is_that_of_the_release() -> None:
    told = known_answers(np.ones((2, 2)), np.array([True, False]))
    plain = FindingConfig(finding=FINDING, negative="No.", positive="Yes.")
    shifted = plain.model_copy(update={"calibration": Calibration(slope=1.0, intercept=-50.0)})
    probability = np.array([[0.5], [0.5]])
    bare, after = (reliability(told, probability, [finding])[0] for finding in (plain, shifted))
    assert (bare.ece, bare.brier, bare.calibrated) == (0.0, 0.25, False)
    assert (after.ece, after.brier, after.calibrated) == (pytest.approx(0.5), pytest.approx(0.5), True)


def test_prompt_robustness(release: Path) -> None:
    model = load_release(release)
    own = tuple(f for f in model.release.findings if f.finding == FINDING)
    rng = np.random.default_rng(0)
    told = known_answers(rng.normal(size=(50, model.config.embedding)), rng.random(50) < 0.5)
    same, turned = read_templates()[:2]
    same = same.model_copy(update={"name": "same", "negative": own[0].negative, "positive": own[0].positive})
    turned = turned.model_copy(update={"name": "turned", "negative": own[0].positive, "positive": own[0].negative})
    row = robustness(model, told, own, (same, turned))[0]
    assert row.auc["same"] == row.auc[OWN]
    assert row.auc["turned"] == pytest.approx(1 - row.auc[OWN])
    assert row.mean == pytest.approx((1 + row.auc[OWN]) / 3)
    assert row.variance == pytest.approx(np.var(list(row.auc.values()), ddof=1))


def test_templates_are_filled_in(tmp_path: Path) -> None:
    asked = read_templates()[-1].of("urinary_bladder.stone")
    assert asked.negative == "Urinary bladder shows no significant abnormalities."
    assert asked.positive == "Bladder stone."
    file = tmp_path / "templates.yaml"
    file.write_text("- {name: a, negative: b}")
    with pytest.raises(DataError, match=r"0\.positive: Field required"):
        read_templates(file)


def test_shards_that_were_made_again_are_encoded_again(release: Path, tmp_path: Path) -> None:
    case, other = phantom_cases(2, 40)
    model = load_release(release)

    def features(*cases: Case) -> np.ndarray:
        return examine(model, model.release.findings, cases, tmp_path, quiet).features

    first = features(case)
    assert np.array_equal(features(replace(case, load=other.load)), first, equal_nan=True)
    assert not np.array_equal(features(replace(case, load=other.load, content="new")), first, equal_nan=True)


def test_subgroups() -> None:
    positive = np.array([True, False] * 6)
    ages = ["35Y", "039Y", "40", "59.5", "60Y", "79", "80Y", "95", "10M", "", "old", "41"]
    scanners = [{"manufacturer": "A", "model": "1"}] * 6 + [{"manufacturer": "B"}] * 6
    known = tuple({**scanner, "age": age} for scanner, age in zip(scanners, ages, strict=True))
    told = known_answers(np.ones((12, 2)), positive)
    probability = np.where(np.arange(12) < 6, positive, ~positive).astype(float)[:, None]
    rows = subgroups(scored(told, probability), known)
    assert [(row.group, row.cases) for row in rows if row.attribute == "age"] == [
        ("below 40 years", 3),
        ("40 to 60 years", 3),
        ("60 to 80 years", 2),
        ("from 80 years", 2),
        ("unknown", 2),
    ]
    assert {row.group: row.macro_auc.value for row in rows if row.attribute == "scanner"} == {"A 1": 1.0, "B": 0.0}
    assert {row.macro_auc_of_all for row in rows if row.attribute == "scanner"} == {0.5}
    assert {row.attribute for row in rows} == {"scanner", "age"}


def test_unmentioned_counts_as_absent_and_uncertain_as_unknown(release: Path, tmp_path: Path) -> None:
    case = phantom_cases(1, 40)[0]
    about = case.about()
    said = {FINDING: Mention.UNCERTAIN, "lung.pleural_effusion": Mention.PRESENT}
    case = Case(case.key, case.subject, case.content, lambda: replace(about, labels=said), case.load)
    model = load_release(release)
    found = examine(model, model.release.findings, [case], tmp_path, quiet)
    told = dict(zip(found.findings, zip(found.positive[0], found.known[0], strict=True), strict=True))
    assert told[FINDING] == (False, False)
    assert told["lung.pleural_effusion"] == (True, True)
    assert told["lung.emphysema"] == (False, True)
