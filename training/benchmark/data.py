"""The benchmark's scans: rendered once, at a resolution that a small model can learn from, kept in a cache folder."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ct.phantom import render
from training.benchmark.patients import ANATOMIES, Case, case_of, draw
from training.phantom_data import touches_border
from training.pretraining.batches import Batch

SPACING = (7.6, 5.5, 6.2)
"""mm z, y, x."""
SHAPE = (80, 48, 48)
"""Voxels z, y, x: the trunk from the neck to the pelvic floor."""
HU_WINDOW = (-1000.0, 300.0)
"""HU of 0 and 255."""

UInt8Array = npt.NDArray[np.uint8]
Done = Callable[[int, int], None]


@dataclass(frozen=True)
class Scans:
    """N patients."""

    images: UInt8Array
    """[N, D, H, W]."""
    labels: UInt8Array
    """[N, D, H, W]; label i + 1 is anatomy i."""
    cases: tuple[Case, ...]

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """[N, F]: what was drawn."""
        return np.array([case.truth for case in self.cases])

    def batch(self, chosen: Sequence[int]) -> Batch:
        """Some studies."""
        rows = list(chosen)
        labels = torch.from_numpy(self.labels[rows])
        return Batch(
            image=torch.from_numpy(self.images[rows])[:, None].float().div_(255.0),
            labels=labels,
            usable=present(labels) & ~touches_border(labels, len(ANATOMIES)),
            **vars(self.said(rows)),
        )

    def said(self, chosen: Sequence[int]) -> "Said":
        """What the reports of some studies say."""
        cases = [self.cases[index] for index in chosen]
        labels = [[float("nan") if label is None else float(label) for label in case.labels] for case in cases]
        return Said(
            captions=tuple(case.captions for case in cases),
            reports=tuple(case.report for case in cases),
            normal=torch.tensor([case.normal for case in cases]),
            findings=torch.tensor(labels),
        )


@dataclass(frozen=True)
class Said:
    """The text side of a `Batch`."""

    captions: tuple[tuple[str, ...], ...]
    reports: tuple[str, ...]
    normal: Tensor
    findings: Tensor


def present(labels: Tensor) -> Tensor:
    """Labels [B, D, H, W] -> bool [B, A]: the anatomy has a voxel."""
    numbers = torch.arange(1, len(ANATOMIES) + 1)
    return torch.stack([torch.isin(numbers, row) for row in labels])


def prepare(folder: Path, seeds: range, processes: int, progress: Done) -> Scans:
    """Render the patients of `seeds`, or go on where an earlier call stopped. ValueError if `folder` holds others."""
    folder.mkdir(parents=True, exist_ok=True)
    table, shape = folder / "cases.jsonl", (len(seeds), *SHAPE)
    cases = _read(table)
    if [case.seed for case in cases] != list(seeds[: len(cases)]):
        raise ValueError(f"{folder} holds other patients; choose another --out, or remove it")
    mode = "r+" if cases else "w+"
    images = np.lib.format.open_memmap(folder / "images.npy", mode=mode, dtype=np.uint8, shape=shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", mode=mode, dtype=np.uint8, shape=shape)
    if len(images) != len(seeds):
        raise ValueError(f"{folder} was made for {len(images)} patients; choose another --out, or remove it")
    if missing := seeds[len(cases) :]:
        with ProcessPoolExecutor(processes) as pool, table.open("ab") as ledger:
            for case, image, label in pool.map(_rendered, missing, chunksize=8):
                images[len(cases)], labels[len(cases)] = image, label
                cases.append(case)
                ledger.write(_CASE.dump_json(case) + b"\n")
                ledger.flush()
                progress(len(cases), len(seeds))
    return Scans(images, labels, tuple(cases))


_CASE = TypeAdapter(Case)


def _read(table: Path) -> list[Case]:
    """The patients that are finished; a line that was cut off does not count."""
    if not table.is_file():
        return []
    whole = table.read_bytes().rpartition(b"\n")[0]
    table.write_bytes(whole + b"\n" if whole else b"")
    return [_CASE.validate_json(line) for line in whole.splitlines()]


def _rendered(seed: int) -> tuple[Case, UInt8Array, UInt8Array]:
    patient = draw(seed)
    scan = render(patient, SPACING, SHAPE)
    low, high = HU_WINDOW
    scaled = np.clip((scan.hu.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    return case_of(patient), np.rint(scaled * 255).astype(np.uint8), scan.labels
