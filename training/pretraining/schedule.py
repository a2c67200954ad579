"""The learning rate of a step, and how far the soft targets' ramp is."""

import math

from training.pretraining.config import OptimizerConfig, ScheduleConfig


def learning_rate(optimizer: OptimizerConfig, schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Of step 0 to `steps` - 1: linear from `start_lr` to the peak, then cosine to `final_lr`, which the last has."""
    if step < schedule.warmup_steps:
        return schedule.start_lr + (optimizer.peak_lr - schedule.start_lr) * (step + 1) / schedule.warmup_steps
    part = (step - schedule.warmup_steps + 1) / max(1, steps - schedule.warmup_steps)
    return schedule.final_lr + (optimizer.peak_lr - schedule.final_lr) * (1 + math.cos(math.pi * part)) / 2


def ramp(ramp_epochs: float, step: int, steps_per_epoch: int) -> float:
    """Linear from 0 to 1 over the first epochs (section 3.3: two)."""
    return min(1.0, step / (ramp_epochs * steps_per_epoch)) if ramp_epochs else 1.0
