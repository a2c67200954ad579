"""The YAML file of a run: every key typed, checked together before the first step."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fvlm.config import ModelConfig, PreprocessConfig

PRESETS = Path(__file__).parents[1] / "presets"

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "bfloat16"]


class PretrainError(ValueError):
    """A run cannot start or go on. The text names the key or file, and the cure."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class OptimizerConfig(_Strict):
    """AdamW. Biases, norms, tables, queries and the temperature have no decay."""

    peak_lr: Rate = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Of matrices."""
    max_gradient: Annotated[float, Field(gt=0)] | None = 1.0
    """Greatest norm of the gradient; None: not clipped."""


class ScheduleConfig(_Strict):
    """Linear warm-up from `start_lr` to the peak, then cosine to `final_lr` at the last step; each step has its own."""

    epochs: Positive = 20
    warmup_steps: Annotated[int, Field(ge=0)] = 377
    start_lr: Annotated[float, Field(ge=0, le=1)] = 1e-6
    final_lr: Annotated[float, Field(ge=0, le=1)] = 1e-6


class BatchConfig(_Strict):
    """How many studies are contrasted, and how many are computed at once."""

    size: Annotated[int, Field(ge=2)] = 56
    """Studies a step, of all processes together."""
    micro: Positive = 14
    """Studies in one pass of one process."""

    def accumulate(self, world: int) -> int:
        """Micro-batches a step of each of `world` processes. Raises PretrainError if the batch cannot be cut so."""
        if self.size % (world * self.micro):
            raise PretrainError(
                f"batch.size {self.size} is not a multiple of batch.micro {self.micro} times {world} process(es); "
                f"set batch.size to {-(-self.size // (world * self.micro)) * world * self.micro}, or change batch.micro"
            )
        return self.size // (world * self.micro)


class CheckpointConfig(_Strict):
    """When the run is written down, and how much of it stays."""

    every_steps: Positive = 377
    keep: Positive = 2
    """The newest so many stay; older ones are deleted."""


class RecipeConfig(_Strict):
    """How is learned, whatever is learned."""

    seed: Annotated[int, Field(ge=0, le=1_000_000_000)] = 42
    """Of the weights, the order, the augmentation and the dropout."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch: BatchConfig = BatchConfig()
    precision: Precision = "float32"
    """`bfloat16` multiplies in bfloat16 (autocast); weights, losses and the optimiser stay float32."""
    recompute: bool = False
    """Keep only the input of each transformer block and compute it again for the gradient: less memory, slower."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay a step of the average of the weights that is released; None: the last weights are."""
    checkpoints: CheckpointConfig = CheckpointConfig()


Method = Literal["fvlm", "clip", "supervised"]
Peers = Literal["none", "co-teaching", "momentum", "jaccard"]


class CorrectionConfig(_Strict):
    """Which pairs count as positive besides a study's own report (paper section 3.3); of method `fvlm` alone."""

    normal: bool = True
    """Normal with normal, and equal captions."""
    abnormal: Peers = "none"
    """Who softens the targets of abnormal pairs: a second model that is trained beside and is taught in turn, a slow
    average of the model itself, or the overlap of the reports' findings."""
    alpha: Share = 0.5
    """Weight of the soft targets after the ramp."""
    ramp_epochs: Annotated[float, Field(ge=0)] = 2.0
    """Epochs over which their weight grows from 0."""
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.995
    """Of the slow average, a step."""


PLAIN = CorrectionConfig()
"""What the public code does."""


class PhantomData(_Strict):
    """Synthetic patients, rendered at the first start."""

    kind: Literal["phantom"]
    patients: Positive
    preprocess: PreprocessConfig
    """Its `window` must be the model's `image_shape`."""


class ShardData(_Strict):
    """A folder of `fvlm-node train shards`."""

    kind: Literal["shards"]
    folder: Path
    split: Literal["train", "valid", "test"] = "train"


class StartConfig(_Strict):
    """Weights to begin with; what no file gives is random by `seed`."""

    release: Path | None = None
    """Folder of a release of the same architecture: everything but the tokenizer."""
    mae: Path | None = None
    """`mae_pretrain_vit_base.pth`: the transformer of the image encoder (ImageNet MAE)."""
    text: Path | None = None
    """`pytorch_model.bin` or `model.safetensors` of CXR-BERT, or of another BERT of the text encoder's size."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.release and (self.mae or self.text):
            raise ValueError("release gives all weights: leave out mae and text, or release")
        return self


class RunConfig(_Strict):
    """A run, whole. Relative paths count from the YAML file."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    method: Method = "fvlm"
    correction: CorrectionConfig = CorrectionConfig()
    model: ModelConfig
    """`text.vocab_size` must be that of the tokenizer."""
    tokenizer: Path | None = None
    """Folder with `vocab.txt` or `tokenizer.json`; None: a vocabulary of the training captions, for phantoms."""
    data: Annotated[PhantomData | ShardData, Field(discriminator="kind")]
    findings: tuple[Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_]+$")], ...] = ()
    """`anatomy.finding` of the vocabulary: what `supervised` learns and `jaccard` compares; none: the data's own."""
    start: StartConfig = StartConfig()
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that read ahead, of each training process."""
    recipe: RecipeConfig = RecipeConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method != "fvlm" and self.correction != PLAIN:
            raise ValueError(f"correction: belongs to method fvlm; leave it out with method {self.method}")
        if unknown := sorted({f.split(".")[0] for f in self.findings} - set(self.model.anatomies)):
            raise ValueError(f"findings: {', '.join(unknown)} not among model.anatomies")
        if self.tokenizer is None and self.data.kind != "phantom":
            raise ValueError("tokenizer: name the folder of a tokenizer; only phantoms make their own")
        if self.data.kind == "phantom" and self.data.preprocess.window != self.model.image_shape:
            raise ValueError("data.preprocess.window: must equal model.image_shape")
        if self.model.cells is not None and self.recipe.batch.size != self.recipe.batch.micro:
            raise ValueError(
                "model.cells: has batch normalisation, whose result depends on the micro-batch; "
                "set recipe.batch.micro to recipe.batch.size (one process), or leave the cells out"
            )
        return self


def load_config(file: Path) -> RunConfig:
    """Read and check a run's YAML file; paths come back absolute. Raises PretrainError naming every wrong key."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PretrainError(
            f"{file}: cannot be read ({error}); `fvlm-node train preset` prints one to start from"
        ) from error
    except yaml.YAMLError as error:
        raise PretrainError(f"{file}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise PretrainError(
            f"{file}: must hold keys such as name, model, data; `fvlm-node train preset ct-rate` prints one"
        )
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise PretrainError(f"{file}: {wrong}") from error
    return _absolute(config, file.parent)


def _absolute(config: RunConfig, folder: Path) -> RunConfig:
    """Paths counted from the file."""

    def at(path: Path | None) -> Path | None:
        return None if path is None else (folder / path).resolve()

    start = StartConfig(release=at(config.start.release), mae=at(config.start.mae), text=at(config.start.text))
    data = config.data
    if isinstance(data, ShardData):
        data = data.model_copy(update={"folder": at(data.folder)})
    return config.model_copy(update={"start": start, "data": data, "tokenizer": at(config.tokenizer)})
