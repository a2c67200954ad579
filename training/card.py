"""The card of the bundled release: what it is, how it was trained, what it reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ct.anatomy import AlgorithmIdentity
from fvlm.config import ReleaseConfig
from training.calibrate import OperatingPoints
from training.evaluate import Bools, FindingMetrics, Floats, macro_auc
from training.localise import LEAST_MM, TOP, Located
from training.size import Size

SPECIFICITY = 0.98
"""Of "present", on the patients that the operating points are chosen on. A reader is asked dozens of findings about
each patient: few false alarms matter more than the balance."""
SENSITIVITY = 0.9
"""Of everything that is not "absent", on the same patients."""


@dataclass(frozen=True)
class Operating:
    """The operating points of one finding, and what they do."""

    points: OperatingPoints | None
    present: float = float("nan")
    """Share of the ill that are called present."""
    missed: float = float("nan")
    """Share of the ill that are called absent."""
    false: float = float("nan")
    """Share of the others that are called present."""
    cleared: float = float("nan")
    """Share of the others that are called absent."""

    @classmethod
    def of(cls, points: OperatingPoints | None, positive: Bools, probability: Floats) -> Self:
        """Count on labels and probabilities [N]; NaN is not assessed and left out."""
        if points is None:
            return cls(None)
        seen = ~np.isnan(probability)
        ill, others = probability[seen & positive], probability[seen & ~positive]
        return cls(
            points,
            *(float((ill >= points.present_from).mean()), float((ill < points.absent_below).mean())),
            *(float((others >= points.present_from).mean()), float((others < points.absent_below).mean())),
        )


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    auc: dict[str, list[FindingMetrics]]
    """By method, `fvlm` and `clip`, the same findings in the same order, on the test patients."""
    operating: list[Operating]
    """fVLM at its operating points, on the test patients."""
    dice: dict[str, float]
    """Of the segmenter, by anatomy."""
    located: list[Located]
    """How often heat maps find the lesion, the row of all lesions last."""


def write_card(config: ReleaseConfig, size: Size, figures: Figures, began: AlgorithmIdentity | None = None) -> str:
    """The card as Markdown; `began`: the release that the training started from."""
    fvlm, clip = figures.auc["fvlm"], figures.auc["clip"]
    rows = [
        f"| {ours.finding} | {ours.positives} / {ours.patients} | {_interval(ours)} | {_interval(theirs)} "
        f"| {_percent(at.present)} / {_percent(at.missed)} | {_percent(at.cleared)} / {_percent(at.false)} |"
        for ours, theirs, at in zip(fvlm, clip, figures.operating, strict=True)
    ]
    overlaps = "\n".join(f"| {name} | {score:.3f} |" for name, score in figures.dice.items())
    *several, everywhere = figures.located
    heats = "\n".join(f"| {row.finding} | {row.lesions} | {row.share:.0%} | {row.chance:.0%} |" for row in several)
    model, spacing = config.model, config.preprocess.spacing
    return f"""# {config.name}, version {config.version}

**TEST MODEL - NOT FOR CLINICAL USE.** It was trained on synthetic phantoms only and has never seen a patient. It
exists so that the node can be installed, tested and demonstrated without any download.

## What it is

fVLM (Shui et al., ICLR 2025) in small: a vision transformer of {model.depth} blocks of width {model.width} over tokens
of {_times(model.patch)} voxels behind a convolutional stem, on a grid of {_times(spacing)} mm (z, y, x); beside them
cells of {_times(model.finest)} voxels, made by convolutions alone; one query for each of
{len(model.anatomies)} anatomies attends over the tokens of all levels and the cells; a text encoder of
{model.text.depth} blocks. Weights are stored as float16.

## How it was trained

```
{_commands(size, began)}
```

