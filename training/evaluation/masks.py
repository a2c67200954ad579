"""Where the anatomies come from: the configured segmenter, or ready label maps in a folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from ct.anatomy import AlgorithmIdentity, AnatomyMap, Segmenter
from ct.measure import measure
from ct.nifti import read_labels
from ct.volume import Volume
from training.evaluation.data_set import DataError

LABELS_FILE = "labels.json"
_SAME_SPACING = 0.02


class Masks(Protocol):
    """Gives the measured anatomy map of a case."""

    @property
    def identity(self) -> AlgorithmIdentity: ...

    def find(self, name: str, volume: Volume) -> AnatomyMap:
        """Raises `ct.nifti.NiftiError` or DataError."""
        ...


class Segmented:
    """Masks by a segmenter."""

    def __init__(self, segmenter: Segmenter, anatomies: tuple[str, ...]) -> None:
        self._segmenter, self._anatomies = segmenter, anatomies

    @property
    def identity(self) -> AlgorithmIdentity:
        return self._segmenter.identity

    def find(self, name: str, volume: Volume) -> AnatomyMap:  # noqa: ARG002
        return self._segmenter.segment(volume, self._anatomies)


class LabelMaps:
    """Label maps `NAME.nii.gz` on the grid of the volumes, anywhere below a folder.

    Label i + 1 is the i-th anatomy of the release, unless `labels.json` in the folder says otherwise: an object from
    anatomy to its label values, `{"lung": [10, 11, 12, 13, 14], "heart": [51, 61]}` for maps of TotalSegmentator.
    """

    def __init__(self, folder: Path, anatomies: tuple[str, ...]) -> None:
        """Raises DataError if there are no maps, or `labels.json` is wrong."""
        self._files = {path.name.removesuffix(".nii.gz"): path for path in sorted(folder.rglob("*.nii.gz"))}
        if not self._files:
            raise DataError(f"{folder}: no label map (….nii.gz); name the folder with the masks")
        values: Mapping[str, list[int]] = {name: [label] for label, name in enumerate(anatomies, start=1)}
        file = folder / LABELS_FILE
        if file.is_file():
            values = _label_values(file, anatomies)
        self._names = tuple(name for name in anatomies if name in values)
        self._table = np.zeros(256, dtype=np.uint8)
        for label, name in enumerate(self._names, start=1):
            self._table[values[name]] = label
        meaning = json.dumps({name: values[name] for name in self._names})
        self._identity = AlgorithmIdentity("label maps", folder.name, hashlib.sha256(meaning.encode()).hexdigest())

    @property
    def identity(self) -> AlgorithmIdentity:
        """The digest is that of the labels' meaning, not of the maps."""
        return self._identity

    def find(self, name: str, volume: Volume) -> AnatomyMap:
        if name not in self._files:
            raise DataError(f"{name}: no label map of that name")
        stored, grid = read_labels(self._files[name])
        if grid.shape != volume.grid.shape or not np.allclose(grid.spacing, volume.spacing, rtol=_SAME_SPACING):
            raise DataError(
                f"{self._files[name]}: {grid.shape} of {grid.spacing} mm, the volume {volume.grid.shape} of "
                f"{volume.spacing} mm; the map must lie on the volume's grid"
            )
        labels = self._table[stored]
        return AnatomyMap(labels, volume.grid, self._names, self._identity, measure(volume, labels, self._names))


def _label_values(file: Path, anatomies: tuple[str, ...]) -> dict[str, list[int]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        values = {str(name): [int(value) for value in entry] for name, entry in found.items() if name in anatomies}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: must be an object from anatomy to a list of labels ({error})") from error
    every = [value for entry in values.values() for value in entry]
    if not values or len(set(every)) < len(every) or not all(0 < value < 256 for value in every):
        raise DataError(f"{file}: each anatomy of the release needs labels of its own in 1..255")
    return values
