"""The state of a run on disk: each checkpoint whole or not there, the newest few kept."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from training.pretraining.config import PretrainError

_FORMAT = 1


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps in one move, then delete all but the newest `keep`. Returns the file.

    The state may hold tensors and plain containers only: it is read without running code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, partial = folder / f"step-{step:08d}.pt", folder / "checkpoint.part"
    with partial.open("wb") as out:
        torch.save({"format": _FORMAT, "step": step, **state}, out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
    for old in saved(folder)[:-keep]:
        old.unlink()
    return file


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest last."""
    return sorted(folder.glob("step-????????.pt"))


def load(file: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; no code of the file runs. Raises PretrainError if it is damaged or not one of ours."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise PretrainError(f"{file}: cannot be read ({reason}); delete it to go on from the one before") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise PretrainError(f"{file}: not a checkpoint of this program; choose another --out")
    return state
