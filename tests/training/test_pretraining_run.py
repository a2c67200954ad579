"""A run: interrupted and resumed bit for bit, its checkpoints, its log, its averages, its bounds."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from tests.training.toy_archive import ToyArchive, toy_model
from training.pretraining import checkpoints
from training.pretraining.batches import Order
from training.pretraining.config import (
    BatchConfig,
    CheckpointConfig,
    CorrectionConfig,
    OptimizerConfig,
    PretrainError,
    RecipeConfig,
    ScheduleConfig,
)
from training.pretraining.loop import fit
from training.pretraining.schedule import learning_rate, ramp
from training.pretraining.student import Student
from training.pretraining.trainees import FVLMTrainee, SupervisedTrainee, Trainee

ARCHIVE = ToyArchive(16)
RECIPE = RecipeConfig(
    seed=3,
    optimizer=OptimizerConfig(peak_lr=3e-3),
    schedule=ScheduleConfig(epochs=3, warmup_steps=2),
    batch=BatchConfig(size=8, micro=4),
    ema=0.8,
    checkpoints=CheckpointConfig(every_steps=2, keep=2),
)
STEPS = 6
MOMENTUM = CorrectionConfig(abnormal="momentum", ramp_epochs=1.0)


class Cut(Exception):  # noqa: N818
    """Ends a run between two checkpoints."""


def _trainees(count: int, dropout: float = 0.2) -> list[Trainee]:
    made: list[Trainee] = []
    tokenizer = ARCHIVE.tokenizer()
    for number in range(count):
        torch.manual_seed(number)
        made.append(FVLMTrainee(toy_model(len(tokenizer), dropout), tokenizer))
    return made


def _run(
    folder: Path, correction: CorrectionConfig, until: int = STEPS, recipe: RecipeConfig = RECIPE
) -> list[Student]:
    def progress(step: int, steps: int, _: float | None) -> None:
        assert steps == STEPS
        if step == until < STEPS:
            raise Cut

    count = 2 if correction.abnormal == "co-teaching" else 1
    return fit(_trainees(count), ARCHIVE, recipe, folder, correction=correction, progress=progress)


def _assert_same(one: Any, other: Any, path: str = "") -> None:
    """Two trees of tensors are the same to the bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key, value in one.items():
            _assert_same(value, other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, value in enumerate(one):
            _assert_same(value, other[index], f"{path}.{index}")
    else:
        assert one == other, path


def run_and_die(folder: str) -> None:
    """In a process of its own: SIGKILL after five of six steps, the last checkpoint one step old."""

    def progress(step: int, *_: object) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    fit(_trainees(1), ARCHIVE, RECIPE, Path(folder), correction=MOMENTUM, progress=progress)


def test_a_process_killed_and_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    code = f"from tests.training.test_pretraining_run import run_and_die; run_and_die({str(tmp_path / 'cut')!r})"
    died = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False, timeout=300)
    assert died.returncode == -signal.SIGKILL
    assert checkpoints.saved(tmp_path / "cut" / "checkpoints")[-1].name == "step-00000004.pt"
    for name in ("whole", "cut"):
        _run(tmp_path / name, MOMENTUM)
    _assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_two_models_stopped_twice_and_resumed_are_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    correction = CorrectionConfig(abnormal="co-teaching", ramp_epochs=1.0)
    _run(tmp_path / "whole", correction)
    for until in (3, 5):
        with pytest.raises(Cut):
            _run(tmp_path / "cut", correction, until)
        (tmp_path / "cut" / "checkpoints" / "checkpoint.part").write_bytes(b"killed while writing")
    _run(tmp_path / "cut", correction)
    _assert_same_end(tmp_path / "whole", tmp_path / "cut")


def _assert_same_end(*folders: Path) -> None:
    """Weights, state and log of two runs are the same to the bit."""
    whole, cut = (checkpoints.saved(folder / "checkpoints")[-1] for folder in folders)
    assert whole.name == cut.name == "step-00000006.pt"
    _assert_same(checkpoints.load(whole), checkpoints.load(cut))
    logs = [_log(folder) for folder in folders]
    assert [line["step"] for line in logs[1]] == list(range(1, STEPS + 1))
    assert [line["loss/total"] for line in logs[0]] == [line["loss/total"] for line in logs[1]]


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_models_see_other_orders_and_teach_each_other(tmp_path: Path) -> None:
    one, other = _run(tmp_path, CorrectionConfig(abnormal="co-teaching"))
    assert one.teacher is other.trainee
    assert other.teacher is one.trainee
    orders = [student.order(len(ARCHIVE)).step(0, 0) for student in (one, other)]
    assert orders[0] != orders[1]
    assert {"loss/total", "loss/total_2"} <= _log(tmp_path)[-1].keys()


def test_the_slow_teacher_follows_the_model_and_is_not_trained(tmp_path: Path) -> None:
    (student,) = _run(tmp_path, CorrectionConfig(abnormal="momentum", momentum=0.5))
    assert student.teacher is not None
    assert student.teacher is not student.trainee
    pairs = list(zip(student.teacher.parameters(), student.trainee.parameters(), strict=True))
    assert not any(slow.requires_grad for slow, _ in pairs)
    assert any(not torch.equal(slow, fast) for slow, fast in pairs)


def test_average_is_the_exponential_one(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"checkpoints": CheckpointConfig(every_steps=1, keep=99)})
    (student,) = _run(tmp_path, CorrectionConfig(), recipe=recipe)
    name = "model.text_proj.weight"
    history = [checkpoints.load(f)["students"][0]["weights"][name] for f in checkpoints.saved(tmp_path / "checkpoints")]
    assert len(history) == STEPS
    average = history[0]
    for weights in history[1:]:
        average = 0.8 * average + 0.2 * weights
    assert torch.allclose(student.best.state_dict()[name], average, atol=1e-6)
    assert not torch.allclose(student.trainee.state_dict()[name], average, atol=1e-4)


