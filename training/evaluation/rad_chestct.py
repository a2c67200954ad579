"""The published layout of Rad-ChestCT (Zenodo 6406114): 3,630 volumes of Duke University.

    trn00001.npz, val00001.npz, tst00001.npz …     array `ct`, int16 HU clipped to -1000..1000, 0.8 mm in each direction
    imgtrain_Abnormality_and_Location_Labels.csv   and imgvalid_, imgtest_: a column `abnormality*location` each
    CT_Scan_Metadata_Complete_35747.csv            MRN_DEID: the patient (optional)

Axes run from superior to inferior, anterior to posterior, right to left: the columns of the data set's own table of
lung boxes say so (sup_axis0min, ant_axis1min, rig_axis2min). Volumes and tables lie in one folder, or volumes in `npz`.
"""

import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from ct.volume import Grid, Volume
from training.evaluation.data_set import Case, DataError, DataSet, flag, read_table, targets_of

_KEY, _PATIENT = "NoteAcc_DEID", "MRN_DEID"
_METADATA = "CT_Scan_Metadata_Complete_35747.csv"
_LABELS = "img{split}_Abnormality_and_Location_Labels.csv"
SPACING_MM = 0.8


def read_rad_chestct(folder: Path) -> DataSet:
    """All labelled volumes of `folder`, whatever split they belong to: the model has seen none of them.

    Without the metadata table each volume is a patient of its own. Raises DataError if there are no labels or volumes.
    """
    files = [path for split in ("train", "valid", "test") if (path := folder / _LABELS.format(split=split)).is_file()]
    if not files:
        raise DataError(f"{folder}: no {_LABELS.format(split='test')} or one of its siblings; copy the label tables")
    volumes = folder / "npz" if (folder / "npz").is_dir() else folder
    owners = read_table(folder / _METADATA, _KEY, _PATIENT.__eq__) if (folder / _METADATA).is_file() else {}
    targets, cases, positive, labelled = targets_of("rad-chestct"), [], [], 0
    asked = {label for target in targets for label in target.labels}
    for file in files:
        table = read_table(file, _KEY, lambda column: _abnormality(column) in asked)
        labelled += len(table)
        _need_all(file, next(iter(table.values()), {}), asked)
        for name in sorted(table):
            if not (path := volumes / f"{name}.npz").is_file():
                continue
            patient = owners.get(name, {}).get(_PATIENT) or name
            cases.append(Case(name, patient, partial(_read, path)))
            present = {_abnormality(column) for column, value in table[name].items() if flag(file, column, value)}
            positive.append([not present.isdisjoint(target.labels) for target in targets])
    if not cases:
        raise DataError(f"{volumes}: none of the {labelled} labelled volumes (….npz) is there; copy them")
    return DataSet("Rad-ChestCT", tuple(cases), targets, np.array(positive, dtype=bool), labelled - len(cases))


def _abnormality(column: str) -> str:
    return column.split("*")[0]


def _need_all(file: Path, columns: Iterable[str], asked: Iterable[str]) -> None:
    """Raises DataError if an abnormality has no column."""
    if absent := sorted(set(asked) - {_abnormality(column) for column in columns}):
        raise DataError(f"{file}: no column for {', '.join(absent)}, or no row; give the file as it was published")


def _read(path: Path) -> Volume:
    """Turn the volume upside down, to grow to superior. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            stored = archive["ct"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no readable array `ct` ({type(error).__name__})") from error
    if stored.ndim != 3 or 0 in stored.shape:
        raise DataError(f"{path}: {stored.shape} instead of one volume")
    hu = np.ascontiguousarray(stored[::-1].astype(np.int16))
    return Volume(hu, Grid.axis_aligned(hu.shape, (SPACING_MM,) * 3, (0.0, 0.0, 0.0)))
