"""CT-RATE as studies (layout: `training.evaluation.ct_rate`), with its reports and labels.

dataset/radiology_text_reports/train_reports.csv       Findings_EN, Impressions_EN of each volume (validation_…)
dataset/multi_abnormality_labels/train_predicted_…     optional: labels by the authors' classifier (valid_…)
dataset/metadata/no_chest_train.txt                    optional: volumes of other parts of the body (…_valid)
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from config import Reason, load_vocabulary
from ct.anatomy import AnatomyMap
from ct.nifti import NiftiError
from ct.volume import Volume
from training.evaluation.ct_rate import METADATA, CtRateVolumes, patient_of, root_of
from training.evaluation.data_set import DataError, flag, need, read_table
from training.shards.folder import Skipped
from training.sources.listing import Listing, attributes
from training.sources.masks import Masks
from training.study import Split, Study, StudyError

_ENDING = ".nii.gz"
_REPORTS = {"train": "train_reports.csv", "valid": "validation_reports.csv"}
_SECTIONS = {"Findings": "Findings_EN", "Impression": "Impressions_EN"}
_ATTRIBUTES = {"PatientSex": "sex", "PatientAge": "age", "Manufacturer": "manufacturer", "ConvolutionKernel": "kernel"}


def ct_rate(folder: Path, masks: Masks) -> Listing:
    """All volumes of the splits `train` and `valid` that have a table of reports; what lacks a file or text is dropped.

    Raises DataError if there is no table of reports, or no volume.
    """
    root = root_of(folder)
    splits: list[Split] = [
        split for split in ("train", "valid") if (root / "radiology_text_reports" / _REPORTS[split]).is_file()
    ]
    if not splits:
        raise DataError(f"{root / 'radiology_text_reports'}: no {_REPORTS['train']}; copy the tables of reports")
    studies: list[Study] = []
    dropped: list[Skipped] = []
    for split in splits:
        _list(root, split, masks, studies, dropped)
    if not studies:
        raise DataError(f"{root}: none of the {len(dropped)} reported volumes can be used; copy them in their folders")
    return Listing(tuple(studies), tuple(dropped))


def _list(root: Path, split: Split, masks: Masks, studies: list[Study], dropped: list[Skipped]) -> None:
    reports_file = root / "radiology_text_reports" / _REPORTS[split]
    reports = read_table(reports_file, "VolumeName", frozenset(_SECTIONS.values()).__contains__)
    need(reports_file, reports, _SECTIONS.values())
    about_file = root / "metadata" / METADATA[split]
    about = read_table(about_file, "VolumeName", _ATTRIBUTES.__contains__) if about_file.is_file() else {}
    volumes, known, elsewhere = CtRateVolumes.of(root, split), _labels(root, split), _no_chest(root, split)
    for name in sorted(reports):
        key = name.removesuffix(_ENDING)
        load, text = volumes.find(name), report_text(reports[name])
        if name in elsewhere:
            reason, why = Reason.ANATOMY_ABSENT, "the data set lists it as no chest"
        elif load is None:
            reason, why = Reason.VOLUME_MISSING, f"{name}: no such file below {volumes.place}"
        elif not text:
            reason, why = Reason.REPORT_NO_TEXT, "its report is empty"
        else:
            studies.append(
                Study(
                    source="ct-rate",
                    key=key,
                    scan=key.rpartition("_")[0],
                    subject=patient_of(name),
                    split=split,
                    report=text,
                    load=partial(load_study, key, load, masks),
                    known=known.get(name, {}),
                    attributes=attributes(about.get(name, {}), _ATTRIBUTES),
                    provenance={"file": name},
                )
            )
            continue
        dropped.append(Skipped(source="ct-rate", key=key, reason=reason, text=why))


def report_text(row: Mapping[str, str]) -> str:
    """Findings and impression with their headings; empty if both are."""
    sections = {title: row.get(column, "").strip() for title, column in _SECTIONS.items()}
    return "\n".join(f"{title}: {text}" for title, text in sections.items() if text)


def load_study(
    name: str, load: Callable[[], Volume], masks: Masks, anatomies: tuple[str, ...]
) -> tuple[Volume, AnatomyMap]:
    """`Study.load` of what is read as a file. Raises StudyError."""
    try:
        volume = load()
    except (NiftiError, DataError) as error:
        raise StudyError(Reason.VOLUME_UNREADABLE, str(error)) from error
    return volume, masks.find(name, volume, anatomies)


def _labels(root: Path, split: str) -> dict[str, dict[str, bool]]:
    """Findings of the vocabulary by volume; empty without the table."""
    path = root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
    if not path.is_file():
        return {}
    named = {finding.ct_rate: finding.key for finding in load_vocabulary().findings if finding.ct_rate}
    table = read_table(path, "VolumeName", named.__contains__)
    return {name: {named[column]: flag(path, column, row[column]) for column in row} for name, row in table.items()}


def _no_chest(root: Path, split: str) -> frozenset[str]:
    path = root / "metadata" / f"no_chest_{split}.txt"
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else frozenset()
