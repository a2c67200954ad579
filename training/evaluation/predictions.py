"""The zero-shot probabilities of a release on every volume, written as they come: an interrupted run goes on."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ct.nifti import NiftiError
from fvlm import FVLM, Reader
from fvlm.reading import Reading
from training.evaluation.data_set import Case, DataError, DataSet
from training.evaluation.masks import Masks

FILE, ABOUT = "predictions.csv", "run.json"
_FIXED = ("volume", "patient", "problem", "not_assessed")
Progress = Callable[[int, int], None]
"""Called with done and total."""


@dataclass(frozen=True)
class Prediction:
    """One volume."""

    volume: str
    patient: str
    problem: str
    """Why it could not be read at all; empty if it could."""
    not_assessed: str
    """`anatomy:REASON`, separated by blanks."""
    probability: Mapping[str, float]
    """Finding -> probability before calibration; NaN where its anatomy was not assessed."""


def predict(data: DataSet, model: FVLM, masks: Masks, out: Path, progress: Progress) -> list[Prediction]:
    """Read every case of a data set that `out/predictions.csv` does not have yet; all predictions in order of cases.

    A volume that cannot be read is written with its problem and tried again by the next run. Raises DataError if
    `out` holds predictions of something else.
    """
    release = model.release
    assert release is not None  # load_release sets it
    findings = [finding.finding for finding in release.findings]
    model.release = replace(  # probabilities as the model gives them: calibration is fitted on these
        release, findings=tuple(f.model_copy(update={"calibration": None}) for f in release.findings)
    )
    reader = Reader(model)
    about: dict[str, object] = {"data_set": data.name, "release": release.digest, "masks": asdict(masks.identity)}
    out.mkdir(parents=True, exist_ok=True)
    _claim(out / ABOUT, about)
    done = {p.volume: p for p in _resume(out / FILE, findings) if not p.problem}
    progress(len(done), len(data.cases))
    with (out / FILE).open("a", encoding="utf-8", newline="") as file:
        for case in data.cases:
            if case.name in done:
                continue
            done[case.name] = _predict_one(case, reader, masks, findings)
            file.write(_line(done[case.name], findings))
            file.flush()
            os.fsync(file.fileno())
            progress(len(done), len(data.cases))
    return [done[case.name] for case in data.cases]


def read_predictions(path: Path) -> list[Prediction]:
    """Predictions of a file that `predict` wrote, the latest of each volume. Raises DataError."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); give the predictions.csv of fvlm-node evaluate") from error
    if not rows or tuple(rows[0][: len(_FIXED)]) != _FIXED:
        raise DataError(f"{path}: not a predictions.csv of fvlm-node evaluate")
    findings, found = rows[0][len(_FIXED) :], {}
    for row in rows[1:]:
        if len(row) != len(rows[0]):
            raise DataError(f"{path}: a row of {len(row)} instead of {len(rows[0])} columns; make it again")
        try:
            values = [float(text) if text else float("nan") for text in row[len(_FIXED) :]]
        except ValueError as error:
            raise DataError(f"{path}: {error}; make it again") from error
        probability = dict(zip(findings, values, strict=True))
        found[row[0]] = Prediction(row[0], row[1], row[2], row[3], probability)
    return list(found.values())


def matrix(predictions: list[Prediction], findings: tuple[tuple[str, ...], ...]) -> npt.NDArray[np.float64]:
    """[N, T]: the greatest probability of each target's findings; NaN where none of them was assessed."""
    columns = []
    for group in findings:
        values = np.array([[p.probability[finding] for finding in group] for p in predictions], dtype=np.float64)
        values = values.reshape(len(predictions), len(group))
        known = ~np.isnan(values).all(1)
        column = np.full(len(predictions), np.nan)
        column[known] = np.nanmax(values[known], axis=1)
        columns.append(column)
    return np.array(columns).T.reshape(len(predictions), len(findings))


def _predict_one(case: Case, reader: Reader, masks: Masks, findings: list[str]) -> Prediction:
    nothing = dict.fromkeys(findings, float("nan"))
    try:
        volume = case.load()
        reading = reader.read(volume, masks.find(case.name, volume))
    except (NiftiError, DataError) as error:
        return Prediction(case.name, case.patient, str(error), "", nothing)
    return Prediction(case.name, case.patient, "", _not_assessed(reading), nothing | _probabilities(reading))


def _probabilities(reading: Reading) -> dict[str, float]:
    return {finding.key: finding.probability for anatomy in reading.anatomies for finding in anatomy.findings}


def _not_assessed(reading: Reading) -> str:
    return " ".join(f"{entry.anatomy}:{entry.reason}" for entry in reading.not_assessed)


def _line(prediction: Prediction, findings: list[str]) -> str:
    values = [prediction.probability[finding] for finding in findings]
    cells = ["" if np.isnan(value) else repr(value) for value in values]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        [prediction.volume, prediction.patient, prediction.problem, prediction.not_assessed, *cells]
    )
    return text.getvalue()


def _claim(file: Path, about: dict[str, object]) -> None:
    """Say in the folder what its predictions are of. Raises DataError if they are of something else."""
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file}: damaged ({error}); name another folder with --out") from error
        if found != about:
            changed = ", ".join(key for key in about if found.get(key) != about[key])
            raise DataError(
                f"{file.parent}: its predictions were made with other {changed}; name another folder with --out"
            )
    else:
        file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _resume(file: Path, findings: list[str]) -> list[Prediction]:
    """What an earlier run wrote; a half-written last line is cut off."""
    if not file.is_file():
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([*_FIXED, *findings])
        file.write_text(header.getvalue(), encoding="utf-8")
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        file.write_bytes(whole)
    return read_predictions(file)
