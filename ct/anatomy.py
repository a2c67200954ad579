"""`AnatomyMap`: which voxel belongs to which anatomy, and the interface of what segments a `Volume`."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from config import Reason
from ct.volume import Grid, Volume

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]
Side = Literal["left", "right"]
"""The patient's, not the viewer's."""


@dataclass(frozen=True)
class AlgorithmIdentity:
    """A versioned algorithm with its weights, as it is named in every object written (DICOM TID 4019)."""

    name: str
    version: str
    digest: str
    """SHA-256 of the weights, hex."""
    manufacturer: str = "fVLM Node project"
    test_only: bool = False
    """True: every object it contributes to is marked TEST MODEL - NOT FOR CLINICAL USE."""


@dataclass(frozen=True)
class AnatomyMeasure:
    """What the mask of one anatomy measures on the scan."""

    voxels: int
    volume_ml: float
    mean_hu: float
    doubt: Reason | None = None
    """Why it should not be read (absent, cut off, implausible: `ct.quality`); None if it may be."""
    cut: bool = False
    """Whether the border of the scan cuts it."""
    main_share: float = 1.0
    """Share of its voxels in its largest connected pieces, as many as it may fall into."""
    swapped: bool = False
    """Whether what the segmenter calls left lies on the patient's right, and the other way round."""


@dataclass(frozen=True)
class Sides:
    """Which part of a paired anatomy is the patient's left one and which the right one."""

    box: Box
    """Where the anatomy lies, [z, y, x]: every voxel of it is in the box."""
    left: BoolArray
    """[z, y, x] of the box: the anatomy's voxels that are left; its others are right."""
    measures: dict[Side, AnatomyMeasure]
    """What each side measures; a side that is not there has no entry."""


@dataclass(frozen=True)
class AnatomyMap:
    """Labels uint8 [z, y, x] on the grid of the volume; label i + 1 is `names[i]`, 0 is background."""

    labels: UInt8Array
    grid: Grid
    names: tuple[str, ...]
    algorithm: AlgorithmIdentity
    measures: dict[str, AnatomyMeasure] = field(default_factory=dict)
    """One entry a name, filled by `measure`."""
    sides: dict[str, Sides] = field(default_factory=dict)
    """Paired anatomies whose left and right are known, filled by `tell_sides`; of another one no side is to be said."""

    def __post_init__(self) -> None:
        if self.labels.dtype != np.uint8 or self.labels.shape != self.grid.shape:
            raise ValueError(f"labels must be uint8 {self.grid.shape}, is {self.labels.dtype} {self.labels.shape}")

    @property
    def whole(self) -> tuple[str, ...]:
        """The anatomies that were found, and that nothing speaks against reading."""
        return tuple(
            name
            for name in self.names
            if (measure := self.measures.get(name)) is not None and measure.voxels and measure.doubt is None
        )

    def label(self, name: str) -> int:
        """The label of an anatomy; ValueError if the map does not have it."""
        return self.names.index(name) + 1


class SegmenterWeightsError(RuntimeError):
    """The weights are missing or not those of this network. The text names the cure."""


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 over the SHA-256 of each file, in this order, hex: the identity of weights in several files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


class Segmenter(Protocol):
    """Finds anatomies in a CT."""

    @property
    def identity(self) -> AlgorithmIdentity:
        """Name, version and weights of the algorithm."""
        ...

    def segment(self, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        """Label `anatomies` (vocabulary names, in label order) on the volume's own grid, with their measures."""
        ...
