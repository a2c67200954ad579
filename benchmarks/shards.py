"""Samples a second: crops out of shards against loading `.nii.gz` with MONAI, as the public training code does.

The same synthetic patients on the same grid (3 x 1 x 1 mm, the body around lung, heart, esophagus and liver), the same
random crop of 112 x 256 x 352 with flips, one process and one thread. The peer has two kinds of files, compressed as
nibabel does: `float`, scaled to 0..1 before it was saved, as the public preprocessing does it, and `int16`, HU that are
scaled after loading, which is quicker. `ratio_vs_nifti…` is against the quicker one. Ours also says which anatomies are
whole in the crop and assembles their captions.

Cold: each file's pages are dropped (posix_fadvise DONTNEED, the file synced before) ahead of the pass; warm: the pass
after it. `read_mb` is what the kernel then fetched from the disk, for a sample. `_cpu` counts CPU seconds, which hold
on a machine that does something else too.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import torch
from bench_result import Result
from monai.transforms import Compose, LoadImaged, RandFlipd, RandSpatialCropd, ScaleIntensityRanged

from fvlm.config import PreprocessConfig
from fvlm.preprocess import Box, padded
from training.shards.build import build
from training.shards.dataset import ShardDataset
from training.shards.folder import ShardFolder
from training.shards.plan import ShardPlan
from training.sources.phantom import phantoms

SPACING, SHAPE = (3.0, 1.0, 1.0), (210, 400, 400)
CROP = (112, 256, 352)
WINDOW = (-1150.0, 350.0)
PLAN = ShardPlan(
    anatomies=("lung", "heart", "esophagus", "liver"),
    findings=("lung.nodule",),
    preprocess=PreprocessConfig(margin=(5, 20, 20), hu_window=WINDOW),
    shape=CROP,
)


@dataclass(frozen=True)
class Side:
    """One way of loading."""

    files: tuple[Path, ...]
    load: Callable[[int], object]
    """Loads sample i."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=4, help="passes over all patients, cold and warm each")
    parser.add_argument("--folder", type=Path, help="where the files lie; none: a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = Result("shards", ("monai", "nibabel", "numpy", "torch", "safetensors"))
    with TemporaryDirectory(dir=arguments.folder) as name:
        sides = prepare(Path(name), arguments.patients)
        result.conditions |= {
            "patients": arguments.patients,
            "repeats": arguments.repeats,
            "crop": CROP,
            "cold": "posix_fadvise DONTNEED on every file",
            "mb_a_patient": {side: round(_mb(what.files) / arguments.patients, 1) for side, what in sides.items()},
            "shapes": sorted({str(_shape(file)) for file in sides["nifti_int16"].files}),
        }
        measured: dict[str, list[float]] = {}
        for _ in range(arguments.repeats):
            for side, what in sides.items():
                _drop(what.files)
                for cache in ("cold", "warm"):
                    for figure, value in one_pass(what, arguments.patients).items():
                        measured.setdefault(f"{side}_{cache}_{figure}", []).append(value)
    for figure, values in measured.items():
        result.add(figure, values)
    for cache in ("cold", "warm"):
        for figure, suffix in (("samples_per_s", ""), ("samples_per_cpu_s", "_cpu")):
            rates = {side: result.figures[f"{side}_{cache}_{figure}"] for side in sides}
            peer = max(rates["nifti_int16"], rates["nifti_float"])
            result.figures[f"ratio_vs_nifti_{cache}{suffix}"] = round(rates["shards"] / peer, 2)
    result.figures["ratio_vs_nifti"] = min(result.figures[f"ratio_vs_nifti_{cache}"] for cache in ("cold", "warm"))
    result.finish()


def prepare(folder: Path, patients: int) -> dict[str, Side]:
    """Shards and both kinds of NIfTI files of the same patients, all synced to the disk."""
    build(phantoms(patients, 0, SPACING, SHAPE).studies, (), PLAN, folder / "shards", 1, _say)
    opened = ShardFolder.open(folder / "shards")
    data = ShardDataset(opened)
    kinds: dict[str, list[tuple[Path, Path]]] = {"nifti_int16": [], "nifti_float": []}
    low, high = WINDOW
    for number, entry in enumerate(opened.index.studies):
        shard = opened.shard(entry)
        room = padded(Box((0, 0, 0), shard.image.shape), CROP)
        place = Box((0, 0, 0), shard.image.shape).slices(room.start)
        hu, labels = np.full(room.shape, int(low), np.int16), np.zeros(room.shape, np.uint8)
        hu[place], labels[place] = shard.image, shard.labels
        scaled = ((hu.clip(low, high) - low) / (high - low)).astype(np.float32)
        for kind, image in (("nifti_int16", hu), ("nifti_float", scaled)):
            files = folder / f"{kind}-{number}.nii.gz", folder / f"{kind}-{number}-labels.nii.gz"
            for path, array in zip(files, (image, labels), strict=True):
                nib.save(nib.Nifti1Image(array, np.diag((*SPACING, 1.0))), path)
            kinds[kind].append(files)
    sides = {kind: Side(tuple(f for pair in files for f in pair), _monai(kind, files)) for kind, files in kinds.items()}
    shards = tuple(opened.path / entry.file for entry in opened.index.studies)
    sides["shards"] = Side(shards, lambda index: data[index % len(data)])
    os.sync()
    return sides


def _monai(kind: str, files: Sequence[tuple[Path, Path]]) -> Callable[[int], object]:
    """The public loading: both files whole, then the crop, then flips of each axis."""
    keys = ["image", "labels"]
    scale = ScaleIntensityRanged("image", WINDOW[0], WINDOW[1], 0.0, 1.0, clip=True)
    steps: list[Any] = [
        LoadImaged(keys, image_only=True, ensure_channel_first=True),
        RandSpatialCropd(keys, CROP, random_size=False),
        *([scale] if kind == "nifti_int16" else []),
        *(RandFlipd(keys, 0.2, axis) for axis in range(3)),
    ]
    chain = Compose(steps)
    return lambda index: chain({"image": files[index][0], "labels": files[index][1]})


def one_pass(side: Side, patients: int) -> dict[str, float]:
    """Every patient once: samples a second and a CPU second, MB fetched from the disk a sample."""
    before = _fetched_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(patients):
        side.load(index)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "samples_per_s": patients / wall,
        "samples_per_cpu_s": patients / cpu,
        "read_mb": (_fetched_mb() - before) / patients,
    }


def _drop(files: Sequence[Path]) -> None:
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _fetched_mb() -> float:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:")) / 1e6


def _mb(files: Sequence[Path]) -> float:
    return sum(path.stat().st_size for path in files) / 1e6


def _shape(path: Path) -> tuple[int, ...]:
    return tuple(nib.load(path).shape)


def _say(done: int, skipped: int, total: int) -> None:
    print(f"\rpatients drawn: {done + skipped} of {total}", end="\n" if done + skipped == total else "", flush=True)


if __name__ == "__main__":
    main()
