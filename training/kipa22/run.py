"""One run from folders to a provider with its report."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch

from ct.anatomy import SegmenterWeightsError
from ct.phantom.renal import write_renal_phantoms
from training.kipa22.bundle import load_bundle, write_bundle
from training.kipa22.config import SegmenterConfig, SegmenterConfigError, load_config
from training.kipa22.examples import Example
from training.kipa22.layout import find_cases, read_case
from training.kipa22.report import Report, evaluate
from training.kipa22.train import SegmenterTrainingError, train

HELD_OUT_SEED = 9_000_000
"""First seed of the phantoms that nothing is learned from; those for training begin at 0."""


class Stages(Protocol):
    """Shows one stage of the work with its progress."""

    def __call__(self, title: str) -> AbstractContextManager[Callable[[int, int, float | None], None]]:
        """A context that gives `update(done, total, loss)`."""
        ...


def train_preset(preset: str | None, data: Path | None, out: Path, device: str | None, stages: Stages) -> Report:
    """Check what was asked for, then `train_kipa22`. Raises ValueError with the cure."""
    if preset is None or data is None:
        raise SegmenterConfigError("--preset and --data go together: what is trained, and the folder of the cases")
    config = load_config(preset)
    if device == "cuda" and not torch.cuda.is_available():
        raise SegmenterConfigError("--device cuda: PyTorch sees no GPU here; leave it out")
    return train_kipa22(data, out, config, device or ("cuda" if torch.cuda.is_available() else "cpu"), stages)


def train_kipa22(data: Path, out: Path, config: SegmenterConfig, device: str, stages: Stages) -> Report:
    """`out/checkpoints`, `out/bundle`, `out/report.json` and `out/report.txt`. Raises ValueError for what is odd."""
    split = find_cases(data)
    with stages("cases") as update:
        everyone = (*split.held_out, *split.train)
        examples = []
        for done, case in enumerate(everyone, start=1):
            volume, labels = read_case(case, config.intercept)
            if done > len(split.held_out):
                examples.append(Example.of(volume, labels, config))
            update(done, len(everyone), None)
    with stages("training") as update:
        names = [case.name for case in split.train]
        network = train(examples, names, config, out / "checkpoints", device, update)
    write_bundle(network, config, out / "bundle")
    with stages("held-out cases") as update:
        try:
            segmenter = load_bundle(out / "bundle", device)
        except SegmenterWeightsError as error:
            raise SegmenterTrainingError(str(error)) from error
        report = evaluate(segmenter, split.held_out, config.intercept, lambda done, total: update(done, total, None))
    report.write(out)
    return report


def write_phantoms(folder: Path, count: int, held_out: int, progress: Callable[[int, int], None]) -> None:
    """Renal phantoms as KiPA22's folders: `count` in train/, `held_out` others in test/."""
    done = 0
    for part, seeds in (("train", range(count)), ("test", range(HELD_OUT_SEED, HELD_OUT_SEED + held_out))):
        for _ in write_renal_phantoms(folder / part, seeds):
            done += 1
            progress(done, count + held_out)
