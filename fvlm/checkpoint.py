"""The weights of a release (`fvlm.release`): a model written as one, and read again as it was written."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

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

_TEXT = "text_encoder."
"""How the names of the text encoder's weights begin."""


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


def load_release(path: Path | str, device: str | torch.device = "cpu", text: bool = True) -> FVLM:
    """The model of a release in eval mode, with `.release` set. On the CPU, float32 weights stay in the mapped file.

    `text` False leaves the text encoder in the file until `load_text_encoder`. Raises ReleaseError if a file is
    missing, unknown or damaged, or if parts do not fit together.
    """
    path = Path(path)
    release = read_release(path)
    with torch.device("meta"):
        model = FVLM(release.config.model, text=False)
    _fill(model, _weights(path, device, text=False), path)
    model.release = release
    if text:
        load_text_encoder(model)
    return model.eval()


def load_text_encoder(model: FVLM) -> None:
    """Give a model of `load_release` the text encoder of its release. Raises ReleaseError."""
    from fvlm.text_encoder import TextEncoder

    assert model.release is not None, "only a model of load_release has a release"
    path, device = model.release.path, model.temp.device
    with torch.device("meta"):
        encoder = TextEncoder(model.config.text)
    _fill(encoder, _weights(path, device, text=True), path)
    encoder.make_buffers(device)
    model.text_encoder = encoder.eval()


def _weights(path: Path, device: str | torch.device, text: bool) -> dict[str, Tensor]:
    """Those of the text encoder, by their names within it, or all others. Raises ReleaseError."""
    try:
        with safetensors.safe_open(path / WEIGHTS, "pt", device=str(device)) as file:
            names = [name for name in file.keys() if name.startswith(_TEXT) == text]  # noqa: SIM118 - it is no dict
            return {name.removeprefix(_TEXT): file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise ReleaseError(f"{path / WEIGHTS}: cannot be read ({error}); copy the release again") from error


def _fill(part: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Weights into a module on the meta device. Raises ReleaseError unless names and shapes are the module's."""
    expected = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise ReleaseError(f"{path / WEIGHTS}: does not fit config.json: {', '.join(wrong)}; copy the release again")
    part.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()}, assign=True)
