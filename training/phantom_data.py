"""Phantom patients as training data: rendered once, preprocessed as the release does, kept in memory-mapped files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.bundled import BundledSegmenter
from ct.phantom import PhantomPatient, render, write_report
from ct.phantom.rendering import grid_origin
from ct.volume import Grid, Volume
from fvlm.config import ReleaseConfig
from fvlm.preprocess import prepare

SCAN_SPACING = (5.0, 3.0, 3.0)
"""mm z, y, x at which a patient is rendered before preprocessing averages it down."""
SCAN_SHAPE = (124, 133, 133)
TRUTH = AlgorithmIdentity("phantom ground truth", "1", "0" * 64, test_only=True)
SHIFT = 2
"""Random shift of a training window along each axis, voxels."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Caption:
    """What a report says about one anatomy."""

    text: str
    normal: bool


@dataclass(frozen=True)
class Patient:
    """The text side and the truth of one phantom."""

    seed: int
    diseases: tuple[str, ...]
    report: str
    captions: tuple[Caption, ...]
    """In the order of the anatomies."""


def scan(seed: int) -> tuple[PhantomPatient, Volume, npt.NDArray[np.uint8]]:
    """The random phantom of a seed, rendered for training."""
    patient = PhantomPatient.draw(seed)
    rendered = render(patient, SCAN_SPACING, SCAN_SHAPE)
    z, y, x = rendered.origin_mm
    grid = Grid.axis_aligned(SCAN_SHAPE, SCAN_SPACING, (x, y, z))
    return patient, Volume(rendered.hu, grid), rendered.labels


def describe(patient: PhantomPatient, anatomies: Sequence[str]) -> Patient:
    """Captions as the reference assembles them, joined with a space: impression, then findings; else the template."""
    report = write_report(patient)
    captions = []
    for name in anatomies:
        said = report.by_anatomy.get(name)
        text = " ".join(part for part in (said.impression, said.findings) if part) if said else ""
        template = f"{name.replace('_', ' ')} shows no significant abnormalities."
        captions.append(Caption(text or template, said is None or said.normal))
    diseases = tuple(sorted({lesion.key for lesion in patient.diseases}))
    return Patient(patient.seed, diseases, f"{report.impression} {report.findings}", tuple(captions))


@dataclass(frozen=True)
class Ball:
    """One ball of a focal lesion, as it was drawn."""

    finding: str
    centre_mm: tuple[float, float, float]
    """From the outer corner of the window, z, y, x."""
    radius_mm: float

    def moved(self, mm: npt.NDArray[np.float64]) -> "Ball":
        z, y, x = (float(a + b) for a, b in zip(self.centre_mm, mm, strict=True))
        return Ball(self.finding, (z, y, x), self.radius_mm)


@dataclass(frozen=True)
class Batch:
    """Some patients of a set, each window perhaps shifted."""

    image: Tensor
    """float [B, 1, D, H, W] in [0, 1]."""
    labels: Tensor
    """uint8 [B, D, H, W]."""
    balls: tuple[tuple[Ball, ...], ...]
    """Of each patient."""


@dataclass(frozen=True)
class PhantomSet:
    """A prepared set of N patients."""

    images: npt.NDArray[np.uint8]
    """[N, D, H, W], 0..255 for 0..1."""
    labels: npt.NDArray[np.uint8]
    """[N, D, H, W]."""
    patients: tuple[Patient, ...]
    balls: tuple[tuple[Ball, ...], ...]
    spacing: tuple[float, float, float]
    """mm z, y, x."""

    def first(self, count: int) -> "PhantomSet":
        """The first so many patients."""
        return PhantomSet(
            self.images[:count], self.labels[:count], self.patients[:count], self.balls[:count], self.spacing
        )

    def batch(self, chosen: Sequence[int], generator: np.random.Generator | None = None) -> Batch:
        """Some patients; each window is shifted at random if a generator is given."""
        images, labels, balls = [], [], []
        for index in chosen:
            shift = np.zeros(3, np.int64) if generator is None else generator.integers(-SHIFT, SHIFT + 1, size=3)
            images.append(torch.from_numpy(_shifted(self.images[index], shift).astype(np.float32))[None] / 255.0)
            labels.append(torch.from_numpy(_shifted(self.labels[index], shift)))
            balls.append(tuple(ball.moved(shift * np.array(self.spacing)) for ball in self.balls[index]))
        return Batch(torch.stack(images), torch.stack(labels), tuple(balls))


