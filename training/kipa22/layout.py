"""The folders of KiPA22 (facts: github fengjiejiejiejie/kipa22_nnunet): train/image/ID.nii.gz, train/label/ID.nii.gz.

Each case is checked before anything is learned from it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ct.nifti import NiftiError, read_labels, read_volume
from ct.volume import Volume

ANATOMIES = ("renal_vein", "kidney", "renal_artery", "renal_tumor")
"""What labels 1, 2, 3 and 4 are, by the vocabulary."""
CLASSES = len(ANATOMIES) + 1
_EVERY = 5
"""Where no labelled test/ is there, every so many-th case of train/ is held out."""
_ENDINGS = (".nii.gz", ".nii")
_AIR = -100
"""A CT of the trunk has fat and air below this, HU."""

UInt8Array = npt.NDArray[np.uint8]
LayoutReason = Literal[
    "FOLDER_MISSING", "NO_CASES", "LABEL_MISSING", "IMAGE_MISSING", "UNREADABLE", "OTHER_GRID", "UNKNOWN_LABEL",
    "NOTHING_LABELLED", "NOT_HU",
]  # fmt: skip


class LayoutError(ValueError):
    """A folder or case cannot be trained on. The text begins with the reason, and names the file and the cure."""

    def __init__(self, reason: LayoutReason, where: Path, text: str) -> None:
        super().__init__(f"{reason}: {where}: {text}")
        self.reason = reason


@dataclass(frozen=True)
class Case:
    """One patient's two files."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Split:
    """Who is learned from, and who is only measured on."""

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]


def find_cases(folder: Path) -> Split:
    """The cases of train/, and those of test/ where it has labels; else every fifth of train/. Raises LayoutError."""
    train = _cases(folder / "train")
    if (folder / "test" / "label").is_dir():
        return Split(train, _cases(folder / "test"))
    held_out = train[_EVERY - 1 :: _EVERY]
    if not held_out:
        raise LayoutError(
            "NO_CASES",
            folder / "train",
            f"{len(train)} cases; at least {_EVERY} are needed, or labelled ones in test/, so that some are held out",
        )
    return Split(tuple(case for case in train if case not in held_out), held_out)


def _cases(folder: Path) -> tuple[Case, ...]:
    images, labels = _files(folder / "image"), _files(folder / "label")
    if without := sorted(images.keys() - labels.keys()):
        raise LayoutError("LABEL_MISSING", images[without[0]], _no_partner(folder / "label", without))
    if without := sorted(labels.keys() - images.keys()):
        raise LayoutError("IMAGE_MISSING", labels[without[0]], _no_partner(folder / "image", without))
    if not images:
        raise LayoutError("NO_CASES", folder / "image", "no .nii.gz or .nii file")
    return tuple(Case(name, images[name], labels[name]) for name in sorted(images, key=lambda n: (len(n), n)))


def _no_partner(folder: Path, names: list[str]) -> str:
    others = f", nor of {len(names) - 1} more" if len(names) > 1 else ""
    return f"no file of that name in {folder}{others}; add it, or remove this one"


def _files(folder: Path) -> dict[str, Path]:
    """Name without ending -> file."""
    if not folder.is_dir():
        raise LayoutError("FOLDER_MISSING", folder, "no such folder; it takes image/ID.nii.gz and label/ID.nii.gz")
    found = {}
    for file in sorted(folder.iterdir()):
        ending = next((e for e in _ENDINGS if file.name.endswith(e)), None)
        if ending and not file.name.startswith("."):
            found[file.name.removesuffix(ending)] = file
    return found


def read_case(case: Case, intercept: float = 0.0) -> tuple[Volume, UInt8Array]:
    """The CT and its labels uint8 [z, y, x] in patient order, on one grid. Raises LayoutError."""
    try:
        volume = read_volume(case.image, intercept=intercept)
        labels, grid = read_labels(case.label)
    except NiftiError as error:
        raise LayoutError("UNREADABLE", case.image.parent.parent, f"{error}; copy it again") from error
    if not volume.grid.coincides(grid):
        raise LayoutError(
            "OTHER_GRID",
            case.label,
            f"its voxels are not those of the image: {grid.shape} (z, y, x) at {_mm(grid.affine)}, the image "
            f"{volume.grid.shape} at {_mm(volume.grid.affine)}",
        )
    values = np.unique(labels)
    if values[-1] >= CLASSES:
        named = ", ".join(f"{i} {name}" for i, name in enumerate(ANATOMIES, start=1))
        raise LayoutError("UNKNOWN_LABEL", case.label, f"label {values[-1]}; known are 0 background, {named}")
    if len(values) == 1 and values[0] == 0:
        raise LayoutError("NOTHING_LABELLED", case.label, "every voxel is 0; remove the case")
    if volume.hu.min() > _AIR:
        raise LayoutError(
            "NOT_HU",
            case.image,
            f"its least number is {volume.hu.min()}, so these are no Hounsfield units of a CT; name the shift in "
            "`intercept` of the configuration (often -1024)",
        )
    return volume, labels


def _mm(affine: npt.NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in affine[:3, 3]) + ") mm"
