"""The YAML file and the command: wrong keys are named before anything runs; presets are whole; the dry run is true."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fvlm.config import ModelConfig, TextConfig
from fvlm.model import FVLM
from tests.training.toy_archive import ToyArchive, toy_model
from training.cli import app
from training.pretraining.batches import Batch
from training.pretraining.config import PRESETS, BatchConfig, PretrainError, RecipeConfig, load_config
from training.pretraining.cost import activation_bytes, counted_flops, step_flops
from training.pretraining.result import load_result
from training.pretraining.step import Pass
from training.pretraining.student import recompute_blocks
from training.pretraining.trainees import FVLMTrainee

TINY: dict[str, Any] = {
    **yaml.safe_load((PRESETS / "tiny.yaml").read_text()),
    "data": {
        "kind": "phantom",
        "patients": 4,
        "preprocess": {"spacing": [24.0, 16.0, 16.0], "window": [24, 24, 24], "windows": "whole"},
    },
}
TINY["model"] = {**TINY["model"], "image_shape": [24, 24, 24], "width": 32}
TINY["recipe"] = {
    "batch": {"size": 4, "micro": 2},
    "schedule": {"epochs": 2, "warmup_steps": 1},
    "checkpoints": {"every_steps": 1, "keep": 1},
    "ema": 0.9,
}


def _file(folder: Path, **changed: Any) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({**TINY, **changed}))
    return file


@pytest.mark.parametrize("name", ["ct-rate", "tiny"])
def test_presets_are_whole(name: str) -> None:
    config = load_config(PRESETS / f"{name}.yaml")
    assert config.name == name
    assert config.recipe.batch.accumulate(1) >= 1


def test_the_public_recipe_is_that_of_the_authors() -> None:
    config = load_config(PRESETS / "ct-rate.yaml")
    assert config.model == ModelConfig(anatomies=("lung", "heart", "esophagus", "aorta"))
    recipe = config.recipe
    assert (recipe.batch.size, recipe.schedule.epochs, recipe.schedule.warmup_steps) == (56, 20, 377)
    assert (recipe.schedule.start_lr, recipe.optimizer.peak_lr, recipe.schedule.final_lr) == (1e-6, 1e-4, 1e-6)
    assert config.recipe.batch.accumulate(4) == 1
    assert config.data.kind == "shards"
    assert config.data.folder == PRESETS / "shards"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"methd": "clip"}, "methd: Extra inputs are not permitted"),
        ({"recipe": {"optimizer": {"peak_lr": -1}}}, "recipe.optimizer.peak_lr: Input should be greater than 0"),
        ({"recipe": {"batch": {"size": 1}}}, "recipe.batch.size: Input should be greater than or equal to 2"),
        ({"data": {"kind": "files"}}, "data: Input tag 'files'"),
        ({"data": {"kind": "shards", "folder": "x"}}, "tokenizer: name the folder of a tokenizer"),
        ({"method": "clip", "correction": {"normal": False}}, "correction: belongs to method fvlm"),
        ({"findings": ["brain.tumour"]}, "findings: brain not among model.anatomies"),
        ({"start": {"release": "a", "mae": "b"}}, "release gives all weights"),
        ({"correction": {"abnormal": "teaching"}}, "correction.abnormal: Input should be"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PretrainError) as error:
        load_config(_file(tmp_path, **changed))
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("content", ["[1, 2", "- 1", "", "\udcff"])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(PretrainError, match=r"run\.yaml: "):
        load_config(file)
    with pytest.raises(PretrainError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_a_batch_that_processes_cannot_share() -> None:
    with pytest.raises(PretrainError, match=r"batch.size 56 .* times 3 process\(es\); set batch.size to 84"):
        BatchConfig(size=56, micro=14).accumulate(3)


def test_command_rehearses_trains_and_leaves_a_result(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    command = ["pretrain", str(_file(tmp_path)), "--out", str(tmp_path / "out"), "--device", "cpu"]
    rehearsed = CliRunner().invoke(app, [*command, "--dry-run"])
    assert rehearsed.exit_code == 0, rehearsed.output
    for row in ("parameters: image encoder", "memory of a process: AdamW", "2 (1 an epoch)", "learning rate"):
        assert row in rehearsed.output
    assert not (tmp_path / "out" / "checkpoints").exists()
    trained = CliRunner().invoke(app, command)
    assert trained.exit_code == 0, trained.output
    assert trained.output.replace("\n", "").endswith("out/result")
    result = load_result(tmp_path / "out" / "result")
    assert result.about.method == "fvlm"
    assert result.model.config.text.vocab_size == len(result.tokenizer)
    assert "liver.cyst" in result.about.findings
    (checkpoint,) = (tmp_path / "out" / "checkpoints").glob("step-*.pt")
    saved = torch.load(checkpoint, weights_only=True)["students"][0]["average"]
    assert torch.equal(result.model.text_proj.weight, saved["module.model.text_proj.weight"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recipe": {"batch": {"size": 8, "micro": 2}}}, "more than the 4 studies"),
        ({"recipe": {"batch": {"size": 4, "micro": 3}}}, "batch.size 4 is not a multiple of batch.micro 3"),
        ({"start": {"mae": "mae.pth"}}, "mae.pth: no such file; correct the key under start"),
        ({"start": {"release": "no-release"}}, "start.release: "),
        ({"tokenizer": "nowhere"}, "tokenizer: "),
        ({"model": {**TINY["model"], "text": {"vocab_size": 7}}}, "model.text.vocab_size is 7"),
    ],
)
def test_what_does_not_fit_is_said_with_status_2(
    tmp_path: Path, rendered: Path, changed: dict[str, Any], said: str
) -> None:
    done = CliRunner().invoke(app, ["pretrain", str(_file(tmp_path, **changed)), "--out", str(rendered), "--dry-run"])
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose phantoms the first who needs them renders."""
    return tmp_path_factory.mktemp("rendered")


