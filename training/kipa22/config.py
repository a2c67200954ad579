"""The YAML file of a run: every key typed, checked together before the first step."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PRESETS = Path(__file__).parent

Positive = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0, le=20)]
Share = Annotated[float, Field(ge=0, le=0.5)]
Rate = Annotated[float, Field(gt=0, le=1)]


class SegmenterConfigError(ValueError):
    """The run's configuration is wrong. The text names the key and the cure."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class OptimizerConfig(_Strict):
    """`sgd` is nnU-Net's: Nesterov momentum 0.99."""

    kind: Literal["sgd", "adamw"] = "sgd"
    peak_lr: Rate = 0.01
    """At the first step; it falls to 0 with the power 0.9 of the steps that are left."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 3e-5


class AugmentationConfig(_Strict):
    """How far a patch is changed at random. It is never mirrored: left and right kidney have other vessels."""

    rotate_degrees: Annotated[float, Field(ge=0, le=90)] = 30.0
    """About each axis."""
    scale: Share = 0.3
    """Greatest change of size, as a share."""
    intensity: Share = 0.15
    """Greatest change of brightness and contrast and spread of the noise, as shares of the window; 0.15 for nnU-Net's
    amount, and 0.3 for gamma."""


class SegmenterConfig(_Strict):
    """One run. Axes of `spacing` and `patch` are x, y, z."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """As the segmenter is named in every object written."""
    test_only: bool = True
    """Every object is marked TEST MODEL - NOT FOR CLINICAL USE, until the labels file of the result says otherwise."""
    spacing: tuple[Length, Length, Length]
    """mm of the network's grid."""
    patch: tuple[Positive, Positive, Positive]
    """Voxels that the network sees at once: choose it so that a whole kidney is in it."""
    window: tuple[float, float]
    """HU that become 0 and 1; what lies outside is clipped."""
    intercept: float = 0.0
    """HU = stored number + intercept, where the files are shifted."""
    network: Literal["dynunet", "unet"] = "dynunet"
    """`dynunet` is nnU-Net's, of MONAI; `unet` is a small one whose layers work on half the resolution, for a CPU."""
    filters: Annotated[tuple[Positive, ...], Field(min_length=3, max_length=7)]
    """Channels of each resolution; each has half the voxels along each axis of the one before."""
    deep_supervision: Annotated[int, Field(ge=0)] = 0
    """Coarser resolutions that have a loss of their own; of `dynunet` alone."""
    batch: Positive = 2
    steps: Positive
    seed: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` multiplies in bfloat16: for GPUs, and processors that have it."""
    augmentation: AugmentationConfig = AugmentationConfig()
    checkpoint_every: Positive = 500
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that cut and change patches; 0: none beside the training."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        multiple = 2 ** (len(self.filters) - 1)
        if any(size % multiple or size <= multiple for size in self.patch):
            raise ValueError(
                f"patch: {len(self.filters)} filters need multiples of {multiple}, at least {2 * multiple}; "
                f"it is {self.patch}"
            )
        if self.deep_supervision > len(self.filters) - 2:
            raise ValueError(f"deep_supervision: at most {len(self.filters) - 2} with {len(self.filters)} filters")
        if self.deep_supervision and self.network == "unet":
            raise ValueError("deep_supervision: must be 0 with network: unet")
        if self.window[0] >= self.window[1]:
            raise ValueError("window: the lower end, then the upper end")
        return self


def load_config(preset: str) -> SegmenterConfig:
    """One of the shipped presets, or a YAML file. Raises SegmenterConfigError."""
    known = {file.stem: file for file in sorted(PRESETS.glob("*.yaml"))}
    file = known.get(preset, Path(preset))
    if not file.is_file():
        raise SegmenterConfigError(f"{preset}: no preset and no file; presets are {', '.join(known)}")
    try:
        return SegmenterConfig.model_validate(yaml.safe_load(file.read_bytes()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SegmenterConfigError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in found['loc']) or 'file'}: {found['msg'].removeprefix('Value error, ')}"
            for found in error.errors()
        )
        raise SegmenterConfigError(f"{file}: {wrong}") from error
