"""The card of a release that was trained on an archive: what it is, what for, from what, how good, whose."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fvlm.config import FindingConfig, ReleaseConfig
from training.release.evaluated import Estimate, Evaluated, Section

_METRICS = {"auc": "AUC", "sensitivity": "Sensitivity", "specificity": "Specificity", "f1": "F1"}


@dataclass(frozen=True)
class Statement:
    """What only a person can say."""

    data: str
    """From which studies and reports it was trained."""
    use: str
    """Its intended use, and what it is not for."""
    licence: str
    recipe: str = ""
    """The run's YAML."""


def write_card(
    config: ReleaseConfig, findings: Sequence[FindingConfig], run: str, said: Statement, measured: Sequence[Evaluated]
) -> str:
    """The card as Markdown. `run`: the name of the training run. The same input gives the same text."""
    model = config.model
    mark = (
        "**TEST MODEL - NOT FOR CLINICAL USE.**\n\n"
        if config.test_only
        else "Its verdicts are suggestions to a radiologist, never a diagnosis.\n\n"
    )
    parts = [
        f"# {config.name}, version {config.version}\n\n{mark}Made by {config.manufacturer}.",
        f"## Intended use\n\n{said.use}",
        f"## What it is\n\nfVLM (Shui et al., ICLR 2025): a vision transformer of {model.depth} blocks of width "
        f"{model.width} over tokens of {_times(model.patch)} voxels, a text encoder of {model.text.depth} blocks, one "
        f"query for each of {len(model.anatomies)} anatomies: {', '.join(model.anatomies)}. It asks for "
        f"{len(findings)} findings. Weights are stored as float16.",
        f"## Data\n\n{said.data}",
        f"## How it was trained\n\nRun `{run}`:\n\n```\n{_COMMANDS}\n```",
    ]
    if said.recipe:
        parts.append(f"```yaml\n{said.recipe.strip()}\n```")
    parts.append("## What it reaches\n\n" + ("\n\n".join(_measured(one) for one in measured) or _UNMEASURED))
    parts.append(f"## Licence\n\n{said.licence}")
    return "\n\n".join(parts) + "\n"


_UNMEASURED = "Not measured yet: `fvlm-node evaluate`, then `fvlm-node train release --evaluation results.json`."
_COMMANDS = """fvlm-node train pretrain RUN.yaml --out RUN
fvlm-node train release RUN --out DRAFT ...
fvlm-node evaluate ... --release DRAFT --out EVALUATION
fvlm-node train release RUN --out RELEASE --evaluation EVALUATION/results.json ...
fvlm-node calibrate ... --release RELEASE --out CALIBRATED"""


def _measured(found: Evaluated) -> str:
    lost = f", {len(found.problems)} of them could not be read" if found.problems else ""
    missing = f"; {found.missing} labelled volumes had no file" if found.missing else ""
    masks = "" if found.masks is None else f" Anatomies by {found.masks.name} {found.masks.version}."
    head = (
        f"On {found.data_set}: {found.volumes} volumes of {found.patients} patients{lost}{missing}.{masks} Measured "
        f"with the same weights under the digest `{found.release.digest}`; 95 % bootstrap intervals."
    )
    return "\n\n".join([head, *("\n".join(_section(section)) for section in found.sections)])


def _section(section: Section) -> Iterator[str]:
    yield f"### {section.title}\n\n{section.protocol}\n"
    yield f"| Finding | Positive | {' | '.join(f'{title} %' for title in _METRICS.values())} |"
    yield f"|---|---:|{'---:|' * len(_METRICS)}"
    for row in section.rows:
        yield _line(row.target, f"{row.positives} / {row.volumes}", row.metrics)
    yield _line("Macro mean", "", section.macro)


def _line(name: str, positives: str, metrics: dict[str, Estimate]) -> str:
    return f"| {name} | {positives} | {' | '.join(_shown(metrics.get(key)) for key in _METRICS)} |"


def _shown(estimate: Estimate | None) -> str:
    values = [] if estimate is None else [estimate.value, estimate.low, estimate.high]
    if not values or any(value is None or math.isnan(value) for value in values):
        return "-"
    value, low, high = (100 * (value or 0.0) for value in values)
    return f"{value:.1f} ({low:.1f}-{high:.1f})"


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
