"""Text features of a release on disk: computed once for all workers, rebuilt when anything about them is in doubt."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fvlm.checkpoint import load_text_encoder
from fvlm.model import FVLM
from fvlm.release import ReleaseError

_log = logging.getLogger(__name__)

FORMAT = "1"
"""Raised when the same release and prompts would give other features, so that older files are not used."""


def user_cache() -> Path | None:
    """`fvlm-node` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache); None for a user without a home."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "fvlm-node"


def text_features(model: FVLM, texts: Sequence[str], folder: Path | None) -> Tensor:
    """Texts -> float32 [N, E] of unit length on the model's device, from `folder` if they are there, else into it.

    `model` is what `load_release` returned (else ReleaseError); `folder` None keeps nothing. A damaged file is written
    again, and a folder that cannot be written costs time, never an error.
    """
    if model.release is None:
        raise ReleaseError("the model belongs to no release; load it with fvlm.load_release")
    if not texts:
        return model.temp.new_zeros(0, model.config.embedding)
    key = hashlib.sha256(json.dumps([FORMAT, model.release.digest, *texts]).encode()).hexdigest()
    file = folder / f"text-{key[:32]}.safetensors" if folder else None
    features = _read(file, key, (len(texts), model.config.embedding)) if file else None
    if features is None:
        if not model.has_text_encoder:
            load_text_encoder(model)
        with torch.inference_mode():
            ids, mask = (tensor.to(model.temp.device) for tensor in model.release.tokenize(texts))
            features = model.text_features(ids, mask).cpu()
        if file:
            _write(file, key, features)
    return features.to(model.temp.device)


def _read(file: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    """The features, or None if the file is missing, damaged or of something else."""
    try:
        with safe_open(file, "pt") as opened:
            stated: dict[str, str] = opened.metadata() or {}
            features: Tensor = opened.get_tensor("features").clone()
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        _log.warning("text cache damaged, made again: %s (%s)", file, type(error).__name__)
        return None
    if stated != _metadata(key, features) or features.dtype != torch.float32 or tuple(features.shape) != shape:
        _log.warning("text cache damaged, made again: %s (not what it says)", file)
        return None
    return features


def _write(file: Path, key: str, features: Tensor) -> None:
    """Put the file in its place whole; what goes wrong is only logged."""
    partial = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save({"features": features}, _metadata(key, features)))
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        _log.warning("text cache not written: %s (%s)", file, type(error).__name__)


def _metadata(key: str, features: Tensor) -> dict[str, str]:
    return {"key": key, "sha256": hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()}