def _shifted(array: npt.NDArray[np.uint8], shift: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Move the content by whole voxels; zeros come in."""
    out = np.zeros_like(array)
    target = tuple(slice(max(s, 0), n + min(s, 0)) for s, n in zip(shift, array.shape, strict=True))
    source = tuple(slice(max(-s, 0), n + min(-s, 0)) for s, n in zip(shift, array.shape, strict=True))
    out[target] = array[source]
    return out


def touches_border(labels: Tensor, anatomies: int) -> Tensor:
    """Labels [B, D, H, W] -> bool [B, A]: the anatomy reaches a face of the window, so it may be cut (section 3.1)."""
    faces = [labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1], labels[..., 0], labels[..., -1]]
    flat = torch.cat([face.flatten(1) for face in faces], 1).long()
    seen = torch.zeros(len(labels), anatomies + 1, dtype=torch.bool, device=labels.device)
    return seen.scatter_(1, flat, torch.ones_like(flat, dtype=torch.bool))[:, 1:]


def prepare_set(
    folder: Path,
    seeds: range,
    config: ReleaseConfig,
    progress: Progress,
    processes: int = 2,
    segmenter: Path | None = None,
) -> PhantomSet:
    """Render and preprocess the phantoms of `seeds`, or go on where an earlier call stopped.

    With the weights of a `segmenter` the labels are what it finds, as in the node; else the ground truth.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(seeds), *config.preprocess.window)
    mode = "r+" if (folder / "labels.npy").exists() else "w+"
    images = np.lib.format.open_memmap(folder / "images.npy", mode=mode, dtype=np.uint8, shape=shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", mode=mode, dtype=np.uint8, shape=shape)
    corners = np.lib.format.open_memmap(folder / "corners.npy", mode=mode, dtype=np.float64, shape=(len(seeds), 3))
    done_file = folder / "done.txt"
    done = {int(line) for line in done_file.read_text().split()} if done_file.exists() else set()
    missing = [seed for seed in seeds if seed not in done]
    progress(len(done), len(seeds))
    work = ((seed, config, segmenter) for seed in missing)
    with done_file.open("a") as ledger, ProcessPoolExecutor(processes) as pool:
        for seed, image, label, corner in pool.map(_prepare_one, work, chunksize=4):
            index = seed - seeds.start
            images[index], labels[index], corners[index] = image, label, corner
            ledger.write(f"{seed}\n")
            ledger.flush()
            done.add(seed)
            progress(len(done), len(seeds))
    drawn = [PhantomPatient.draw(seed) for seed in seeds]
    patients = tuple(describe(patient, config.model.anatomies) for patient in drawn)
    balls = tuple(_balls(patient, corner) for patient, corner in zip(drawn, corners, strict=True))
    return PhantomSet(images, labels, patients, balls, config.preprocess.spacing)


def _balls(patient: PhantomPatient, corner: npt.NDArray[np.float64]) -> tuple[Ball, ...]:
    """The focal lesions of a patient in a window whose outer corner (z, y, x; LPS) is given."""
    return tuple(
        Ball(lesion.key, (z, y, x), radius).moved(-corner)
        for lesion in patient.diseases
        for x, y, z, radius in lesion.balls
    )


_Work = tuple[int, ReleaseConfig, Path | None]
_Done = tuple[int, npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float64]]


def _prepare_one(work: _Work) -> _Done:
    """Render one phantom and bring it into the model's window, whose outer corner (mm z, y, x; LPS) comes last."""
    seed, config, segmenter = work
    torch.set_num_threads(1)
    _, volume, labels = scan(seed)
    names = config.model.anatomies
    if segmenter is None:
        anatomy_map = AnatomyMap(labels, volume.grid, names, TRUTH)
    else:
        anatomy_map = _segmenter(segmenter).segment(volume, names)
    prepared = prepare(volume, anatomy_map, config)
    window = prepared.windows[0]
    image, window_labels = prepared.tensors(window)
    first_voxel = np.array(grid_origin(SCAN_SPACING, SCAN_SHAPE))
    corner = first_voxel - np.array(SCAN_SPACING) / 2 + np.array(window.box.start) * np.array(config.preprocess.spacing)
    return seed, (image[0, 0] * 255.0).round().to(torch.uint8).numpy(), window_labels[0].numpy(), corner


@cache
def _segmenter(weights: Path) -> BundledSegmenter:
    """One a process."""
    return BundledSegmenter(weights)
