"""What a finished run leaves for evaluation and release: weights, architecture, preprocessing, tokenizer."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fvlm.config import ModelConfig, PreprocessConfig
from fvlm.model import FVLM
from fvlm.tokenizer import TokenizerError, load_tokenizer, save_tokenizer
from training.pretraining.config import Method, PretrainError, RunConfig
from training.pretraining.trainees import Trainee

if TYPE_CHECKING:
    from transformers import BertTokenizer

_WEIGHTS, _ABOUT = "weights.safetensors", "result.json"
_MODEL = "model."


class About(BaseModel):
    """`result.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    method: Method
    findings: tuple[str, ...]
    """Of the logits of a supervised model."""
    model: ModelConfig
    preprocess: PreprocessConfig


@dataclass(frozen=True)
class Result:
    """A trained model, read back."""

    about: About
    model: FVLM
    """In eval mode; of method `clip` and `supervised` only the parts that they train are of use."""
    beside: dict[str, Tensor]
    """What a baseline has beside it: `image_proj.weight`, or `weight` and `bias` of the findings."""
    tokenizer: "BertTokenizer"


def save_result(
    folder: Path, trainee: Trainee, config: RunConfig, preprocess: PreprocessConfig, tokenizer: "BertTokenizer"
) -> None:
    """Write the result anew; the folder appears whole or not at all."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in trainee.state_dict().items()}
    save_file(state, partial / _WEIGHTS)
    about = About(
        name=config.name,
        method=config.method,
        findings=config.findings,
        model=config.model,
        preprocess=preprocess,
    )
    (partial / _ABOUT).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def load_result(folder: Path) -> Result:
    """Read `result/` of a run. Raises PretrainError."""
    try:
        about = About.model_validate_json((folder / _ABOUT).read_bytes())
        state = load_file(folder / _WEIGHTS)
        tokenizer = load_tokenizer(folder)
    except (OSError, ValidationError, safetensors.SafetensorError, TokenizerError) as error:
        raise PretrainError(
            f"{folder}: not the result of a finished run ({error}); name the folder `result` of one"
        ) from error
    own = {name.removeprefix(_MODEL): tensor for name, tensor in state.items() if name.startswith(_MODEL)}
    model = FVLM(about.model, text=any(name.startswith("text_encoder.") for name in own))
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise PretrainError(f"{folder}: weights do not fit {_ABOUT} ({error}); copy the folder again") from error
    beside = {name: tensor for name, tensor in state.items() if not name.startswith(_MODEL)}
    return Result(about, model.eval(), beside, tokenizer)
