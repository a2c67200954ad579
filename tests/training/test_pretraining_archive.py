"""A run on shards, by the command: from a folder of `train shards` to a result; what is wrong with it is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fvlm.tokenizer import save_tokenizer
from tests.training.shard_data import NAMES, PLAN, study
from training.cli import app
from training.pretraining.archive import ShardBatches
from training.pretraining.config import PretrainError
from training.shards.build import build
from training.vocabulary_text import build_tokenizer

REPORTS = (
    "Findings: A nodule in the right upper lobe. The heart is normal.\nImpression: Lung nodule.",
    "Findings: The heart is enlarged. Pericardial effusion.\nImpression: Cardiomegaly.",
    "Findings: Emphysema in both lungs.\nImpression: Emphysema.",
    "Findings: The lungs are clear.\nImpression: Normal chest.",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four studies and a tokenizer of their words."""
    folder = tmp_path_factory.mktemp("archive")
    studies = [study(f"s{number}", report=report, seed=number) for number, report in enumerate(REPORTS)]
    build(studies, (), PLAN, folder / "shards", 1, lambda *_: None)
    (folder / "tokenizer").mkdir()
    save_tokenizer(build_tokenizer(REPORTS), folder / "tokenizer")
    return folder


def _config(folder: Path, **changed: Any) -> Path:
    model = {
        "anatomies": list(NAMES), "image_shape": [8, 16, 16], "patch": [4, 4, 4], "width": 32, "depth": 2, "heads": 2,
        "levels": [0], "attention_heads": 2, "embedding": 16, "dropout": 0.0,
        "text": {"width": 32, "depth": 1, "heads": 2, "max_positions": 64, "max_tokens": 64},
    }  # fmt: skip
    content = {
        "name": "archive",
        "method": "fvlm",
        "correction": {"abnormal": "jaccard"},
        "model": model,
        "tokenizer": "tokenizer",
        "data": {"kind": "shards", "folder": "shards"},
        "recipe": {"batch": {"size": 4, "micro": 2}, "schedule": {"epochs": 2, "warmup_steps": 1}},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({**content, **changed}))
    return file


def _command(config: Path, out: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["pretrain", str(config), "--out", str(out), "--device", "cpu", *more])
    return done.exit_code, done.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("method", "changed"),
    [("fvlm", {}), ("clip", {"correction": {}}), ("supervised", {"correction": {}, "findings": ["lung.nodule"]})],
)
def test_every_method_trains_on_shards(shards: Path, tmp_path: Path, method: str, changed: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    status, said = _command(_config(shards, method=method, **changed), tmp_path)
    assert status == 0, said
    about = json.loads((tmp_path / "result" / "result.json").read_text())
    assert (about["method"], about["preprocess"]["window"]) == (method, list(PLAN.preprocess.window))
    assert about["findings"] == changed.get("findings", list(PLAN.findings))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_batch_is_decided_by_seed_epoch_and_study_alone(shards: Path) -> None:
    one, other = (ShardBatches(shards / "shards", "train", ()) for _ in range(2))
    together, alone = one.batch([2, 0, 1], (7, 3)), other.batch([1], (7, 3))
    assert torch.equal(together.image[2:], alone.image)
    assert torch.equal(together.labels[2:], alone.labels)
    assert not torch.equal(alone.image, other.batch([1], (7, 4)).image)
    assert together.captions[2] == alone.captions[0]


def test_what_a_report_leaves_open_is_no_label(shards: Path) -> None:
    data = ShardBatches(shards / "shards", "train", ())
    batch = data.batch(range(len(data)), (0, 0))
    (row,) = (row for row, report in enumerate(batch.reports) if "nodule in the right upper" in report)
    assert float(batch.findings[row, data.findings.index("lung.nodule")]) == 1.0
    assert set(batch.findings[~batch.findings.isnan()].tolist()) <= {0.0, 1.0}
    assert bool(batch.findings.isnan().any())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": {"kind": "shards", "folder": "nothing"}}, "data.folder: "),
        ({"data": {"kind": "shards", "folder": "shards", "split": "test"}}, "no shard of split test"),
        ({"findings": ["lung.sunshine"]}, "the vocabulary has no finding lung.sunshine"),
    ],
)
def test_wrong_data_is_said_with_status_2(shards: Path, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    status, output = _command(_config(shards, **changed), tmp_path, "--dry-run")
    assert status == 2
    assert said in output


def test_anatomies_in_another_order_are_refused(shards: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(_config(shards).read_text())
    config["model"]["anatomies"] = ["heart", "lung", "liver"]
    file = shards / "other.yaml"
    file.write_text(yaml.safe_dump(config))
    status, output = _command(file, tmp_path)
    assert status == 2
    assert "those of the data lung, heart, liver; set the model's to the data's" in output


def test_a_crop_of_another_shape_is_refused_before_the_first_step(shards: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(_config(shards).read_text())
    config["model"]["image_shape"] = [8, 8, 8]
    file = shards / "shape.yaml"
    file.write_text(yaml.safe_dump(config))
    status, output = _command(file, tmp_path)
    assert status == 2
    assert "model.image_shape is (8, 8, 8), the data's crops are (8, 16, 16)" in output
    assert not (tmp_path / "checkpoints").exists()


def test_a_shard_that_broke_stops_the_run_by_name(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    copy.mkdir()
    for file in (shards / "shards").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    broken = sorted(copy.glob("*.shard*")) or sorted(f for f in copy.iterdir() if f.suffix != ".json")
    broken[0].write_bytes(broken[0].read_bytes()[:64])
    data = ShardBatches(copy, "train", ())
    with pytest.raises(PretrainError, match=r"data\.folder: .*"):
        data.batch(range(len(data)), (0, 0))
