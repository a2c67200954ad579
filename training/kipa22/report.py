"""How well the provider finds each structure in held-out cases: Dice, and Hausdorff distance at 95 %, by MONAI."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice

from ct.anatomy import Segmenter
from training.kipa22.layout import ANATOMIES, CLASSES, Case, read_case


@dataclass(frozen=True)
class Score:
    """One structure in one case."""

    dice: float | None
    """None: it is not in the truth."""
    hd95_mm: float | None
    """None: it is not in both."""
    found: bool


@dataclass(frozen=True)
class Row:
    """One structure over all cases."""

    anatomy: str
    cases: int
    """Those whose truth has it."""
    dice: float
    dice_std: float
    dice_worst: float
    hd95_mm: float | None
    """Mean of the cases where it was found; None: it was in none."""
    missed: int
    """Cases whose truth has it and where nothing was found."""
    spurious: int
    """Cases whose truth does not have it and where something was found."""


@dataclass(frozen=True)
class Report:
    """What is written as JSON and as a table."""

    segmenter: str
    digest: str
    rows: tuple[Row, ...]
    scores: dict[str, dict[str, Score]]
    """Case -> structure."""

    def table(self) -> str:
        """Plain text, one line a structure."""
        head = (
            f"{'structure':<13}{'cases':>6}{'Dice':>8}{'+-':>7}{'worst':>8}{'HD95 mm':>9}{'missed':>8}{'spurious':>10}"
        )
        lines = []
        for row in self.rows:
            far = "-" if row.hd95_mm is None else f"{row.hd95_mm:.2f}"
            dice = f"{row.dice:>8.3f}{row.dice_std:>7.3f}{row.dice_worst:>8.3f}"
            lines.append(f"{row.anatomy:<13}{row.cases:>6}{dice}{far:>9}{row.missed:>8}{row.spurious:>10}")
        return "\n".join([head, *lines]) + "\n"

    def write(self, folder: Path) -> None:
        """report.json and report.txt."""
        (folder / "report.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / "report.txt").write_text(self.table())


def evaluate(
    segmenter: Segmenter, cases: tuple[Case, ...], intercept: float, progress: Callable[[int, int], None]
) -> Report:
    """Segment every case as the node would, on the grid of its own image, and compare. Raises LayoutError."""
    scores = {}
    for done, case in enumerate(cases, start=1):
        volume, truth = read_case(case, intercept)
        found = segmenter.segment(volume, ANATOMIES)
        scores[case.name] = compare(found.labels, truth, volume.spacing)
        progress(done, len(cases))
    rows = tuple(row for name in ANATOMIES if (row := _row(name, [score[name] for score in scores.values()])))
    return Report(segmenter.identity.name, segmenter.identity.digest, rows, scores)


def compare(
    found: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], spacing: tuple[float, float, float]
) -> dict[str, Score]:
    """Two label maps [z, y, x] of one grid; spacing in mm."""
    one, other = _one_hot(found), _one_hot(truth)
    dice = compute_dice(one, other, include_background=False)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a structure is empty stands in the scores
        far = compute_hausdorff_distance(one, other, include_background=False, percentile=95, spacing=list(spacing))[0]
    there = one.flatten(2).any(2)[0].tolist()
    return {name: Score(_number(dice[i]), _number(far[i]), there[i + 1]) for i, name in enumerate(ANATOMIES)}


def _one_hot(labels: npt.NDArray[np.uint8]) -> torch.Tensor:
    channels: torch.Tensor = torch.stack([torch.from_numpy(labels == label) for label in range(CLASSES)])[None]
    return channels


def _number(value: torch.Tensor) -> float | None:
    return round(float(value), 4) if torch.isfinite(value) else None


def _row(name: str, scores: list[Score]) -> Row | None:
    there = [score for score in scores if score.dice is not None]
    if not there:
        return None
    dice = np.array([score.dice for score in there])
    distances = [score.hd95_mm for score in there if score.hd95_mm is not None]
    return Row(
        name,
        len(there),
        round(float(dice.mean()), 4),
        round(float(dice.std()), 4),
        round(float(dice.min()), 4),
        round(float(np.mean(distances)), 3) if distances else None,
        sum(not score.found for score in there),
        sum(score.found and score.dice is None for score in scores),
    )
