"""One evaluation from the data set to its report."""

import csv
from collections import Counter
from pathlib import Path

from config import Settings
from ct.segment import load_segmenter
from fvlm import FVLM, load_release
from fvlm.config import FindingConfig
from training.calibrate import calibrated
from training.evaluation.data_set import DataError, DataSet, Target
from training.evaluation.masks import LabelMaps, Masks, Segmented
from training.evaluation.metrics import Scored, Section, as_published, at_operating_points, held_out
from training.evaluation.predictions import Prediction, Progress, matrix, predict
from training.evaluation.report import Evaluation

LABELS = "labels.csv"


def evaluate(
    data: DataSet, release: Path, masks_dir: Path | None, settings: Settings, out: Path, progress: Progress
) -> Evaluation:
    """Predictions of a release on a data set, and its metrics; masks from `masks_dir` or the settings' segmenter.

    Raises DataError, `fvlm.ReleaseError`, or `ct.anatomy.SegmenterWeightsError`.
    """
    model = load_release(release, _device(settings))
    assert model.release is not None  # load_release sets it
    identity, findings = model.release.identity, model.release.findings
    masks = _masks(model, masks_dir, settings)
    asked = {finding.finding: finding for finding in findings}
    answered = [index for index, target in enumerate(data.targets) if asked.keys() & set(target.findings)]
    targets = [_of_release(data.targets[index], asked) for index in answered]
    if not targets:
        raise DataError(f"{release}: it asks nothing that {data.name} has labels for; choose another release")
    predictions = predict(data, model, masks, out, progress)
    _write_labels(out / LABELS, data)
    scored = Scored(
        tuple(target.name for target in targets),
        tuple(case.patient for case in data.cases),
        data.positive[:, answered],
        matrix(predictions, tuple(target.findings for target in targets)),
    )
    sections = [as_published(scored), held_out(scored)]
    if any(finding.threshold is not None for finding in findings):
        sections.append(_at_operating_points(scored, targets, asked))
    return Evaluation(
        data_set=data.name,
        volumes=len(data.cases),
        patients=len(set(scored.patients)),
        missing=data.missing,
        release=identity,
        masks=masks.identity,
        problems={p.volume: p.problem for p in predictions if p.problem},
        not_assessed=_reasons(predictions),
        left_out=tuple(target.name for target in data.targets if not asked.keys() & set(target.findings)),
        sections=tuple(sections),
    )


def _write_labels(file: Path, data: DataSet) -> None:
    """The truth by finding, for `fvlm-node calibrate`; labels that several findings answer are left out."""
    single = [index for index, target in enumerate(data.targets) if len(target.findings) == 1]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["volume", *(data.targets[index].findings[0] for index in single)])
        for case, row in zip(data.cases, data.positive, strict=True):
            writer.writerow([case.name, *row[single].astype(int).tolist()])


def _of_release(target: Target, asked: dict[str, FindingConfig]) -> Target:
    """The target with those of its findings that the release asks."""
    return target.model_copy(update={"findings": tuple(name for name in target.findings if name in asked)})


def _at_operating_points(scored: Scored, targets: list[Target], asked: dict[str, FindingConfig]) -> Section:
    """Only targets with one finding have an operating point."""
    probability, thresholds = scored.probability.copy(), []
    for index, target in enumerate(targets):
        config = asked[target.findings[0]] if len(target.findings) == 1 else None
        thresholds.append(config.threshold if config else None)
        if config and config.calibration is not None:
            probability[:, index] = calibrated(config.calibration, probability[:, index])
    return at_operating_points(Scored(scored.targets, scored.patients, scored.positive, probability), thresholds)


def _masks(model: FVLM, folder: Path | None, settings: Settings) -> Masks:
    anatomies = model.config.anatomies
    if folder is not None:
        return LabelMaps(folder, anatomies)
    return Segmented(load_segmenter(settings.model, _device(settings)), anatomies)


def _device(settings: Settings) -> str:
    if settings.model.device != "auto":
        return settings.model.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _reasons(predictions: list[Prediction]) -> dict[str, int]:
    counts = Counter(entry for prediction in predictions for entry in prediction.not_assessed.split())
    return dict(sorted(counts.items()))