def test_presets_are_listed_and_printed() -> None:
    listed = CliRunner().invoke(app, ["preset"])
    assert "ct-rate: The public 20-epoch recipe" in listed.output
    printed = CliRunner().invoke(app, ["preset", "tiny"])
    assert printed.output == (PRESETS / "tiny.yaml").read_text()
    assert CliRunner().invoke(app, ["preset", "huge"]).exit_code == 2


def test_memory_is_estimated_within_a_third() -> None:
    """What a forward pass keeps, without dropout: with it, PyTorch's attention on a CPU keeps all scores."""
    archive = ToyArchive()
    tokenizer = archive.tokenizer()
    config = toy_model(len(tokenizer)).model_copy(update={"patch": (2, 2, 2), "width": 64, "depth": 6})
    kept, again = (FVLMTrainee(config, tokenizer) for _ in range(2))
    recompute_blocks(again)
    held = [_held(trainee, archive.batch(range(4), (0, 0))) for trainee in (kept, again)]
    recipe = RecipeConfig(batch=BatchConfig(size=4, micro=4))
    assert held[0] == pytest.approx(activation_bytes(config, recipe), rel=0.33)
    least = activation_bytes(config, recipe.model_copy(update={"recompute": True}))
    assert held[1] < least < 0.5 * held[0]  # one block at a time comes back


def _held(trainee: FVLMTrainee, batch: Batch) -> int:
    """Bytes that the graph of a forward pass holds, weights aside."""
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = Pass().features(trainee, batch, 0)
    assert features.learned["image"].requires_grad
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainee.parameters()}
    return sum(size for pointer, size in sizes.items() if pointer not in weights)


def test_operations_are_counted_as_pytorch_counts_them() -> None:
    config = ModelConfig(
        anatomies=("lung",), image_shape=(16, 16, 16), patch=(4, 4, 4), width=32, depth=2, heads=2, levels=(0,),
        attention_heads=2, embedding=16, text=TextConfig(vocab_size=99, width=32, depth=2, heads=2),
    )  # fmt: skip
    model = FVLM(config).train()

    def forward() -> None:
        model.encode_tokens(torch.rand(4, 1, 16, 16, 16))
        model.text_features(torch.ones(4, 48, dtype=torch.long), torch.ones(4, 48, dtype=torch.long))

    recipe = RecipeConfig(batch=BatchConfig(size=4, micro=4))
    assert step_flops(config, recipe, 1) == pytest.approx(3 * counted_flops(forward), rel=0.05)