def test_it_learns(tmp_path: Path) -> None:
    tokenizer = ARCHIVE.tokenizer()
    faster = {"schedule": ScheduleConfig(epochs=24, warmup_steps=5), "optimizer": OptimizerConfig(peak_lr=3e-3)}
    recipe = RECIPE.model_copy(update=faster)
    torch.manual_seed(0)
    trainee = SupervisedTrainee(toy_model(len(tokenizer)), ARCHIVE.findings)
    fit([trainee], ARCHIVE, recipe, tmp_path)
    losses = [line["loss/total"] for line in _log(tmp_path)]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoints.save(tmp_path, step, {"students": []}, keep=2)
    assert [file.name for file in checkpoints.saved(tmp_path)] == ["step-00000002.pt", "step-00000010.pt"]
    assert checkpoints.load(checkpoints.saved(tmp_path)[-1])["step"] == 10


def test_a_checkpoint_that_would_run_code_is_refused_unopened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    (tmp_path / "checkpoints").mkdir()
    torch.save({"format": 1, "step": 1, "bomb": Bomb()}, tmp_path / "checkpoints" / "step-00000001.pt")
    with pytest.raises(PretrainError, match="cannot be read"):
        _run(tmp_path, CorrectionConfig())
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_enough(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        _run(tmp_path, CorrectionConfig(), until=5)
    newest = checkpoints.saved(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(PretrainError, match=r"step-00000004.pt.*delete it to go on from the one before"):
        _run(tmp_path, CorrectionConfig())
    newest.unlink()
    seen: list[int] = []
    fit(_trainees(1), ARCHIVE, RECIPE, tmp_path, progress=lambda step, *_: seen.append(step))
    assert seen == list(range(3, STEPS + 1))


def test_a_checkpoint_of_another_recipe_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        _run(tmp_path, CorrectionConfig(), until=3)
    other = RECIPE.model_copy(update={"optimizer": OptimizerConfig(peak_lr=1e-3)})
    with pytest.raises(PretrainError, match=r"recipe\.optimizer\.peak_lr was 0\.003, is 0\.001"):
        _run(tmp_path, CorrectionConfig(), recipe=other)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    (trainee,) = _trainees(1)
    with torch.no_grad():
        trainee.model.text_proj.weight.fill_(float("nan"))
    with pytest.raises(PretrainError, match=r"step 1: .* not finite; lower recipe\.optimizer\.peak_lr"):
        fit([trainee], ARCHIVE, RECIPE, tmp_path)
    assert not checkpoints.saved(tmp_path / "checkpoints")


def test_too_few_studies_for_a_batch(tmp_path: Path) -> None:
    with pytest.raises(PretrainError, match="more than the 6 studies"):
        fit(_trainees(1), ToyArchive(6), RECIPE, tmp_path)


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    _run(tmp_path, CorrectionConfig())
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, at, found = file.read_bytes(), 0, set()
    while at < len(content):  # a record: length in 8 bytes, a checksum in 4, the event, a checksum in 4
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        found |= {(value.tag, event.step) for value in event.summary.value}
        at += length + 16
    assert {("loss/total", 1), ("loss/lung", STEPS), ("optimizer/lr", STEPS), ("speed/studies_per_s", 1)} <= found


def test_read_ahead_by_processes_changes_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = RECIPE.model_copy(update={"schedule": ScheduleConfig(epochs=1, warmup_steps=2)})
    for workers in (0, 2):
        fit(_trainees(1), ARCHIVE, recipe, tmp_path / str(workers), workers=workers)
    ends = [checkpoints.saved(tmp_path / str(workers) / "checkpoints")[-1] for workers in (0, 2)]
    _assert_same(*(checkpoints.load(file) for file in ends))


def test_every_epoch_visits_each_study_once_and_processes_share_it() -> None:
    orders = [Order(25, 8, 2, 7, rank, 2) for rank in range(2)]
    alone = Order(25, 8, 8, 7)
    for epoch in range(2):
        seen = []
        for at in range(alone.steps):
            together = [study for order in orders for micro in order.step(epoch, at) for study in micro]
            assert together == alone.step(epoch, at)[0]
            seen += together
        assert len(set(seen)) == len(seen) == 24
    assert alone.step(0, 0) != alone.step(1, 0)


def test_rate_rises_linearly_and_falls_by_cosine_to_its_end() -> None:
    optimizer, schedule = OptimizerConfig(peak_lr=1e-2), ScheduleConfig(warmup_steps=4, start_lr=2e-3, final_lr=1e-3)
    rates = [learning_rate(optimizer, schedule, step, 12) for step in range(12)]
    assert rates[:4] == pytest.approx([4e-3, 6e-3, 8e-3, 1e-2])
    assert rates[7] == pytest.approx(5.5e-3)  # halfway down
    assert rates[11] == pytest.approx(1e-3)
    assert sorted(rates[3:], reverse=True) == rates[3:]


def test_the_ramp_grows_over_its_epochs() -> None:
    assert [ramp(2.0, step, 10) for step in (0, 5, 20, 30)] == [0.0, 0.25, 1.0, 1.0]
    assert ramp(0.0, 0, 10) == 1.0


def test_an_older_log_does_not_hide_a_new_run(tmp_path: Path) -> None:
    _run(tmp_path, CorrectionConfig())
    shutil.rmtree(tmp_path / "checkpoints")
    _run(tmp_path, CorrectionConfig())
    assert [line["step"] for line in _log(tmp_path)] == list(range(1, STEPS + 1))
