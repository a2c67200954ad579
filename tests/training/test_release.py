"""`fvlm-node train release`: a finished run becomes a release that loads, whose card holds the figures of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fvlm.checkpoint import load_release
from fvlm.config import PreprocessConfig
from fvlm.release import ReleaseError, read_release
from tests.training.toy_archive import SHAPE, ToyArchive, toy_model
from training.cli import app
from training.pretraining.config import PhantomData, RunConfig
from training.pretraining.result import save_result
from training.pretraining.trainees import ClipTrainee, FVLMTrainee
from training.release.card import Statement
from training.release.from_run import Title, release_run

PREPROCESS = PreprocessConfig(spacing=(20.0, 20.0, 20.0), window=SHAPE, windows="whole")
SAID = Statement("Invented studies.", "To test a test.", "CC0", "name: toy\n")
TITLE = Title("Site", "7", "Hospital")


def _run(folder: Path, method: str = "fvlm") -> Path:
    """What a finished run leaves."""
    tokenizer = ToyArchive().tokenizer()
    model = toy_model(len(tokenizer))
    torch.manual_seed(0)
    trainee = FVLMTrainee(model, tokenizer) if method == "fvlm" else ClipTrainee(model, tokenizer)
    data = PhantomData(kind="phantom", patients=8, preprocess=PREPROCESS)
    config = RunConfig.model_validate({"name": "toy", "method": method, "model": model, "data": data})
    save_result(folder / "result", trainee, config, PREPROCESS, tokenizer)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run(tmp_path_factory.mktemp("run"))


def _evaluation(file: Path, digest: str) -> Path:
    estimate = {"value": 0.8125, "low": 0.7, "high": None}
    whole = {"value": 0.9, "low": 0.85, "high": 0.95}
    row = {"target": "Lung nodule", "volumes": 40, "positives": 10, "not_assessed": 0, "threshold": None}
    identity = {"name": "Site", "version": "7", "digest": digest, "manufacturer": "", "test_only": True}
    found: dict[str, Any] = {
        "data_set": "CT-RATE", "volumes": 40, "patients": 38, "missing": 1, "release": identity,
        "masks": identity | {"name": "TotalSegmentator"}, "problems": {"x": "broken"}, "not_assessed": {},
        "left_out": [],
        "sections": [
            {"title": "As published", "protocol": "The published one.",
             "rows": [row | {"metrics": {"auc": whole, "f1": estimate}}], "macro": {"auc": whole}},
        ],
    }  # fmt: skip
    file.write_text(json.dumps(found))
    return file


def test_a_run_becomes_a_release_that_loads(run: Path, tmp_path: Path) -> None:
    digest = release_run(run, tmp_path / "draft", TITLE, "ct-rate", SAID)
    model = load_release(tmp_path / "draft")
    assert model.release is not None
    assert (model.release.digest, model.release.config.test_only) == (digest, True)
    assert {finding.anatomy for finding in model.release.findings} == {"lung", "heart"}
    assert model.release.config.preprocess == PREPROCESS
    for told in ("TEST MODEL", "Invented studies.", "To test a test.", "CC0", "name: toy", "Not measured yet"):
        assert told in model.release.card
    assert release_run(run / "result", tmp_path / "again", TITLE, "ct-rate", SAID) == digest


def test_the_card_holds_the_figures_of_this_very_release(run: Path, tmp_path: Path) -> None:
    clinical = Title("Site", "7", "Hospital", clinical=True)
    with pytest.raises(ReleaseError, match="needs an evaluation"):
        release_run(run, tmp_path / "none", clinical, "ct-rate", SAID)
    digest = release_run(run, tmp_path / "draft", TITLE, "ct-rate", SAID)
    file = _evaluation(tmp_path / "results.json", digest)
    measured = release_run(run, tmp_path / "release", TITLE, "ct-rate", SAID, [file])
    card = read_release(tmp_path / "release").card
    assert "| Lung nodule | 10 / 40 | 90.0 (85.0-95.0) | - | - | - |" in card
    assert digest in card
    assert measured != digest
    assert (tmp_path / "release" / "model.safetensors").read_bytes() == (
        tmp_path / "draft" / "model.safetensors"
    ).read_bytes()
    with pytest.raises(ReleaseError, match="evaluate that"):
        release_run(run, tmp_path / "other", Title("Site", "8", "Hospital"), "ct-rate", SAID, [file])
    assert not (tmp_path / "other").exists()


def test_the_figures_of_train_evaluate_are_read_too(run: Path, tmp_path: Path) -> None:
    digest = release_run(run, tmp_path / "draft", TITLE, "ct-rate", SAID)
    found = json.loads(_evaluation(tmp_path / "results.json", digest).read_text())
    (section,) = found.pop("sections")
    for name in ("data_set", "volumes", "missing", "masks"):
        found.pop(name)
    other = section | {"title": "Another protocol"}
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(found | {"data": "shards", "studies": 40, "zero_shot": section, "protocol": [other]}))
    release_run(run, tmp_path / "release", TITLE, "ct-rate", SAID, [file])
    card = read_release(tmp_path / "release").card
    assert "On shards: 40 volumes of 38 patients" in card
    assert "### Another protocol" in card


def test_what_is_no_finished_run_of_fvlm_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ReleaseError, match="not the result of a finished run"):
        release_run(tmp_path, tmp_path / "out", TITLE, "ct-rate", SAID)
    with pytest.raises(ReleaseError, match="only fvlm"):
        release_run(_run(tmp_path / "clip", "clip"), tmp_path / "out", TITLE, "ct-rate", SAID)
    with pytest.raises(ReleaseError, match="preset none"):
        release_run(run, tmp_path / "out", TITLE, "none", SAID)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"no results\.json"):
        release_run(run, tmp_path / "out", TITLE, "ct-rate", SAID, [tmp_path / "bad.json"])


def test_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    arguments = ["release", str(run), "--out", str(out), "--name", "Site", "--version", "7", "--data", "Invented."]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert read_release(out).config.name == "Site"
    assert CliRunner().invoke(app, arguments).exit_code == 2, "the folder exists"
