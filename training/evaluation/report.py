"""What an evaluation found: a table for the terminal, JSON and CSV for programs, Markdown for people."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from ct.anatomy import AlgorithmIdentity
from training.evaluation.metrics import METRICS, RESAMPLES, Estimate, Section

_TITLES = {
    "auc": "AUC",
    "accuracy": "ACC",
    "f1": "F1",
    "precision": "Precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}


@dataclass(frozen=True)
class Evaluation:
    """Everything that is reported."""

    data_set: str
    volumes: int
    patients: int
    missing: int
    """Labelled volumes without a file."""
    release: AlgorithmIdentity
    masks: AlgorithmIdentity
    problems: dict[str, str]
    """Volumes that could not be read, and why."""
    not_assessed: dict[str, int]
    """`anatomy:REASON` -> volumes."""
    left_out: tuple[str, ...]
    """Labels of the data set that the release asks nothing about."""
    sections: tuple[Section, ...]


def tables(evaluation: Evaluation) -> Iterable[Table]:
    """One table a section, in per cent; it fits 80 columns."""
    for section in evaluation.sections:
        table = Table(
            title=section.title,
            title_justify="left",
            caption=section.protocol,
            caption_justify="left",
            box=None,
            padding=(0, 1, 0, 0),
        )
        table.add_column("Finding", overflow="fold")
        for title in ("Pos.", "N/A", "Thr.", "AUC", "ACC", "F1", "Prec.", "Sens.", "Spec."):
            table.add_column(title, justify="right", no_wrap=True)
        for row in _rows(section, interval=False):
            table.add_row(*(cell.replace(" / ", "/") for cell in row), style="bold" if row[0] == "Macro mean" else "")
        yield table


def _rows(section: Section, *, interval: bool) -> list[list[str]]:
    rows = [
        [
            row.target,
            f"{row.positives} / {row.volumes}",
            str(row.not_assessed),
            "-" if row.threshold is None else f"{row.threshold:.3f}",
            *(_shown(row.metrics[name], interval) for name in METRICS),
        ]
        for row in section.rows
    ]
    return [*rows, ["Macro mean", "", "", "", *(_shown(section.macro[name], interval) for name in METRICS)]]


def _shown(estimate: Estimate, interval: bool) -> str:
    if math.isnan(estimate.value):
        return "-"
    if not interval:
        return f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def write(evaluation: Evaluation, out: Path) -> list[Path]:
    """`results.json`, `results.csv`, `report.md` in `out`; the paths."""
    files = [out / name for name in ("results.json", "results.csv", "report.md")]
    files[0].write_text(json.dumps(plain(asdict(evaluation)), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with files[1].open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        bounds = [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")]
        writer.writerow(["section", "finding", "volumes", "positives", "not_assessed", "threshold", *bounds])
        for section in evaluation.sections:
            for row in section.rows:
                head = [section.title, row.target, row.volumes, row.positives, row.not_assessed, row.threshold]
                writer.writerow([*head, *_bounds(row.metrics)])
            writer.writerow([section.title, "Macro mean", "", "", "", "", *_bounds(section.macro)])
    files[2].write_text(markdown(evaluation), encoding="utf-8")
    return files


def _bounds(metrics: dict[str, Estimate]) -> list[float | None]:
    values = [end for name in METRICS for end in (metrics[name].value, metrics[name].low, metrics[name].high)]
    return [None if math.isnan(value) else value for value in values]


def plain(value: object) -> object:
    """What JSON can hold of a result: NaN as null, tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def markdown(evaluation: Evaluation) -> str:
    """The report."""
    release, masks = evaluation.release, evaluation.masks
    lines = [
        f"# {release.name} {release.version} on {evaluation.data_set}",
        "",
        f"- Volumes: {evaluation.volumes} of {evaluation.patients} patients"
        + (f"; {evaluation.missing} labelled volumes have no file" if evaluation.missing else ""),
        f"- Release: {release.name} {release.version}, digest {release.digest}"
        + (" (**TEST MODEL - NOT FOR CLINICAL USE**)" if release.test_only else ""),
        f"- Anatomy masks: {masks.name} {masks.version}, digest {masks.digest}",
        f"- Intervals: 95 %, {RESAMPLES} bootstrap samples of patients, thresholds held fixed. F1 is the mean of both "
        "classes, weighted by their number; precision is that of the positive class; macro means are over the findings "
        "that have the figure.",
    ]
    if evaluation.left_out:
        lines.append(f"- Labels that this release asks nothing about: {', '.join(evaluation.left_out)}")
    if evaluation.problems:
        named = "; ".join(f"{name}: {why}" for name, why in list(evaluation.problems.items())[:10])
        lines.append(f"- Volumes that could not be read, counted as not assessed: {len(evaluation.problems)} ({named})")
    if evaluation.not_assessed:
        reasons = ", ".join(f"{key} {count}" for key, count in evaluation.not_assessed.items())
        lines.append(f"- Anatomies not assessed, by reason: {reasons}")
    for section in evaluation.sections:
        lines += ["", f"## {section.title}", "", section.protocol, "", *markdown_table(section)]
    return "\n".join(lines) + "\n"


def markdown_table(section: Section) -> list[str]:
    """The lines of a section's table."""
    header = ["Finding", "Positive", "Not assessed", "Threshold", *(f"{title} %" for title in _TITLES.values())]
    rows: list[Sequence[str]] = [header, ["---"] + ["---:"] * (len(header) - 1), *_rows(section, interval=True)]
    return [f"| {' | '.join(row)} |" for row in rows]
