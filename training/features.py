"""What a frozen image encoder makes of patients, kept in files: only what lies in an anatomy, which is a third."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fvlm.config import Triple
from fvlm.engine import Precision
from fvlm.model import FVLM
from training.phantom_data import Ball, Patient, PhantomSet, Progress, touches_border
from training.supervise import lesion_places


@dataclass(frozen=True)
class Features:
    """Of one patient, or of B with a leading axis and padding that belongs to no anatomy."""

    cells: Tensor
    """float [n, C]: before the projection (`Cells.features`)."""
    of_cells: Tensor
    """bool [A, n]: which anatomies a cell holds."""
    lesions: Tensor
    """bool [F, n]: which focal findings a cell holds."""
    tokens: Tensor
    """float [levels, m, W]."""
    of_tokens: Tensor
    """bool [A, m]."""
    whole: Tensor
    """float [W]: mean of the final tokens."""
    usable: Tensor
    """bool [A]: in the window and not cut by it."""


@dataclass(frozen=True)
class FeatureSet:
    """The files of N patients."""

    folder: Path
    patients: tuple[Patient, ...]

    def batch(self, chosen: Sequence[int]) -> Features:
        """Some patients, float32, padded to the longest."""
        rows = [load_file(self.folder / f"{self.patients[index].seed}.safetensors") for index in chosen]
        return Features(**{field.name: _padded([row[field.name] for row in rows]) for field in fields(Features)})


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """Stack, with zeros up to the largest; float16 becomes float32."""
    shape = [max(part.shape[axis] for part in parts) for axis in range(parts[0].ndim)]
    out = torch.zeros(len(parts), *shape, dtype=torch.float32 if parts[0].is_floating_point() else torch.bool)
    for row, part in zip(out, parts, strict=True):
        row[tuple(slice(0, n) for n in part.shape)] = part
    return out


def encode_set(
    model: FVLM,
    data: PhantomSet,
    findings: Sequence[str],
    folder: Path,
    progress: Progress,
    precision: Precision = "float32",
    batch: int = 4,
) -> FeatureSet:
    """Encode a set, or go on where an earlier call stopped; `findings` are those of `Features.lesions`.

    Files are float16. `bfloat16` is twice as fast, good enough to learn from, and not for figures. Raises ValueError if
    the model has no cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{patient.seed}.safetensors" for patient in data.patients]
    for first in range(0, len(files), batch):
        chosen = [index for index in range(first, min(first + batch, len(files))) if not files[index].exists()]
        if chosen:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                encoded = _encode(model, data, findings, chosen)
            for index, features in zip(chosen, encoded, strict=True):
                partial = files[index].with_suffix(".part")
                save_file({field.name: getattr(features, field.name) for field in fields(Features)}, partial)
                partial.replace(files[index])
        progress(min(first + batch, len(files)), len(files))
    return FeatureSet(folder, data.patients)


@torch.inference_mode()
def _encode(model: FVLM, data: PhantomSet, findings: Sequence[str], chosen: Sequence[int]) -> list[Features]:
    config, cells = model.config, model.visual_encoder.cells
    if config.cells is None or cells is None:
        raise ValueError("the model has no cells")
    batch = data.batch(chosen)
    fine = cells.features(batch.image)
    levels = model.visual_encoder.transform(batch.image)
    of_cells, of_tokens, *_ = model.select(batch.labels, len(levels) + 1)
    usable = of_tokens.any(-1) & ~touches_border(batch.labels, len(config.anatomies))
    rows = []
    for row, balls in enumerate(batch.balls):
        near, held = of_cells[row].any(0), of_tokens[row].any(0)
        places = lesion_cells(balls, findings, config.image_shape, config.cells.size, data.spacing)
        rows.append(
            Features(
                cells=fine[row, near].half(),
                of_cells=of_cells[row][:, near].contiguous(),
                lesions=places[:, near].contiguous(),
                tokens=torch.stack([level[row, held] for level in levels]).half(),
                of_tokens=of_tokens[row][:, held].contiguous(),
                whole=levels[-1][row].float().mean(0).half(),
                usable=usable[row].clone(),
            )
        )
    return rows


def lesion_cells(
    balls: Sequence[Ball], findings: Sequence[str], window: Triple, size: Triple, spacing: tuple[float, float, float]
) -> Tensor:
    """Which places of `size` voxels in a window hold a lesion of which finding: bool [F, L]."""
    shape = [n // step for n, step in zip(window, size, strict=True)]
    return lesion_places(balls, findings, shape, np.array(size) * np.array(spacing)) > 0
