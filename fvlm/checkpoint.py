"""The weights of a release (`fvlm.release`): a model written as one, and read again as it was written."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import torch
from safetensors.torch import load_file, save_file

from fvlm.config import FindingConfig, ReleaseConfig
from fvlm.model import FVLM
from fvlm.release import (
    CARD,
    CONFIG,
    FINDING_TABLE,
    FINDINGS,
    WEIGHTS,
    ReleaseError,
    check_fit,
    new_folder,
    read_release,
    seal,
)
from fvlm.tokenizer import save_tokenizer

if TYPE_CHECKING:
    from transformers import BertTokenizer


def save_release(
    folder: Path,
    model: FVLM,
    config: ReleaseConfig,
    findings: Iterable[FindingConfig],
    tokenizer: "BertTokenizer",
    card: str,
    half: bool = False,
) -> str:
    """Write a release into a new folder and return its digest. It appears whole or not at all.

    `half` stores matrices as float16: half the size, features differ by about 1e-3.
    Raises ReleaseError if the folder exists or the parts do not fit together.
    """
    table = tuple(findings)
    check_fit(folder, config, table, len(tokenizer))
    if model.config != config.model:
        raise ReleaseError(f"{folder}: the model was built with another configuration than config.model; pass its own")
    with new_folder(folder) as partial:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        if half:
            state = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
        save_file(state, partial / WEIGHTS)
        (partial / WEIGHTS).chmod(0o644)
        (partial / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (partial / FINDINGS).write_bytes(FINDING_TABLE.dump_json(table, indent=2) + b"\n")
        (partial / CARD).write_text(card, encoding="utf-8")
        save_tokenizer(tokenizer, partial)
        return seal(partial)


def load_release(path: Path | str, device: str | torch.device = "cpu") -> FVLM:
    """The model of a release in eval mode, with `.release` set. On the CPU, float32 weights stay in the mapped file.

    Raises ReleaseError if a file is missing, unknown or damaged, or if parts do not fit together.
    """
    path = Path(path)
    release = read_release(path)
    try:
        state = load_file(path / WEIGHTS, device=str(device))
    except (OSError, safetensors.SafetensorError) as error:
        raise ReleaseError(f"{path / WEIGHTS}: cannot be read ({error}); copy the release again") from error
    with torch.device("meta"):
        model = FVLM(release.config.model)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise ReleaseError(f"{path / WEIGHTS}: does not fit config.json: {', '.join(wrong)}; copy the release again")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    model.release = release
    return model.eval()
