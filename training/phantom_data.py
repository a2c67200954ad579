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
class PhantomSet:
    """A prepared set: images uint8 [N, D, H, W] (0..255 for 0..1), labels uint8 [N, D, H, W], and the patients."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    patients: tuple[Patient, ...]

    def window(self, index: int, generator: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Image float [1, D, H, W] and labels [D, H, W]; shifted at random if a generator is given."""
        image, labels = np.asarray(self.images[index]), np.asarray(self.labels[index])
        if generator is not None:
            shift = generator.integers(-SHIFT, SHIFT + 1, size=3)
            image, labels = _shifted(image, shift), _shifted(labels, shift)
        return torch.from_numpy(image.astype(np.float32))[None] / 255.0, torch.from_numpy(labels.copy())

    def batch(self, chosen: Sequence[int], generator: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Images [B, 1, D, H, W] and labels [B, D, H, W] of some patients."""
        images, labels = zip(*(self.window(index, generator) for index in chosen), strict=True)
        return torch.stack(images), torch.stack(labels)


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
    seen = torch.zeros(len(labels), anatomies + 1, dtype=torch.bool)
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
    done_file = folder / "done.txt"
    done = {int(line) for line in done_file.read_text().split()} if done_file.exists() else set()
    missing = [seed for seed in seeds if seed not in done]
    progress(len(done), len(seeds))
    work = ((seed, config, segmenter) for seed in missing)
    with done_file.open("a") as ledger, ProcessPoolExecutor(processes) as pool:
        for seed, image, label in pool.map(_prepare_one, work, chunksize=4):
            images[seed - seeds.start], labels[seed - seeds.start] = image, label
            ledger.write(f"{seed}\n")
            done.add(seed)
            progress(len(done), len(seeds))
    patients = tuple(describe(PhantomPatient.draw(seed), config.model.anatomies) for seed in seeds)
    return PhantomSet(images, labels, patients)


_Work = tuple[int, ReleaseConfig, Path | None]
_Done = tuple[int, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def _prepare_one(work: _Work) -> _Done:
    """Render one phantom and bring it into the model's window."""
    seed, config, segmenter = work
    torch.set_num_threads(1)
    _, volume, labels = scan(seed)
    names = config.model.anatomies
    if segmenter is None:
        anatomy_map = AnatomyMap(labels, volume.grid, names, TRUTH)
    else:
        anatomy_map = _segmenter(segmenter).segment(volume, names)
    prepared = prepare(volume, anatomy_map, config)
    image, window_labels = prepared.tensors(prepared.windows[0])
    return seed, (image[0, 0] * 255.0).round().to(torch.uint8).numpy(), window_labels[0].numpy()


@cache
def _segmenter(weights: Path) -> BundledSegmenter:
    """One a process."""
    return BundledSegmenter(weights)