{size.patients} phantoms (seeds 0 to {size.patients - 1}) with generated reports. The image trunk (stem and transformer)
{_trunk(size, began)}. The cells learn in {size.cell_steps} steps of 48
small crops which of them hold which lesion (only a phantom can tell). Then trunk and cells are frozen, and the first
{size.aligned} phantoms teach the rest. The anatomies' queries and their attention learn in {size.query_steps} steps
of 16 to tell the findings that the reports name, and half of the heads to look at the cells of focal lesions. Last,
anatomy projections and text encoder are aligned with the reports by anatomy-wise contrast with the normal-normal
correction (paper section 3.3), {size.steps} steps of 32. The CLIP baseline shares the trunk, the patients and the
number of steps; it aligns the whole image, by its tokens, with the whole report.

## What it reaches

AUC: {size.test} held-out phantoms, segmented by the bundled segmenter as in the node; zero-shot by the prompt pairs in
`findings.json`; 95 % bootstrap intervals. Verdicts on the same phantoms, at operating points chosen on
{size.validation} others: "present" where {SPECIFICITY:.0%} of those without the finding stay below, "absent" where
{SENSITIVITY:.0%} of those with it stay above, "undetermined" between.

Macro AUC: **fVLM {macro_auc(fvlm):.3f}, plain CLIP {macro_auc(clip):.3f}.**

| finding | ill / assessed | AUC fVLM | AUC CLIP | ill: present / absent | others: absent / present |
|---|---|---|---|---|---|
{chr(10).join(rows)}

## Where it looks

{everywhere.lesions} further phantoms with one focal lesion of at least {LEAST_MM:g} mm: the hottest voxel of the lesion
is among the hottest {TOP:.0%} of its organ in the heat map of its finding in **{everywhere.share:.0%}** of them; with
shuffled heat, in {everywhere.chance:.0%}.

| finding | lesions | found | by chance |
|---|---|---|---|
{heats}

## The segmenter beside it

A small U-Net on a grid of 4 x 4 x 4 mm, trained on parts of {size.segmenter_steps} further phantoms
(`fvlm-node train segmenter --steps {size.segmenter_steps}`). Mean Dice on 20
held-out phantoms, macro {np.mean(list(figures.dice.values())):.3f}:

| anatomy | Dice |
|---|---|
{overlaps}

## Licence

Apache-2.0, like the project: no patient data and no third-party weights went into it.
"""


def _commands(size: Size, began: AlgorithmIdentity | None) -> str:
    held_out = f"--validation {size.validation} --test {size.test}"
    if began is None:
        return f"""fvlm-node train segmenter --out RUN --steps {size.segmenter_steps}
fvlm-node train phantom --out RUN --patients {size.patients} --aligned {size.aligned} \\
    --stem-steps {size.stem_steps} --trunk-steps {size.trunk_steps} --cell-steps {size.cell_steps} \\
    --query-steps {size.query_steps} --steps {size.steps} --segmenter-steps {size.segmenter_steps} \\
    {held_out}"""
    return f"""fvlm-node train phantom --out RUN --start RELEASE-{began.version} --patients {size.patients} \\
    --aligned {size.aligned} --cell-steps {size.cell_steps} --query-steps {size.query_steps} --steps {size.steps} \\
    {held_out}"""


def _trunk(size: Size, began: AlgorithmIdentity | None) -> str:
    if began is None:
        return (
            f"is schooled first: the stem in {size.stem_steps} steps of 8 on which anatomies and focal lesions lie\n"
            f"where, then all of it in {size.trunk_steps} steps of 16, each anatomy on the findings that its report\n"
            "names and each token on the focal lesions in it"
        )
    return f"is that of version {began.version} (digest {began.digest[:16]}…), whose card says how it was made"


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def _interval(row: FindingMetrics) -> str:
    return f"{row.auc:.3f} ({row.auc_low:.3f}-{row.auc_high:.3f})" if not np.isnan(row.auc) else "-"


def _percent(share: float) -> str:
    return f"{share:.0%}" if not np.isnan(share) else "-"
