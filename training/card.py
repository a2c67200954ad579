"""The card of the bundled release: what it is, how it was trained, what it reaches."""

from dataclasses import dataclass

import numpy as np

from fvlm.config import ReleaseConfig
from training.evaluate import FindingMetrics, macro_auc


@dataclass(frozen=True)
class Size:
    """How much is computed for the bundled networks."""

    patients: int = 2000
    trunk_steps: int = 360
    token_steps: int = 150
    steps: int = 150
    segmenter_steps: int = 720
    validation: int = 200
    test: int = 500
    processes: int = 2


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    auc: dict[str, list[FindingMetrics]]
    """By method, `fvlm` and `clip`, the same findings in the same order, on the test patients."""
    operating: list[FindingMetrics]
    """fVLM at its operating points, on the patients they were chosen on."""
    dice: dict[str, float]
    """Of the segmenter, by anatomy."""


def write_card(config: ReleaseConfig, size: Size, figures: Figures) -> str:
    """The card as Markdown."""
    fvlm, clip = figures.auc["fvlm"], figures.auc["clip"]
    rows = [
        f"| {ours.finding} | {ours.positives} / {ours.patients} | {_interval(ours)} | {_interval(theirs)} "
        f"| {_number(point.threshold)} | {_number(point.sensitivity)} | {_number(point.specificity)} |"
        for ours, theirs, point in zip(fvlm, clip, figures.operating, strict=True)
    ]
    overlaps = "\n".join(f"| {name} | {score:.3f} |" for name, score in figures.dice.items())
    model = config.model
    return f"""# {config.name}, version {config.version}

**TEST MODEL - NOT FOR CLINICAL USE.** It was trained on synthetic phantoms only and has never seen a patient. It
exists so that the node can be installed, tested and demonstrated without any download.

## What it is

fVLM (Shui et al., ICLR 2025) in small: a vision transformer of {model.depth} blocks of width {model.width} over tokens
of {model.patch[0]} x {model.patch[1]} x {model.patch[2]} voxels behind a convolutional stem, on a grid of
{" x ".join(f"{mm:g}" for mm in config.preprocess.spacing)} mm (z, y, x); one query for each of
{len(model.anatomies)} anatomies; a text encoder of {model.text.depth} blocks. Weights are stored as float16.

## How it was trained

```
fvlm-node train phantom --out RUN --patients {size.patients} --trunk-steps {size.trunk_steps} \\
    --token-steps {size.token_steps} --steps {size.steps} \\
    --segmenter-steps {size.segmenter_steps} --validation {size.validation} --test {size.test}
```

{size.patients} phantoms (seeds 0 to {size.patients - 1}) with generated reports. First the image trunk (stem,
transformer, anatomy attention) is schooled on the findings that the reports name: {size.trunk_steps} steps of 16 by
anatomy, {size.token_steps} more also by its most suspicious token. Then it is frozen, and anatomy projections and text
encoder are aligned by anatomy-wise contrast with the normal-normal correction (paper section 3.3), {size.steps} steps
of 32. The CLIP baseline shares the trunk, the patients and the number of steps; it aligns the whole image with the
whole report.

## What it reaches

AUC: {size.test} held-out phantoms with their own anatomy masks, so that it is a figure of the model and not of the
segmenter; zero-shot by the prompt pairs in `findings.json`; 95 % bootstrap intervals. Operating points (98 %
specificity) were chosen on {size.validation} other phantoms as the bundled segmenter sees them; sensitivity and
specificity are those on these same phantoms, so they flatter.

What fills or changes a whole organ is told well. Small focal lesions (nodules, cysts, stones, tumors) are not: an AUC
near 0.5 is chance.

Macro AUC: **fVLM {macro_auc(fvlm):.3f}, plain CLIP {macro_auc(clip):.3f}.**

| finding | positive / assessed | AUC fVLM | AUC CLIP | threshold | sensitivity | specificity |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

## The segmenter beside it

A small U-Net on a grid of 5 x 4 x 4 mm, trained on {size.segmenter_steps} further phantoms. Mean Dice on 20 held-out
phantoms, macro {np.mean(list(figures.dice.values())):.3f}:

| anatomy | Dice |
|---|---|
{overlaps}

## Licence

Apache-2.0, like the project: no patient data and no third-party weights went into it.
"""


def _interval(row: FindingMetrics) -> str:
    return f"{row.auc:.3f} ({row.auc_low:.3f}-{row.auc_high:.3f})" if not np.isnan(row.auc) else "-"


def _number(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else "-"
