"""Where the anatomies of a study come from: the configured segmenter, or ready label maps. All are picklable."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from config import Reason, Settings, load_vocabulary
from config.settings import ModelSettings
from ct.anatomy import AlgorithmIdentity, AnatomyMap, Segmenter, UInt8Array
from ct.measure import measure
from ct.nifti import NiftiError, read_labels
from ct.segment import load_segmenter
from ct.totalsegmentator import findable, merge_classes
from ct.volume import Volume
from training.study import StudyError

_ENDINGS = (".nii.gz", ".nii")


class Masks(Protocol):
    """Gives the measured anatomy map of a study's CT."""

    def find(self, name: str, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        """Those of `anatomies` that it knows, in label order. Raises StudyError."""
        ...


@dataclass(frozen=True)
class Segmented:
    """By the segmenter of the settings; its weights are loaded once a process."""

    settings: ModelSettings
    device: str = "cpu"

    def find(self, name: str, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:  # noqa: ARG002
        """Raises SegmenterWeightsError if the weights are missing."""
        return _segmenter(self.settings.model_dump_json(), self.device).segment(volume, anatomies)


@cache
def _segmenter(settings: str, device: str) -> Segmenter:
    return load_segmenter(ModelSettings.model_validate_json(settings), device)


@dataclass(frozen=True)
class TotalSegmentatorMaps:
    """Multilabel files of TotalSegmentator (task `total`, version 2) below a folder: NAME.nii.gz, on the CT's grid."""

    folder: Path

    def find(self, name: str, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        from totalsegmentator.map_to_binary import class_map

        path = _file(self.folder, name)
        classes = _on_grid(path, volume)
        if classes.max() > max(class_map["total"]):
            raise StudyError(Reason.MASK_UNUSABLE, f"{path}: class {classes.max()} is none of TotalSegmentator's total")
        known = findable(anatomies)
        labels = merge_classes(classes, class_map["total"], known)
        identity = AlgorithmIdentity("TotalSegmentator label maps", "total, version 2", "", "University Hospital Basel")
        return _map(volume, labels, known, identity)


@dataclass(frozen=True)
class OneFileEach:
    """Binary files, one an anatomy, in a folder a study: FOLDER/seg_NAME/lung.nii.gz (RadGenome-ChestCT's layout).

    Several folders are looked into in turn; an anatomy is made of its own file, or of those of its TotalSegmentator
    classes. An anatomy without a file is not in the map.
    """

    folders: tuple[Path, ...]

    def find(self, name: str, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        classes = load_vocabulary().classes(anatomies)
        found = {anatomy: files for anatomy in anatomies if (files := self._files(name, anatomy, classes[anatomy]))}
        if not found:
            where = " or ".join(str(folder / f"seg_{name}") for folder in self.folders)
            raise StudyError(Reason.MASK_UNUSABLE, f"{where}: no mask of any of the anatomies")
        labels = np.zeros(volume.grid.shape, dtype=np.uint8)
        for label, files in enumerate(found.values(), start=1):
            for path in files:
                labels[_on_grid(path, volume) > 0] = label
        identity = AlgorithmIdentity("RadGenome-ChestCT masks", "1", "", "RadGenome")
        return _map(volume, labels, tuple(found), identity)

    def _files(self, name: str, anatomy: str, classes: tuple[str, ...]) -> list[Path]:
        for folder in self.folders:
            place = folder / f"seg_{name}"
            own = place / f"{anatomy.replace('_', ' ')}.nii.gz"
            parts = [place / f"{part.replace('_', ' ')}.nii.gz" for part in classes]
            if files := [path for path in ([own] if own.is_file() else parts) if path.is_file()]:
                return files
        return []


def masks_of(settings: Settings, folder: Path | None, device: str = "cpu") -> Masks:
    """Label maps of TotalSegmentator in a folder, or the settings' segmenter."""
    return Segmented(settings.model, device) if folder is None else TotalSegmentatorMaps(folder)


def _file(folder: Path, name: str) -> Path:
    files = [path for ending in _ENDINGS if (path := _index(folder).get(f"{name}{ending}")) is not None]
    if not files:
        raise StudyError(Reason.MASK_UNUSABLE, f"{folder}: no label map {name}.nii.gz")
    return files[0]


@cache
def _index(folder: Path) -> dict[str, Path]:
    """All files below a folder by name, looked up once a process."""
    return {path.name: path for path in sorted(folder.rglob("*.nii*"))}


def _on_grid(path: Path, volume: Volume) -> UInt8Array:
    """A label file that lies where the CT lies. Raises StudyError: a shifted or flipped mask would teach wrong."""
    try:
        labels, grid = read_labels(path)
    except NiftiError as error:
        raise StudyError(Reason.MASK_UNUSABLE, str(error)) from error
    if not grid.coincides(volume.grid):
        raise StudyError(
            Reason.MASK_UNUSABLE,
            f"{path}: {grid.shape} of {_mm(grid.spacing)} mm, the CT {volume.grid.shape} of "
            f"{_mm(volume.spacing)} mm; the mask must lie on the CT's grid, at its place",
        )
    return labels


def _map(volume: Volume, labels: UInt8Array, names: tuple[str, ...], identity: AlgorithmIdentity) -> AnatomyMap:
    return AnatomyMap(labels, volume.grid, names, identity, measure(volume, labels, names))


def _mm(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{step:g}" for step in spacing)
