"""RadGenome-ChestCT as studies: volumes of CT-RATE with a mask a region, and reports taken apart by region.

    dataset/train_preprocessed/train_1/train_1a/train_1_a_1.nii.gz     volumes in HU (valid_…: the other split)
    dataset/train_region_mask/seg_train_1_a_1/lung.nii.gz              masks of ten regions, on the volume's grid
    dataset/train_anatomy_mask/seg_train_1_a_1/aorta.nii.gz            masks of finer anatomies (optional)
    dataset/radgenome_files/train_region_report.csv                    Volumename, Anatomy, Sentence (validation_…)

A row without Anatomy holds what belongs to no region. The layout is that of the data set's pages and of public programs
that read it; the files themselves were not at hand.
"""

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path

from config import Reason
from ct.nifti import read_volume
from training.evaluation.ct_rate import patient_of, root_of
from training.evaluation.data_set import DataError
from training.shards.folder import Skipped
from training.sources.ct_rate import load_study
from training.sources.listing import Listing
from training.sources.masks import Masks, OneFileEach
from training.study import Split, Study

_ENDING = ".nii.gz"
_TABLES: dict[Split, str] = {"train": "train_region_report.csv", "valid": "validation_region_report.csv"}
_COLUMNS = ("Volumename", "Anatomy", "Sentence")
REGIONS = {"lung": ("lung", "pleura"), "heart": ("heart",), "esophagus": ("esophagus",)}
"""Anatomy -> regions whose sentences are its own; what is said of other regions is taken apart by rules."""


def radgenome(folder: Path, masks: Masks | None) -> Listing:
    """All volumes of both splits that have a report and a file; `masks` None takes the data set's own masks.

    Raises DataError if there is no table of reports, or no volume.
    """
    root = root_of(folder)
    tables = {split: root / "radgenome_files" / name for split, name in _TABLES.items()}
    if not any(table.is_file() for table in tables.values()):
        raise DataError(f"{root / 'radgenome_files'}: no {_TABLES['train']}; copy the data set's tables")
    studies: list[Study] = []
    dropped: list[Skipped] = []
    for split, table in tables.items():
        if not table.is_file():
            continue
        files = {path.name: path for path in sorted((root / f"{split}_preprocessed").rglob(f"*{_ENDING}"))}
        own = OneFileEach((root / f"{split}_anatomy_mask", root / f"{split}_region_mask"))
        for name, said in sorted(_sentences(table).items()):
            key = name.removesuffix(_ENDING)
            if name not in files:
                text = f"{name}: no such file below {root / f'{split}_preprocessed'}"
                dropped.append(Skipped(source="radgenome", key=key, reason=Reason.VOLUME_MISSING, text=text))
                continue
            studies.append(
                Study(
                    source="radgenome",
                    key=key,
                    scan=key.rpartition("_")[0],
                    subject=patient_of(name),
                    split=split,
                    report="Findings: " + " ".join(_once([text for texts in said.values() for text in texts])),
                    load=partial(load_study, key, partial(read_volume, files[name]), masks or own),
                    regions=_regions(said),
                    provenance={"file": name},
                )
            )
    if not studies:
        raise DataError(f"{root}: none of the {len(dropped)} reported volumes is there; copy them in their folders")
    return Listing(tuple(studies), tuple(dropped))


def _once(texts: list[str]) -> list[str]:
    """Without those that another one holds: a row without region may be the whole report."""
    return [text for text in texts if not any(text != other and text in other for other in texts)]


def _regions(said: dict[str, list[str]]) -> dict[str, str]:
    found = {name: [text for region in regions for text in said.get(region, [])] for name, regions in REGIONS.items()}
    return {name: " ".join(texts) for name, texts in found.items() if texts}


def _sentences(path: Path) -> dict[str, dict[str, list[str]]]:
    """Volume -> region ("" for none) -> what is said there, in the table's order. Raises DataError."""
    said: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if absent := set(_COLUMNS) - set(reader.fieldnames or ()):
                raise DataError(f"{path}: no column {', '.join(sorted(absent))}; give the file as it was published")
            for row in reader:
                name, region, text = ((row[column] or "").strip() for column in _COLUMNS)
                if name and text and text not in said[name][region.lower()]:
                    said[name][region.lower()].append(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the data set's file there") from error
    return {name: dict(regions) for name, regions in said.items() if regions}
