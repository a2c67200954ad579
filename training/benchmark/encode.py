"""What the taught stem makes of every scan, kept in files beside them: no convolution is computed twice.

Only cells that hold an anatomy are kept, a third of them, each with the bits of its anatomies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fvlm.cells import Cells
from fvlm.config import ModelConfig
from fvlm.model import tokens_of_anatomies
from training.benchmark.data import Done, Scans
from training.benchmark.patients import ANATOMIES, FINDINGS
from training.pretraining.batches import Batch

_AT_ONCE = 8


@dataclass(frozen=True)
class EncodedBatch(Batch):
    """Studies with the cells of their images, padded to the longest with cells of no anatomy."""

    cells: Tensor
    """float [B, S, C]: before the projection."""
    of_cells: Tensor
    """bool [B, A, S]: which anatomies a cell holds."""
    of_tokens: Tensor
    """bool [B, A, L]: which anatomies a token of the transformer holds."""


@dataclass
class Encoded:
    """N patients as `training.pretraining.batches.Batches`."""

    scans: Scans
    cells: npt.NDArray[np.float16]
    """[all cells, C], patient after patient."""
    first: npt.NDArray[np.int64]
    """[N + 1]: where each patient's cells begin."""
    of_cells: npt.NDArray[np.uint16]
    """[all cells]: a bit for each anatomy."""
    of_tokens: npt.NDArray[np.uint16]
    """[N, L]."""
    usable: npt.NDArray[np.bool_]
    """[N, A]: in the window, whole."""
    anatomies: tuple[str, ...] = ANATOMIES
    findings: tuple[str, ...] = FINDINGS

    def __len__(self) -> int:
        return len(self.scans)

    def batch(self, chosen: Sequence[int], draw: tuple[int, int] = (0, 0)) -> EncodedBatch:  # noqa: ARG002
        """See `Batches`; the same in every epoch, for the cells of a scan are fixed."""
        rows = list(chosen)
        runs = [slice(self.first[index], self.first[index + 1]) for index in rows]
        cells = [torch.from_numpy(self.cells[run].astype(np.float32)) for run in runs]
        held = [torch.from_numpy(self.of_cells[run].astype(np.int16)) for run in runs]
        said = self.scans.said(rows)
        return EncodedBatch(
            image=torch.from_numpy(self.scans.images[rows])[:, None].float().div_(255.0),
            labels=torch.from_numpy(self.scans.labels[rows]),
            usable=torch.from_numpy(self.usable[rows]),
            cells=pad_sequence(cells, batch_first=True),
            of_cells=_unpacked(pad_sequence(held, batch_first=True)),
            of_tokens=_unpacked(torch.from_numpy(self.of_tokens[rows].astype(np.int16))),
            **vars(said),
        )


def _packed(there: Tensor) -> npt.NDArray[np.uint16]:
    """bool [..., A, L] -> [..., L]: a bit for each of at most 15 anatomies."""
    bits = 2 ** torch.arange(there.shape[-2])
    return (there * bits[:, None]).sum(-2).numpy().astype(np.uint16)


def _unpacked(bits: Tensor) -> Tensor:
    """int16 [B, L] -> bool [B, A, L]."""
    return (bits[:, None] & (2 ** torch.arange(len(ANATOMIES)))[:, None].short()) != 0


@torch.inference_mode()
def encode(cells: Cells, config: ModelConfig, scans: Scans, folder: Path, progress: Done) -> Encoded:
    """Run the stem over all scans, or take what an earlier call left in the folder."""
    names = ("cells", "first", "of_cells", "of_tokens", "usable")
    finished = folder / "encoded"
    if not finished.is_file():
        cells.eval()
        fine: list[npt.NDArray[np.float16]] = []
        held: list[npt.NDArray[np.uint16]] = []
        tokens: list[npt.NDArray[np.uint16]] = []
        usable: list[npt.NDArray[np.bool_]] = []
        for first in range(0, len(scans), _AT_ONCE):
            chosen = range(first, min(first + _AT_ONCE, len(scans)))
            batch = scans.batch(chosen)
            features = cells.features(batch.image).half().numpy()
            bits = _packed(tokens_of_anatomies(batch.labels, config.finest, len(ANATOMIES)))
            tokens += list(_packed(tokens_of_anatomies(batch.labels, config.patch, len(ANATOMIES))))
            usable.append(batch.usable.numpy())
            fine += [row[kept > 0] for row, kept in zip(features, bits, strict=True)]
            held += [kept[kept > 0] for kept in bits]
            progress(chosen.stop, len(scans))
        begin = np.cumsum([0, *(len(row) for row in held)])
        arrays = (np.concatenate(fine), begin, np.concatenate(held), np.stack(tokens), np.concatenate(usable))
        for name, array in zip(names, arrays, strict=True):
            np.save(folder / f"{name}.npy", array)
        finished.touch()
    return Encoded(scans, *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))
