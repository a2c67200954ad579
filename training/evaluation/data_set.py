"""What an evaluation reads: cases with their labels, and which findings answer which label of a public data set."""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field

from ct.volume import Volume


class DataError(ValueError):
    """The data set cannot be used. The text names the file, what is wrong and the cure."""


class Target(BaseModel):
    """One label of a data set and the findings that answer it; entry of `targets.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labels: tuple[str, ...] = Field(min_length=1)
    """The label is positive if any of these columns is."""
    findings: tuple[str, ...] = Field(min_length=1)
    """The greatest of their probabilities answers it."""


@dataclass(frozen=True)
class Case:
    """One volume."""

    name: str
    """Name of its file without ending: unique, no personal data."""
    patient: str
    """All volumes of a patient have the same; splits and bootstrap go by it."""
    load: Callable[[], Volume]
    """Raises `ct.nifti.NiftiError` or DataError."""


@dataclass(frozen=True)
class DataSet:
    """The cases that have labels and a file, in order of their names."""

    name: str
    cases: tuple[Case, ...]
    targets: tuple[Target, ...]
    positive: npt.NDArray[np.bool_]
    """[N, T]: truth of each case and target."""
    missing: int
    """Labelled volumes without a file."""


@cache
def targets_of(data_set: str) -> tuple[Target, ...]:
    """The targets of `ct-rate` or `rad-chestct`."""
    table = yaml.safe_load((Path(__file__).parent / "targets.yaml").read_text(encoding="utf-8"))
    return tuple(Target.model_validate(entry) for entry in table[data_set])


def read_table(path: Path, key: str, wanted: Callable[[str], bool]) -> dict[str, dict[str, str]]:
    """The wanted columns of a CSV file, as rows by the value of column `key`.

    Raises DataError if the file cannot be read or the key is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if key not in header:
                raise DataError(f"{path}: no column {key}; give the file as it was published")
            at, taken = header.index(key), [(index, name) for index, name in enumerate(header) if wanted(name)]
            return {row[at].strip(): {name: row[index] for index, name in taken} for row in reader if len(row) > at}
    except IndexError as error:
        raise DataError(f"{path}: a row is shorter than the header; copy the file again") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the data set's file there") from error


def truth(path: Path, row: Mapping[str, str], targets: Iterable[Target]) -> list[bool]:
    """The labels of one volume. Raises DataError for a value that is neither 0 nor 1."""
    return [any(flag(path, column, row[column]) for column in target.labels) for target in targets]


def flag(path: Path, column: str, value: str) -> bool:
    """A cell of a label table. Raises DataError for anything but 0 and 1."""
    text = value.strip()
    if text in ("0", "0.0"):
        return False
    if text in ("1", "1.0"):
        return True
    raise DataError(f"{path}: column {column} holds {text!r} instead of 0 or 1")


def need(path: Path, table: Mapping[str, Mapping[str, str]], columns: Iterable[str]) -> None:
    """Raises DataError if the table lacks one of the columns, or every row."""
    row: Mapping[str, str] = next(iter(table.values()), {})
    if absent := [name for name in columns if name not in row]:
        raise DataError(f"{path}: no column {', '.join(absent)}, or no row; give the file as it was published")
