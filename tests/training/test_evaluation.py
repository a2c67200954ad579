"""Evaluation by the command line on tiny data sets of the published layouts, and calibration on its predictions."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_sets import KNOWN, patient, write_csv, write_ct_rate, write_rad_chestct, write_release
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from config import Settings
from ct.phantom import PhantomPatient, to_volume
from fvlm import Reader, load_release
from fvlm.config import Calibration
from fvlm.reading import Verdict
from fvlm.release import derive_release, read_release
from training.evaluation.cli import app
from training.evaluation.ct_rate import read_ct_rate
from training.evaluation.data_set import DataError
from training.evaluation.masks import LabelMaps
from training.evaluation.predictions import predict, read_predictions
from training.evaluation.rad_chestct import read_rad_chestct
from training.evaluation.run import evaluate

SCANS = 9


def fvlm_node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "tiny"
    write_release(folder)
    return folder


@pytest.fixture(scope="module")
def ct_rate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ct_rate(tmp_path_factory.mktemp("ct-rate"), SCANS, fixed=True)


def test_ct_rate_from_the_command_line(ct_rate: Path, release: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("evaluate", "ct-rate", "--data", ct_rate, "--release", release, "--out", out)
    done = fvlm_node(*arguments, "--masks", ct_rate / "masks")
    assert done.returncode == 0, done.stderr
    assert "As published" in done.stdout
    assert "Held out" in done.stdout
    predictions = read_predictions(out / "predictions.csv")
    assert len(predictions) == 2 * SCANS
    assert {p.patient for p in predictions} == {f"valid_{n}" for n in range(1, SCANS + 1)}
    assert {p.problem for p in predictions} == {""}
    results = json.loads((out / "results.json").read_text())
    assert (results["volumes"], results["patients"], results["missing"]) == (2 * SCANS, SCANS, 1)
    assert results["release"]["digest"] == read_release(release).digest
    assert set(results["left_out"]) >= {"Lung nodule", "Arterial wall calcification"}
    published = results["sections"][0]
    assert [row["target"] for row in published["rows"]] == [
        "Emphysema",
        "Pleural effusion",
        "Cardiomegaly",
        "Hiatal hernia",
    ]
    row = next(row for row in published["rows"] if row["target"] == "Cardiomegaly")
    truth = ["heart.cardiomegaly" in patient(int(p.patient.split("_")[1])).keys for p in predictions]
    scores = np.nan_to_num([p.probability["heart.cardiomegaly"] for p in predictions], nan=0.0)
    assert row["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(truth, scores))
    assert (row["positives"], row["volumes"]) == (sum(truth), 2 * SCANS)
    with (out / "results.csv").open() as file:
        assert [line["section"] for line in csv.DictReader(file)].count("Held out") == 5
    with (out / "labels.csv").open() as file:
        told = [line["heart.cardiomegaly"] == "1" for line in csv.DictReader(file)]
    assert told == truth
    report = (out / "report.md").read_text()
    for part in ("TEST MODEL", "Not assessed counts as probability 0", "(a third, by the SHA-256"):
        assert part in report
    again = fvlm_node(*arguments)
    assert again.returncode == 2
    assert "made with other masks" in again.stderr
    assert "Traceback" not in again.stderr


def test_volumes_as_first_published_are_put_right_by_the_metadata(tmp_path: Path) -> None:
    raw = read_ct_rate(write_ct_rate(tmp_path, 3, fixed=False))
    for case in raw.cases:
        volume = case.load()
        expected, _ = to_volume(patient(int(case.patient.split("_")[1])), (20.0, 9.0, 9.0), (31, 44, 46))
        assert np.abs(volume.hu - expected.hu).max() <= 1  # halved and doubled again
        assert volume.spacing == pytest.approx(expected.spacing)
        assert volume.grid.affine == pytest.approx(expected.grid.affine)
    assert raw.missing == 1
    columns = [target.name for target in raw.targets]
    for row, case in zip(raw.positive, raw.cases, strict=True):
        keys = patient(int(case.patient.split("_")[1])).keys
        assert {KNOWN[name] for name, there in zip(columns, row, strict=True) if there} == set(keys)


def test_rad_chestct(tmp_path: Path) -> None:
    data = read_rad_chestct(write_rad_chestct(tmp_path / "rad", 6))
    assert len(data.cases) == 6
    assert (data.missing, len(data.targets)) == (1, 14)
    assert [case.patient for case in data.cases] == ["m0", "m1", "m1", "m2", "m2", "m3"]
    expected, _ = to_volume(patient(1), (20.0, 9.0, 9.0), (31, 44, 46))
    volume = data.cases[0].load()
    assert np.array_equal(volume.hu, expected.hu.clip(-1000, 1000))
    assert volume.spacing == (0.8, 0.8, 0.8)
    names = [target.name for target in data.targets]
    found = [{names[column] for column in np.flatnonzero(row)} for row in data.positive]
    assert found == [{"Cardiomegaly"}, {"Pleural effusion"}, set()] * 2
    (tmp_path / "rad" / "tst00001.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="no readable array"):
        data.cases[0].load()


def test_rad_chestct_with_the_configured_segmenter_where_nothing_can_be_assessed(release: Path, tmp_path: Path) -> None:
    """The cubes are so small that every organ is implausible: all counts as probability 0, or is left out."""
    data, out = write_rad_chestct(tmp_path / "rad", 6), tmp_path / "out"
    done = CliRunner().invoke(app, ["rad-chestct", *map(str, ("--data", data, "--release", release, "--out", out))])
    assert done.exit_code == 0, done.output
    results = json.loads((out / "results.json").read_text())
    assert results["masks"]["name"] == "fVLM Node phantom segmenter"
    published, held = results["sections"]
    rows = {row["target"]: row for row in published["rows"]}
    assert rows["Cardiomegaly"]["not_assessed"] == 6
    assert rows["Cardiomegaly"]["metrics"]["auc"]["value"] == 0.5
    assert rows["Cardiomegaly"]["metrics"]["specificity"]["value"] == 1.0
    assert {row["volumes"] for row in held["rows"]} == {0}
    assert held["macro"]["auc"]["value"] is None
    assert sum(results["not_assessed"].values()) == 6 * 15
    again = CliRunner().invoke(
        app, ["rad-chestct", *map(str, ("--data", tmp_path, "--release", release, "--out", out))]
    )
    assert again.exit_code == 2


def test_operating_points_of_the_release_are_judged_after_calibration(
    ct_rate: Path, release: Path, tmp_path: Path
) -> None:
    """A calibrated release writes the same predictions; its own section calls present what a Reading would."""
    plain = read_release(release)
    bent = Calibration(slope=2.0, intercept=-0.3)
    findings = [f.model_copy(update={"calibration": bent, "threshold": 0.45}) for f in plain.findings]
    derive_release(plain, findings, plain.card, tmp_path / "calibrated")
    data, settings = read_ct_rate(ct_rate), Settings()
    found = evaluate(data, tmp_path / "calibrated", ct_rate / "masks", settings, tmp_path / "out", lambda *_: None)
    assert [section.title for section in found.sections][2] == "Operating points of the release"
    row = next(row for row in found.sections[2].rows if row.target == "Cardiomegaly")
    reader = Reader(load_release(tmp_path / "calibrated"))
    masks = LabelMaps(ct_rate / "masks", plain.config.model.anatomies)
    called, there = [], []
    for case in data.cases:
        volume = case.load()
        reading = reader.read(volume, masks.find(case.name, volume))
        verdicts = {f.key: f.verdict for a in reading.anatomies for f in a.findings}
        if "heart.cardiomegaly" in verdicts:
            called.append(verdicts["heart.cardiomegaly"] is Verdict.PRESENT)
            there.append("heart.cardiomegaly" in patient(int(case.patient.split("_")[1])).keys)
    assert row.volumes == len(called)
    assert row.metrics["accuracy"].value == pytest.approx(np.mean(np.array(called) == np.array(there)))


def test_an_interrupted_run_goes_on_and_broken_volumes_are_told(release: Path, tmp_path: Path) -> None:
    data_dir = write_ct_rate(tmp_path / "data", 4, fixed=True)
    broken = data_dir / "dataset" / "valid_fixed" / "valid_2" / "valid_2_a" / "valid_2_a_2.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    data, out = read_ct_rate(data_dir), tmp_path / "out"
    model = load_release(release)
    masks = LabelMaps(data_dir / "masks", model.config.anatomies)
    stopped = []

    def stop(done: int, _: int) -> None:
        stopped.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(data, load_release(release), masks, out, stop)
    file = out / "predictions.csv"
    with file.open("a") as half:
        half.write("valid_4_a_1,valid_4,,,0.1")  # power went
    seen: list[int] = []
    first = predict(data, load_release(release), masks, out, lambda done, _: seen.append(done))
    assert seen[0] == 4  # the broken one is tried again
    assert [p.volume for p in first] == [case.name for case in data.cases]
    assert [p.volume for p in first if p.problem] == ["valid_2_a_2"]
    broken.write_bytes(whole)
    seen.clear()
    second = predict(data, load_release(release), masks, out, lambda done, _: seen.append(done))
    assert seen == [7, 8]
    straight = predict(data, load_release(release), masks, tmp_path / "other", lambda *_: None)
    assert second == straight
    assert not [p for p in second if p.problem]


def test_label_maps_by_another_numbering(ct_rate: Path, release: Path, tmp_path: Path) -> None:
    """`labels.json` says which labels of the maps are an anatomy, as for TotalSegmentator's."""
    anatomies = read_release(release).config.model.anatomies
    data = read_ct_rate(ct_rate)
    case, volume = data.cases[0], data.cases[0].load()
    plain = LabelMaps(ct_rate / "masks", anatomies).find(case.name, volume)
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / f"{case.name}.nii.gz").write_bytes((ct_rate / "masks" / f"{case.name}.nii.gz").read_bytes())
    (folder / "labels.json").write_text('{"heart": [2, 3], "lung": [1], "toe": [9]}')
    merged = LabelMaps(folder, anatomies).find(case.name, volume)
    assert merged.names == ("lung", "heart")
    assert np.array_equal(merged.labels == 1, plain.labels == 1)
    assert np.array_equal(merged.labels == 2, (plain.labels == 2) | (plain.labels == 3))
    assert merged.measures["lung"] == plain.measures["lung"]
    for content in ("[]", '{"lung": [1], "heart": [1]}', '{"lung": [300]}', "{"):
        (folder / "labels.json").write_text(content)
        with pytest.raises(DataError, match=r"labels\.json"):
            LabelMaps(folder, anatomies)
    with pytest.raises(DataError, match="no label map"):
        LabelMaps(tmp_path / "nowhere", anatomies)
    other, _ = to_volume(PhantomPatient.draw(1), (10.0, 9.0, 9.0), (62, 44, 46))
    with pytest.raises(DataError, match="must lie on the volume's grid"):
        LabelMaps(ct_rate / "masks", anatomies).find(case.name, other)


