"""A release of a finished run of `fvlm-node train pretrain`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config import Preset, load_vocabulary
from config.vocabulary import VocabularyError, read_preset
from fvlm.config import FindingConfig, ReleaseConfig
from fvlm.release import ReleaseError
from training.pretraining.config import PretrainError
from training.pretraining.result import Result, load_result
from training.release.card import Statement, write_card
from training.release.evaluated import Evaluated, read_evaluation
from training.release.product import Product


@dataclass(frozen=True)
class Title:
    """How the release is called."""

    name: str
    version: str
    manufacturer: str
    clinical: bool = False
    """False: everything it writes is marked as a test model's."""


def release_run(
    run: Path, out: Path, title: Title, preset: str, said: Statement, evaluations: Sequence[Path] = ()
) -> str:
    """Write the release of a run; its digest.

    `run` is its folder, or the folder `result` in it; `preset` names the prompts, or a YAML file with them.
    `evaluations` (`results.json`) must be of this release as it is without them: the same weights, prompts and words.
    Raises ReleaseError.
    """
    result = _result(run)
    product = Product(result.model, _config(result, title), _findings(result, preset), result.tokenizer)
    measured = [read_evaluation(file) for file in evaluations]
    if title.clinical and not measured:
        raise ReleaseError("a release for clinical use needs an evaluation: name its results.json with --evaluation")
    name = result.about.name
    draft = write_card(product.config, product.findings, name, said, ())
    if measured:
        _check_same(product, draft, measured)
        draft = write_card(product.config, product.findings, name, said, measured)
    return product.write(out, draft)


def _result(run: Path) -> Result:
    """Raises ReleaseError unless it is a finished run of the method fvlm."""
    folder = run / "result" if (run / "result").is_dir() else run
    try:
        result = load_result(folder)
    except PretrainError as error:
        raise ReleaseError(str(error)) from error
    if result.about.method != "fvlm" or not result.model.has_text_encoder:
        raise ReleaseError(f"{folder}: trained by the method {result.about.method}; only fvlm makes a release")
    return result


def _config(result: Result, title: Title) -> ReleaseConfig:
    try:
        return ReleaseConfig(
            name=title.name,
            version=title.version,
            manufacturer=title.manufacturer,
            test_only=not title.clinical,
            model=result.about.model,
            preprocess=result.about.preprocess,
        )
    except ValueError as error:
        raise ReleaseError(f"name, version, manufacturer or the run's preprocessing does not fit: {error}") from error


def _findings(result: Result, preset: str) -> tuple[FindingConfig, ...]:
    """The prompts about anatomies that the model reads. Raises ReleaseError if there is none."""
    known = {one.name: one for one in load_vocabulary().presets}
    try:
        family: Preset = known[preset] if preset in known else read_preset(Path(preset))
    except VocabularyError as error:
        raise ReleaseError(f"--preset {preset}: {error}; there are {', '.join(known)}") from error
    prompts = [prompt for prompt in family.prompts if prompt.finding.split(".")[0] in result.about.model.anatomies]
    if not prompts:
        raise ReleaseError(f"--preset {preset}: it asks nothing of {', '.join(result.about.model.anatomies)}")
    return tuple(FindingConfig.of(prompt) for prompt in prompts)


def _check_same(product: Product, draft: str, measured: Sequence[Evaluated]) -> None:
    """Raises ReleaseError unless each evaluation is of this very release, with the card that has no figures yet."""
    with tempfile.TemporaryDirectory() as folder:
        digest = product.write(Path(folder) / "draft", draft)
    for one in measured:
        if one.release.digest != digest:
            raise ReleaseError(
                f"the evaluation on {one.data_set} is of the release {one.release.digest[:12]}; without figures this "
                f"one is {digest[:12]}: evaluate that, made by the same command without --evaluation"
            )
