"""How much the benchmark computes: presets for two cores and for a GPU."""

from dataclasses import dataclass, field, replace
from typing import Literal

from fvlm.config import CellsConfig, ModelConfig, TextConfig
from training.benchmark.data import SHAPE
from training.benchmark.patients import ANATOMIES

TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 10_000_000, 20_000_000, 30_000_000
"""First seeds of the patients. Settings were chosen on the validation patients; the test patients give the figures."""


@dataclass(frozen=True)
class Size:
    """Patients, steps and the small model."""

    patients: int = 2000
    validation: int = 300
    test: int = 800
    stem_steps: int = 200
    text_steps: int = 200
    epochs: int = 2
    batch: int = 32
    peak_lr: float = 4e-3
    ramp_epochs: float = 1.0
    """Of the soft targets; the paper's two are of twenty."""
    width: int = 64
    depth: int = 2
    text_depth: int = 1
    channels: tuple[int, ...] = (16, 48)
    seeds: tuple[int, ...] = field(default=(0, 1, 2))

    def halved(self) -> "Size":
        """Half of the patients, as many steps, two seeds: for trainings that are only compared with each other."""
        return replace(
            self, patients=self.patients // 2, test=self.validation, epochs=2 * self.epochs, seeds=self.seeds[:2]
        )

    def model(self, words: int) -> ModelConfig:
        """The architecture of every method; `words` is the size of the vocabulary."""
        return ModelConfig(
            anatomies=ANATOMIES,
            image_shape=SHAPE,
            patch=(16, 16, 16),
            width=self.width,
            depth=self.depth,
            heads=4,
            levels=(0,),
            attention_heads=2,
            embedding=self.width,
            dropout=0.0,
            cells=CellsConfig(
                windows=((0.0, 1.0), (0.0, 0.3), (0.73, 0.96), (0.75, 0.83)),
                channels=self.channels,
                strides=((2, 2, 2), (2, 2, 2)),
            ),
            text=TextConfig(
                vocab_size=words,
                width=self.width,
                depth=self.text_depth,
                heads=4,
                max_positions=512,
                max_tokens=512,
            ),
        )


Preset = Literal["cpu", "gpu"]
PRESETS: dict[Preset, Size] = {
    "cpu": Size(),
    "gpu": Size(
        patients=30_000,
        validation=2000,
        test=4000,
        stem_steps=2000,
        text_steps=2000,
        epochs=20,
        batch=128,
        peak_lr=1e-3,
        ramp_epochs=2.0,
        width=192,
        depth=4,
        text_depth=4,
        channels=(32, 96),
        seeds=(0, 1, 2, 3, 4),
    ),
}
