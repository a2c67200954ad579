"""Weights to begin with, from files that the user gives. No code of a file runs, and nothing is left out silently."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor, nn

from fvlm.config import ModelConfig
from fvlm.model import FVLM
from fvlm.official import fitted
from training.pretraining.config import PretrainError

_MAE_WITHOUT_USE = ("cls_token", "mask_token", "decoder", "patch_embed.")
"""Begins of names in an MAE file that a 3-D encoder has no place for."""
_MAE_NAMES = {
    "mlp.fc1.": "mlp.linear1.",
    "mlp.fc2.": "mlp.linear2.",
    "attn.proj.": "attn.out_proj.",
}
_BERT_WITHOUT_USE = ("cls.", "cls_projection_head.", "bert.pooler.", "pooler.")
_BERT_COUNTERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"


def load_mae(model: FVLM, file: Path) -> None:
    """The transformer of the image encoder from an ImageNet MAE ViT (`mae_pretrain_vit_base.pth`, key "model").

    The patch convolution and everything beside the transformer stay as they are. Raises PretrainError listing every
    tensor that is missing, unknown, of another shape or not finite.
    """
    loaded = _torch_file(file)
    state = loaded.get("model") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping):
        raise PretrainError(f'{file}: no entry "model"; give mae_pretrain_vit_base.pth')
    mapped = mae_state(state, model.config, file)
    stays = {f"patch_embedding.{name}" for name in _patch_names(model)} | {
        name for name in model.visual_encoder.state_dict() if name.startswith("cells.")
    }
    _fill(model.visual_encoder, mapped, stays, file)


def mae_state(state: Mapping[str, Tensor], config: ModelConfig, file: Path) -> dict[str, Tensor]:
    """The tensors of an MAE encoder under the names of `VisionEncoder`, positions spread over the 3-D grid.

    The square table of positions, without its class token's row, is resized bilinearly to the grid in the plane and
    repeated along z (the reference's map).
    """
    mapped: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(_MAE_WITHOUT_USE) and name != "pos_embed":
            for old, new in _MAE_NAMES.items():
                name = name.replace(old, new)
            mapped[name] = tensor
    table = state.get("pos_embed")
    side = 0 if table is None or table.ndim != 3 else round((table.shape[1] - 1) ** 0.5)
    if table is None or side < 1 or side * side + 1 != table.shape[1]:
        raise PretrainError(f"{file}: pos_embed is not the table of a square grid with a class token; give an MAE ViT")
    depth, height, width = config.grid
    plane = table[:, 1:].float().transpose(1, 2).reshape(1, -1, side, side)
    resized = F.interpolate(plane, size=(height, width), mode="bilinear", align_corners=False)
    spread = resized[:, :, None].expand(-1, -1, depth, -1, -1).flatten(2).transpose(1, 2)
    mapped["patch_embedding.position_embeddings"] = spread.contiguous()
    return mapped


def load_bert(model: FVLM, file: Path) -> None:
    """The text encoder from a BERT of Hugging Face's layout, such as CXR-BERT.

    The model has no token types: the first row of their table, which every token of one sentence gets, is added to the
    positions, so that it computes what the given BERT does. Raises PretrainError.
    """
    loaded = _safetensors(file) if file.suffix == ".safetensors" else _torch_file(file)
    if not isinstance(loaded, Mapping):
        raise PretrainError(f"{file}: holds no tensors; give pytorch_model.bin or model.safetensors of a BERT")
    _fill(model.text_encoder, bert_state(loaded), set(), file)


def bert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a BERT under the names of `TextEncoder`."""
    named = {
        name.removeprefix("bert."): tensor for name, tensor in state.items() if not name.startswith(_BERT_WITHOUT_USE)
    }
    for counter in _BERT_COUNTERS:
        named.pop(counter, None)
    types, positions = named.pop(_TOKEN_TYPES, None), named.get("embeddings.position_embeddings.weight")
    if types is not None and positions is not None and types.shape[-1] == positions.shape[-1]:
        named["embeddings.position_embeddings.weight"] = positions + types[0]
    return {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): t
        for name, t in named.items()
    }


def _patch_names(model: FVLM) -> list[str]:
    """Of the embedding, all but the positions: they see three dimensions and one channel, which no photograph has."""
    names = model.visual_encoder.patch_embedding.state_dict()
    return [name for name in names if name != "position_embeddings"]


def _fill(part: nn.Module, given: Mapping[str, object], stays: set[str], file: Path) -> None:
    """Weights into a module; those named in `stays` keep theirs. Raises PretrainError listing what does not fit."""
    expected = {name: tensor for name, tensor in part.state_dict().items() if name not in stays}
    taken, problems = fitted(given, expected)
    if problems:
        raise PretrainError(
            f"{file}: does not fit the model: {'; '.join(problems)}; give the file of this architecture"
        )
    part.load_state_dict({**part.state_dict(), **taken})


def _torch_file(file: Path) -> object:
    """Tensors and plain containers of a PyTorch file."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise PretrainError(f"{file}: no such file; correct the key under start") from error
    except pickle.UnpicklingError as error:
        raise PretrainError(f"{file}: holds more than weights, or is damaged; it was not opened") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise PretrainError(f"{file}: not a PyTorch file ({error}); download it again") from error


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise PretrainError(f"{file}: no such file; correct the key under start") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise PretrainError(f"{file}: cannot be read ({error}); download it again") from error
