"""What `--dry-run` shows: what would be trained, for how long, in how much memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from training.pretraining.cost import activation_bytes, step_flops
from training.pretraining.distributed import World
from training.pretraining.run import Run, build
from training.pretraining.schedule import learning_rate
from training.pretraining.trainees import Trainee

_GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """A run before its first step."""

    parameters: dict[str, tuple[int, int]]
    """Part -> parameters, and how many of them are trained."""
    models: int
    """Trained beside each other."""
    memory: dict[str, float]
    """Part -> bytes of one process; of activations an estimate."""
    studies: int
    steps_per_epoch: int
    steps: int
    accumulate: int
    rates: dict[int, float]
    """Step -> learning rate."""
    flops: float
    """Of one step on all processes, worked out."""

    def lines(self) -> Iterator[tuple[str, str]]:
        """Heading and text of each row of the table."""
        for name, (count, trained) in self.parameters.items():
            yield f"parameters: {name}", f"{count:,}" + ("" if trained == count else f", {trained:,} trained")
        if self.models > 1:
            yield "models", str(self.models)
        for name, size in self.memory.items():
            yield f"memory of a process: {name}", f"{size / _GIB:.2f} GiB"
        yield "studies", f"{self.studies:,}"
        yield "steps", f"{self.steps:,} ({self.steps_per_epoch:,} an epoch)"
        yield "micro-batches a step", str(self.accumulate)
        yield "learning rate", ", ".join(f"step {step}: {rate:.2e}" for step, rate in self.rates.items())
        yield "multiplications and additions", f"{self.flops:.3g} a step, {self.flops * self.steps:.3g} in all"


def plan(run: Run, world: World) -> Plan:
    """Build the model and count. Raises PretrainError."""
    config, recipe = run.config, run.config.recipe
    trainee = build(run)
    models = 2 if config.correction.abnormal == "co-teaching" else 1
    per_epoch = len(run.data) // recipe.batch.size
    steps = per_epoch * recipe.schedule.epochs
    shown = sorted({0, min(recipe.schedule.warmup_steps, steps - 1), steps // 2, steps - 1})
    return Plan(
        parameters=_parameters(trainee),
        models=models,
        memory=_memory(trainee, run, models),
        studies=len(run.data),
        steps_per_epoch=per_epoch,
        steps=steps,
        accumulate=recipe.batch.accumulate(world.size),
        rates={step: learning_rate(recipe.optimizer, recipe.schedule, step, steps) for step in shown},
        flops=models * step_flops(config.model, recipe, world.size),
    )


def _parameters(trainee: Trainee) -> dict[str, tuple[int, int]]:
    model = trainee.model
    parts: dict[str, list[nn.Parameter]] = {
        "image encoder": list(model.visual_encoder.parameters()),
        "text encoder": list(model.text_encoder.parameters()) if model.has_text_encoder else [],
    }
    inside = {id(parameter) for part in parts.values() for parameter in part}
    parts["heads"] = [parameter for parameter in trainee.parameters() if id(parameter) not in inside]
    parts["all"] = list(trainee.parameters())
    return {
        name: (sum(p.numel() for p in part), sum(p.numel() for p in part if p.requires_grad))
        for name, part in parts.items()
    }


def _memory(trainee: Trainee, run: Run, models: int) -> dict[str, float]:
    """Bytes: all of them float32 but what autocast keeps."""
    recipe, correction = run.config.recipe, run.config.correction
    every, trained = _parameters(trainee)["all"]
    copies = (recipe.ema is not None) + (correction.abnormal == "momentum")
    memory = {
        "weights": 4.0 * every * models,
        "gradients": 4.0 * trained * models,
        "AdamW": 8.0 * trained * models,
        "averages": 4.0 * every * copies * models,
        "activations (estimate)": activation_bytes(run.config.model, recipe),
    }
    return {**memory, "all": sum(memory.values())}
