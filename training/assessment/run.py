"""One assessment: a release, studies, all figures."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ct.anatomy import AlgorithmIdentity
from fvlm import load_release
from fvlm.release import read_release
from training.assessment.cases import Case, phantom_cases, shard_cases
from training.assessment.examined import Examined, Progress, examine
from training.assessment.probe import FOLDS, probe
from training.assessment.prompts import Robustness, probabilities, read_templates, robustness
from training.assessment.reliability import Reliability, reliability
from training.assessment.retrieval import Retrieval, retrieval
from training.assessment.zero_shot import Subgroup, auc, protocol, scored, subgroups
from training.evaluation.data_set import DataError
from training.evaluation.metrics import Section
from training.study import Split

PHANTOMS = "phantoms"


@dataclass(frozen=True)
class Data:
    """What is asked to be evaluated on."""

    place: str
    """`PHANTOMS`, or a folder of shards."""
    split: Split = "test"
    """Of the shards."""
    count: int = 200
    first: int = 500_000
    """Number of phantoms, and seed of the first."""
    probe_split: Split | None = None
    """Of the shards: what the linear probe learns from; None: cross-validation on the evaluated studies."""

    @property
    def name(self) -> str:
        if self.place == PHANTOMS:
            return f"{self.count} phantoms, seeds {self.first} to {self.first + self.count - 1}"
        return f"{self.place}, split {self.split}"

    def to_learn(self) -> "Data | None":
        """What the linear probe learns from. Raises DataError."""
        if self.probe_split is None:
            return None
        if self.place == PHANTOMS:
            raise DataError("phantoms have no splits: leave out --probe-split")
        if self.probe_split == self.split:
            raise DataError(f"--probe-split {self.split}: the same studies are evaluated; name another split")
        return replace(self, split=self.probe_split)


@dataclass(frozen=True)
class Assessment:
    """Everything that is reported."""

    data: str
    studies: int
    patients: int
    problems: dict[str, str]
    """Studies that could not be read, and why."""
    not_assessed: dict[str, int]
    """Anatomy -> studies whose anatomy is absent, cut off or in doubt."""
    release: AlgorithmIdentity
    zero_shot: Section
    linear_probe: Section
    probe_learned_from: str
    """Which studies, and how many."""
    protocol: tuple[Section, Section]
    """The CT-CLIP protocol, and with held-out thresholds."""
    retrieval: tuple[Retrieval, ...]
    prompts: tuple[Robustness, ...]
    reliability: tuple[Reliability, ...]
    subgroups: tuple[Subgroup, ...]


def assess(release: Path, data: Data, out: Path, device: str, templates: Path | None, progress: Progress) -> Assessment:
    """Evaluate a release. What it makes of the studies is kept in `out`: a killed run goes on.

    Raises DataError, `fvlm.ReleaseError`, `training.shards.format.ShardError`, OSError.
    """
    ways = read_templates(templates) if templates else read_templates()
    to_learn, cases = data.to_learn(), _cases(data, release)
    model = load_release(release, device)
    assert model.release is not None  # load_release sets it
    findings = model.release.findings
    if not findings:
        raise DataError(f"{release}: it asks for no finding; there is nothing to evaluate")
    examined = examine(model, findings, cases, out, progress)
    if not examined.subjects:
        raise DataError(f"{data.name}: no study could be read; the first: {next(iter(examined.problems.values()))}")
    learned = None if to_learn is None else examine(model, findings, _cases(to_learn, release), out, progress)
    probability = probabilities(model, examined, findings)
    zero_shot = scored(examined, probability)
    return Assessment(
        data=data.name,
        studies=len(examined.subjects),
        patients=len(set(examined.subjects)),
        problems=dict(examined.problems),
        not_assessed=_not_assessed(examined),
        release=model.release.identity,
        zero_shot=auc(zero_shot),
        linear_probe=auc(scored(examined, probe(examined, learned))),
        probe_learned_from=(
            f"other patients of the evaluated studies, {FOLDS}-fold cross-validation"
            if learned is None
            else f"split {data.probe_split}, {len(learned.subjects)} studies of {len(set(learned.subjects))} patients"
        ),
        protocol=protocol(examined, probability),
        retrieval=retrieval(model, examined),
        prompts=robustness(model, examined, findings, ways),
        reliability=reliability(examined, probability, findings),
        subgroups=subgroups(zero_shot, examined.attributes),
    )


def _cases(data: Data, release: Path) -> tuple[Case, ...]:
    if data.place == PHANTOMS:
        return phantom_cases(data.count, data.first)
    return shard_cases(Path(data.place), data.split, read_release(release).config)


def _not_assessed(examined: Examined) -> dict[str, int]:
    missing = np.isnan(examined.features).any(-1).sum(0)
    return {name: int(count) for name, count in zip(examined.anatomies, missing, strict=True) if count}
