"""A run from its configuration: data, tokenizer, models, then the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertTokenizer

from config import load_vocabulary
from fvlm.checkpoint import load_release
from fvlm.config import ModelConfig, PreprocessConfig, ReleaseConfig
from fvlm.model import FVLM
from fvlm.release import ReleaseError
from fvlm.tokenizer import TokenizerError, load_tokenizer
from training.phantom_data import prepare_set
from training.pretraining.archive import ShardBatches
from training.pretraining.batches import Batches, Order
from training.pretraining.config import PhantomData, PretrainError, RunConfig
from training.pretraining.distributed import World
from training.pretraining.initial import load_bert, load_mae
from training.pretraining.loop import Progress, fit
from training.pretraining.phantoms import PhantomBatches
from training.pretraining.result import save_result
from training.pretraining.trainees import ClipTrainee, FVLMTrainee, SupervisedTrainee, Trainee
from training.vocabulary_text import build_tokenizer


@dataclass(frozen=True)
class Run:
    """What a configuration names, opened and checked."""

    config: RunConfig
    """`model.text.vocab_size` is that of the tokenizer, `findings` those of the data where none were named."""
    data: Batches
    tokenizer: BertTokenizer
    preprocess: PreprocessConfig
    """How the data was brought onto the model's grid: it goes into the release."""


def open_run(config: RunConfig, out: Path, world: World, progress: Callable[[int, int], None]) -> Run:
    """Open data and tokenizer and check that they fit the model; phantoms are rendered. Raises PretrainError."""
    config.recipe.batch.accumulate(world.size)
    data: Batches
    if isinstance(config.data, PhantomData):
        data, preprocess = _phantoms(config, config.data, out, world, progress)
    else:
        archive = ShardBatches(config.data.folder, config.data.split, config.findings)
        data, preprocess = archive, archive.preprocess
    config = config.model_copy(update={"findings": data.findings})
    if data.anatomies != config.model.anatomies:
        raise PretrainError(
            f"model.anatomies are {', '.join(config.model.anatomies)}, those of the data {', '.join(data.anatomies)}; "
            "set the model's to the data's, in their order"
        )
    _check(config, data)
    tokenizer = _tokenizer(config, data)
    return Run(_with_vocabulary(config, len(tokenizer)), data, tokenizer, preprocess)


def pretrain(run: Run, out: Path, world: World, progress: Progress) -> Path:
    """Train, or go on where an earlier call with the same `out` stopped; returns the folder of the result.

    Raises PretrainError.
    """
    config = run.config
    count = 2 if config.correction.abnormal == "co-teaching" else 1
    trainees = [build(run, number) for number in range(count)]
    identity = config.model_dump(mode="json", include={"method", "model", "findings"})
    students = fit(trainees, run.data, config.recipe, out, world, config.correction, config.workers, identity, progress)
    folder = out / "result"
    if world.is_first:
        save_result(folder, students[0].best, config, run.preprocess, run.tokenizer)
    world.wait()
    return folder


def build(run: Run, number: int = 0) -> Trainee:
    """What is trained, with its first weights; `number` tells the models of a run apart. Raises PretrainError."""
    config = run.config
    torch.manual_seed(config.recipe.seed + number)
    match config.method:
        case "fvlm":
            trainee: Trainee = FVLMTrainee(config.model, run.tokenizer, config.correction, run.data.findings)
        case "clip":
            trainee = ClipTrainee(config.model, run.tokenizer)
        case "supervised":
            trainee = SupervisedTrainee(config.model, run.data.findings)
    _start(trainee.model, config)
    return trainee


def _start(model: FVLM, config: RunConfig) -> None:
    """Weights of files into a fresh model. Raises PretrainError."""
    start = config.start
    if start.text is not None:
        if not model.has_text_encoder:
            raise PretrainError(f"start.text: method {config.method} has no text encoder; leave it out")
        load_bert(model, start.text)
    if start.mae is not None:
        load_mae(model, start.mae)
    if start.release is not None:
        try:
            former = load_release(start.release)
        except ReleaseError as error:
            raise PretrainError(f"start.release: {error}") from error
        if former.config != config.model:
            raise PretrainError(
                f"start.release: {start.release} has another architecture or other anatomies; "
                "copy `model` of its config.json into the configuration"
            )
        given = former.state_dict()
        model.load_state_dict({name: given[name] for name in model.state_dict()})


def _phantoms(
    config: RunConfig, source: PhantomData, out: Path, world: World, progress: Callable[[int, int], None]
) -> tuple[Batches, PreprocessConfig]:
    """Rendered by the first process, read by all."""
    release = ReleaseConfig(name="phantom", version="0", model=config.model, preprocess=source.preprocess)
    findings = config.findings or tuple(
        finding.key for finding in load_vocabulary().findings if finding.key.split(".")[0] in config.model.anatomies
    )
    if not world.is_first:
        world.wait()
    prepared = prepare_set(out / "data", range(source.patients), release, progress)
    if world.is_first:
        world.wait()
    return PhantomBatches(prepared, config.model.anatomies, findings), source.preprocess


def _check(config: RunConfig, data: Batches) -> None:
    """Raises PretrainError if there is no whole batch, or if the first micro-batch does not fit the model."""
    recipe, model = config.recipe, config.model
    if len(data) < recipe.batch.size:
        raise PretrainError(
            f"recipe.batch.size {recipe.batch.size} is more than the {len(data)} studies; make it smaller"
        )
    chosen = Order(len(data), recipe.batch.size, recipe.batch.micro, recipe.seed).step(0, 0)[0]
    batch = data.batch(chosen, (recipe.seed, 0))
    shape = tuple(batch.image.shape[2:])
    if shape != model.image_shape:
        raise PretrainError(f"model.image_shape is {model.image_shape}, the data's crops are {shape}; set it to them")
    low, high = float(batch.image.min()), float(batch.image.max())
    if not 0 <= low <= high <= 1:
        raise PretrainError(f"data: images have values from {low:g} to {high:g}, not 0 to 1; make the shards anew")


def _tokenizer(config: RunConfig, data: Batches) -> BertTokenizer:
    """The one that is named, or one of the words of phantom reports. Raises PretrainError."""
    if isinstance(data, PhantomBatches) and config.tokenizer is None:
        return build_tokenizer(data.texts())
    assert config.tokenizer is not None  # RunConfig
    try:
        return load_tokenizer(config.tokenizer)
    except TokenizerError as error:
        raise PretrainError(f"tokenizer: {error}") from error


def _with_vocabulary(config: RunConfig, size: int) -> RunConfig:
    """The configuration with the tokenizer's size. Raises PretrainError if it names another."""
    text = config.model.text
    if "vocab_size" in text.model_fields_set and text.vocab_size != size:
        raise PretrainError(
            f"model.text.vocab_size is {text.vocab_size}, the tokenizer knows {size} tokens; "
            "leave the key out, or name the tokenizer that belongs to it"
        )
    model = config.model.model_copy(update={"text": text.model_copy(update={"vocab_size": size})})
    return config.model_copy(update={"model": ModelConfig.model_validate(model.model_dump())})
