"""An assessment as JSON for programs and Markdown for people."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from training.assessment.retrieval import KS, mean
from training.assessment.run import Assessment
from training.evaluation.metrics import RESAMPLES, Estimate, Row, Section
from training.evaluation.report import markdown_table, plain


def write(assessment: Assessment, out: Path) -> list[Path]:
    """`evaluation.json` and `evaluation.md` in `out`; the paths."""
    files = [out / "evaluation.json", out / "evaluation.md"]
    files[0].write_text(json.dumps(plain(asdict(assessment)), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files[1].write_text(markdown(assessment), encoding="utf-8")
    return files


def markdown(assessment: Assessment) -> str:
    """The report."""
    release = assessment.release
    lines = [
        f"# {release.name} {release.version} on {assessment.data}",
        "",
        f"- Studies: {assessment.studies} of {assessment.patients} patients",
        f"- Release: digest {release.digest}"
        + (" (**TEST MODEL - NOT FOR CLINICAL USE**)" if release.test_only else ""),
        f"- Intervals: 95 %, {RESAMPLES} bootstrap samples of patients.",
        "- Truth: what the data set knows, else what the report says. What a report leaves open is left out, what it "
        "does not mention counts as absent.",
    ]
    if assessment.not_assessed:
        counts = ", ".join(f"{name} {count}" for name, count in assessment.not_assessed.items())
        lines.append(f"- Not assessed (absent, cut off, in doubt), left out: {counts}")
    if assessment.problems:
        first = next(iter(assessment.problems.values()))
        lines.append(f"- Studies that could not be read: {len(assessment.problems)}; the first: {first}")
    lines += _section("Summary", "", ("", "Value"), summary(assessment))
    about = f"{_PROBE} It learned from: {assessment.probe_learned_from}."
    lines += _section(
        "Zero-shot and linear probe", about, ("Finding", "Positive", "Zero-shot", "Probe"), _aucs(assessment)
    )
    lines += _section("Retrieval", _RETRIEVAL, _RETRIEVAL_HEAD, _retrieval(assessment))
    names = tuple(assessment.prompts[0].auc) if assessment.prompts else ()
    lines += _section("Prompts", _PROMPTS, ("Finding", *names, "Mean", "Variance"), _prompts(assessment))
    lines += _section("Calibration", _CALIBRATION, _CALIBRATION_HEAD, _reliability(assessment))
    lines += _section("Subgroups", _SUBGROUPS, _SUBGROUPS_HEAD, _subgroups(assessment))
    for section in assessment.protocol:
        lines += [
            "",
            f"## CT-CLIP protocol: {section.title.lower()}",
            "",
            section.protocol,
            "",
            *markdown_table(section),
        ]
    return "\n".join(lines) + "\n"


_PROBE = (
    "AUC %. The probe is a logistic regression on the frozen feature of the finding's anatomy, told on "
    "patients that it did not learn from; there is none where it had fewer than 10 studies of a class."
)
_RETRIEVAL = (
    "Share in % of the images whose caption is among the k nearest, and of the captions of which an image is; by "
    "chance in brackets. Equal captions count once; images whose report does not mention the anatomy are left out."
)
_RETRIEVAL_HEAD = (
    "Anatomy",
    "Images",
    "Captions",
    *(f"image to text R@{k}" for k in KS),
    *(f"text to image R@{k}" for k in KS),
)
_PROMPTS = "AUC % by the release's own prompts and by each template; the variance is that of the AUC in 0..1."
_CALIBRATION = (
    "ECE: expected calibration error over 15 bins of equal width. Brier: mean squared error. Bare zero-shot "
    "probabilities where the release does not calibrate the finding."
)
_CALIBRATION_HEAD = ("Finding", "Studies", "Prevalence", "Mean probability", "ECE", "Brier", "Calibrated")
_SUBGROUPS = (
    "Macro AUC % over the findings that have both classes in the group, and of the same findings on all studies. "
    "Groups differ in more than their name: a difference is a question, no proof."
)
_SUBGROUPS_HEAD = ("Attribute", "Group", "Studies", "Patients", "Findings", "Macro AUC", "On all studies")


def summary(assessment: Assessment) -> list[tuple[str, str]]:
    """The few figures for the terminal: what, and how much."""
    rows = assessment.retrieval
    known = [row for row in assessment.reliability if row.cases]
    zero_shot = {row.target: row.metrics["auc"].value for row in assessment.zero_shot.rows}
    probed = [row.target for row in assessment.linear_probe.rows if not math.isnan(row.metrics["auc"].value)]
    macros = [_over(assessment, name) for name in (assessment.prompts[0].auc if assessment.prompts else ())]
    return [
        ("Zero-shot, macro AUC %", _percent(assessment.zero_shot.macro["auc"])),
        (f"Linear probe, macro AUC %, {len(probed)} findings", _percent(assessment.linear_probe.macro["auc"])),
        ("Zero-shot on the same findings, macro AUC %", _share(_mean(zero_shot[name] for name in probed))),
        ("CT-CLIP protocol, macro AUC %", _percent(assessment.protocol[0].macro["auc"])),
        *((f"Image to text R@{k}, mean of anatomies %", _share(mean(rows, "image_to_text", k))) for k in KS),
        *((f"Text to image R@{k}, mean of anatomies %", _share(mean(rows, "text_to_image", k))) for k in KS),
        ("Macro AUC over prompts, least to greatest %", f"{_share(min(macros))} to {_share(max(macros))}"),
        (
            "Macro AUC over prompts, variance",
            _number(float(np.var(macros, ddof=1)) if len(macros) > 1 else math.nan, 6),
        ),
        ("ECE, mean of findings", _number(_mean(row.ece for row in known))),
        ("Brier, mean of findings", _number(_mean(row.brier for row in known))),
    ]


def _over(assessment: Assessment, template: str) -> float:
    """Macro AUC under one template."""
    return _mean(row.auc[template] for row in assessment.prompts if not math.isnan(row.auc[template]))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else math.nan


def _aucs(assessment: Assessment) -> Iterable[Sequence[str]]:
    def cell(section: Section, row: Row) -> str:
        found = next(other for other in section.rows if other.target == row.target)
        return _percent(found.metrics["auc"])

    for row in assessment.zero_shot.rows:
        yield (
            row.target,
            f"{row.positives} / {row.volumes}",
            _percent(row.metrics["auc"]),
            cell(assessment.linear_probe, row),
        )
    sections = (assessment.zero_shot, assessment.linear_probe)
    yield "Macro mean", "", *(_percent(section.macro["auc"]) for section in sections)


def _retrieval(assessment: Assessment) -> Iterable[Sequence[str]]:
    for row in assessment.retrieval:
        yield (
            row.anatomy,
            str(row.images),
            str(row.captions),
            *(f"{_share(row.image_to_text[k])} ({_share(row.image_to_text_by_chance[k])})" for k in KS),
            *(f"{_share(row.text_to_image[k])} ({_share(row.text_to_image_by_chance[k])})" for k in KS),
        )


def _prompts(assessment: Assessment) -> Iterable[Sequence[str]]:
    for row in assessment.prompts:
        yield row.finding, *(_share(value) for value in row.auc.values()), _share(row.mean), _number(row.variance, 5)
    if assessment.prompts:
        yield "Macro mean", *(_share(_over(assessment, name)) for name in assessment.prompts[0].auc), "", ""


def _reliability(assessment: Assessment) -> Iterable[Sequence[str]]:
    for row in assessment.reliability:
        figures = (row.prevalence, row.mean_probability, row.ece, row.brier)
        yield row.finding, str(row.cases), *map(_number, figures), "yes" if row.calibrated else "no"


def _subgroups(assessment: Assessment) -> Iterable[Sequence[str]]:
    for row in assessment.subgroups:
        counts = (row.cases, row.patients, row.findings)
        yield row.attribute, row.group, *map(str, counts), _percent(row.macro_auc), _share(row.macro_auc_of_all)


def _section(title: str, text: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["", f"## {title}", "", *((text, "") if text else ()), *(f"| {' | '.join(row)} |" for row in cells)]


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
