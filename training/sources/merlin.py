"""The Merlin abdominal CT data set as studies.

    merlin_data/ID.nii.gz        25,494 volumes in HU
    reports_final.xlsx           `study id`, `Findings` (findings, and after "IMPRESSION:" the impression), `Split`

A CSV table of the same columns does as well. The tables name no patients: each study is a subject of its own, in the
split that the data set gives it. The layout is that of the data set's page and of public programs that read it; the
files themselves were not at hand.
"""

import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

from openpyxl import load_workbook
from openpyxl.utils.exceptions import InvalidFileException

from config import Reason
from ct.nifti import read_volume
from training.evaluation.data_set import DataError
from training.shards.folder import Skipped
from training.sources.ct_rate import load_study
from training.sources.listing import Listing
from training.sources.masks import Masks
from training.study import Split, Study

_TABLES = ("reports_final.xlsx", "reports_final_updated.xlsx", "reports_final.csv")
_COLUMNS = ("study id", "findings", "split")
_SPLITS: dict[str, Split] = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
_IMPRESSION = re.compile(r"\s*\bimpression\s*:\s*", re.IGNORECASE)


def merlin(folder: Path, masks: Masks) -> Listing:
    """All reported volumes of the three splits. Raises DataError if there is no table of reports, or no volume."""
    root = folder / "merlinabdominalctdataset" if (folder / "merlinabdominalctdataset").is_dir() else folder
    table = next((root / name for name in _TABLES if (root / name).is_file()), None)
    if table is None:
        raise DataError(f"{root}: no {_TABLES[0]}; copy the data set's table there")
    studies: list[Study] = []
    dropped: list[Skipped] = []
    for key, findings, split in sorted(set(_rows(table))):
        path = next((p for end in (".nii.gz", ".nii") if (p := root / "merlin_data" / f"{key}{end}").is_file()), None)
        if split.lower() not in _SPLITS:
            raise DataError(f"{table}: split {split!r} of {key} is none of {', '.join(_SPLITS)}")
        if path is None:
            reason, text = Reason.VOLUME_MISSING, f"{key}.nii.gz: no such file below {root / 'merlin_data'}"
        elif not findings:
            reason, text = Reason.REPORT_NO_TEXT, "its report is empty"
        else:
            studies.append(
                Study(
                    source="merlin",
                    key=key,
                    scan=key,
                    subject=key,
                    split=_SPLITS[split.lower()],
                    report="Findings: " + _IMPRESSION.sub("\nImpression: ", findings, count=1),
                    load=partial(load_study, key, partial(read_volume, path), masks),
                    provenance={"file": path.name},
                )
            )
            continue
        dropped.append(Skipped(source="merlin", key=key, reason=reason, text=text))
    if not studies:
        raise DataError(f"{root}: none of the {len(dropped)} reported volumes is there; copy them to merlin_data")
    return Listing(tuple(studies), tuple(dropped))


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Study, findings and split of each row. Raises DataError."""
    try:
        lines = _csv(path) if path.suffix == ".csv" else _xlsx(path)
        header = [cell.strip().lower() for cell in next(lines, [])]
        if absent := [name for name in _COLUMNS if name not in header]:
            raise DataError(f"{path}: no column {', '.join(absent)}; give the file as it was published")
        at = [header.index(name) for name in _COLUMNS]
        for cells in lines:
            if len(cells) > max(at) and (key := cells[at[0]].strip()):
                # a name of a file, not a way to one
                if Path(key).name != key:
                    raise DataError(f"{path}: study id {key!r} is no file name")
                yield key, cells[at[1]].strip(), cells[at[2]].strip()
    except (OSError, ValueError, KeyError, BadZipFile, InvalidFileException, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); copy the data set's file there") from error


def _csv(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.reader(file)


def _xlsx(path: Path) -> Iterator[list[str]]:
    book = load_workbook(path, read_only=True, data_only=True)
    try:
        for row in book.worksheets[0].iter_rows(values_only=True):
            yield ["" if cell is None else str(cell) for cell in row]
    finally:
        book.close()