def test_a_data_set_that_is_not_there_is_told(tmp_path: Path, ct_rate: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_ct_rate(tmp_path)
    with pytest.raises(DataError, match="or one of its siblings"):
        read_rad_chestct(tmp_path)
    labels = tmp_path / "dataset" / "multi_abnormality_labels" / "valid_predicted_labels.csv"
    good = (ct_rate / "dataset" / "multi_abnormality_labels" / "valid_predicted_labels.csv").read_text()
    labels.parent.mkdir(parents=True)
    for content, told in (
        (good.replace("Emphysema", "Emph"), "no column Emphysema"),
        (good, r"validation_metadata\.csv: cannot be read"),
    ):
        labels.write_text(content)
        with pytest.raises(DataError, match=told):
            read_ct_rate(tmp_path)
    (tmp_path / "dataset" / "valid_fixed").mkdir()
    with pytest.raises(DataError, match="none of the 19 labelled volumes is there"):
        read_ct_rate(tmp_path)


def test_calibrate_from_the_command_line(release: Path, tmp_path: Path) -> None:
    """Overconfident probabilities of 600 volumes: what was bent is put right, and the release is another one."""
    random = np.random.default_rng(0)
    right = random.uniform(0.02, 0.98, 600)
    positive = random.random(600) < right
    bent = 1 / (1 + np.exp(-4 * np.log(right / (1 - right))))
    run = tmp_path / "run"
    run.mkdir()
    before = read_release(release)
    (run / "run.json").write_text(json.dumps({"release": before.digest}))
    findings = [finding.finding for finding in before.findings]
    rows = [[f"v{n}", f"p{n // 2}", "", "", p, "", p, p] for n, p in enumerate(bent.tolist())]
    write_csv(run / "predictions.csv", ["volume", "patient", "problem", "not_assessed", *findings], rows)
    labels = [[f"v{n}.nii.gz", int(y), int(y), int(not y)] for n, y in enumerate(positive)]
    table, out = tmp_path / "labels.csv", tmp_path / "calibrated"
    write_csv(table, ["VolumeName", "Cardiomegaly", "lung.pleural_effusion", "lung.emphysema"], labels)
    arguments = ("calibrate", "--labels", table, "--predictions", run / "predictions.csv", "--release", release)
    done = fvlm_node(*arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    after = read_release(out)
    assert after.digest != before.digest
    assert after.digest in done.stderr
    fitted = {finding.finding: finding for finding in after.findings}
    heart = fitted["heart.cardiomegaly"]
    assert heart.calibration is not None
    assert heart.calibration.slope == pytest.approx(0.25, abs=0.06)
    assert 0 < heart.absent_below < heart.threshold < 1
    assert fitted["lung.emphysema"].threshold is None  # the labels run the other way
    assert fitted["lung.pleural_effusion"] == before.findings[1]  # nothing was assessed
    assert fitted["esophagus.hiatal_hernia"] == before.findings[3]  # no labels
    assert "only 0 positive and 0 negative" in done.stderr
    assert after.card.startswith("# Tiny")
    assert "Fitted on 600 volumes of 300 patients" in after.card
    assert load_release(out).release is not None
    refused = fvlm_node(*arguments[:-1], out, "--out", tmp_path / "twice")
    assert refused.returncode == 2
    assert "run fvlm-node evaluate with this release" in refused.stderr
