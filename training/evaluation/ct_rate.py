"""The published layout of CT-RATE (Hugging Face, ibrahimhamamci/CT-RATE).

    dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz   volumes with header and HU put right, or
    dataset/valid/…                                            volumes as first published: header and scale are wrong
    dataset/metadata/validation_metadata.csv                   spacing, position, orientation, rescale of each volume
    dataset/multi_abnormality_labels/valid_predicted_labels.csv

A name reads split_patient_scan_reconstruction.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ct.nifti import read_volume
from ct.volume import Volume
from training.evaluation.data_set import Case, DataError, DataSet, need, read_table, targets_of, truth

_ENDING = ".nii.gz"
METADATA = {"valid": "validation_metadata.csv", "train": "train_metadata.csv"}
_NEEDED = (
    "XYSpacing",
    "ZSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
)


def read_ct_rate(folder: Path, split: str = "valid") -> DataSet:
    """The labelled volumes of a split below `folder` (that of the repository, or its `dataset`).

    Raises DataError if tables are missing or no volume is there.
    """
    root = root_of(folder)
    labels_file = root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
    targets = targets_of("ct-rate")
    columns = [column for target in targets for column in target.labels]
    table = read_table(labels_file, "VolumeName", columns.__contains__)
    need(labels_file, table, columns)
    volumes, cases, positive = CtRateVolumes.of(root, split), [], []
    for name in sorted(table):
        if (load := volumes.find(name)) is None:
            continue
        cases.append(Case(name.removesuffix(_ENDING), patient_of(name), load))
        positive.append(truth(labels_file, table[name], targets))
    if not cases:
        raise DataError(
            f"{volumes.place}: none of the {len(table)} labelled volumes is there; copy them in their folders"
        )
    return DataSet(f"CT-RATE {split}", tuple(cases), targets, np.array(positive, dtype=bool), len(table) - len(cases))


def root_of(folder: Path) -> Path:
    """The folder `dataset` of the repository, or the given one if it is that already."""
    return folder / "dataset" if (folder / "dataset").is_dir() else folder


def patient_of(name: str) -> str:
    """valid_1_a_2.nii.gz -> valid_1."""
    return "_".join(name.split("_")[:2])


@dataclass(frozen=True)
class CtRateVolumes:
    """The volumes of a split. Those under `SPLIT_fixed` are read as they are; under `SPLIT` the metadata replaces the
    header, as the data set's own correction does.
    """

    place: Path
    metadata_file: Path
    metadata: Mapping[str, Mapping[str, str]] | None
    """Rows by volume; None if the headers are right."""

    @classmethod
    def of(cls, root: Path, split: str) -> Self:
        """Raises DataError if the headers are wrong and there is no metadata."""
        metadata_file = root / "metadata" / METADATA[split]
        if (root / f"{split}_fixed").is_dir():
            return cls(root / f"{split}_fixed", metadata_file, None)
        metadata = read_table(metadata_file, "VolumeName", _NEEDED.__contains__)
        need(metadata_file, metadata, _NEEDED)
        return cls(root / split, metadata_file, metadata)

    def find(self, name: str) -> Callable[[], Volume] | None:
        """How to read the volume `valid_1_a_2.nii.gz`; None if its file is not there. Raises DataError."""
        path = self.place / patient_of(name) / name.removesuffix(_ENDING).rpartition("_")[0] / name
        if not path.is_file():
            return None
        if self.metadata is None:
            return partial(read_volume, path)
        if name not in self.metadata:
            raise DataError(f"{self.metadata_file}: no row for {name}; copy the whole file")
        return partial(_read_raw, path, self.metadata[name])


def _read_raw(path: Path, row: Mapping[str, str]) -> Volume:
    try:
        affine = _affine(row)
        slope, intercept = float(row["RescaleSlope"]), float(row["RescaleIntercept"])
    except (ValueError, SyntaxError, TypeError) as error:
        raise DataError(f"metadata of {path.name}: {error}") from error
    return read_volume(path, slope=slope, intercept=intercept, affine_lps=affine)


def _affine(row: Mapping[str, str]) -> npt.NDArray[np.float64]:
    """Stored (i, j, k, 1) -> patient coordinates (LPS) in mm: columns run along i, rows along j (PS3.3 C.7.6.2)."""
    x, y = (float(step) for step in ast.literal_eval(row["XYSpacing"]))
    orientation = np.array(ast.literal_eval(row["ImageOrientationPatient"]), dtype=np.float64)
    along_i, along_j = orientation[:3], orientation[3:]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_i * x, along_j * y
    affine[:3, 2] = np.cross(along_i, along_j) * float(row["ZSpacing"])
    affine[:3, 3] = ast.literal_eval(row["ImagePositionPatient"])
    return affine
