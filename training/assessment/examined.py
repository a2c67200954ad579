"""What a release makes of every case: the features of its anatomies, kept in files, so that a run goes on."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ct.anatomy import AnatomyMap
from ct.volume import Volume
from fvlm.config import FindingConfig
from fvlm.engine import Engine
from fvlm.model import FVLM
from fvlm.preprocess import prepare
from training.assessment.cases import Case
from training.report_text import AnatomyText, Mention
from training.shards.format import ShardError
from training.study import StudyError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Progress = Callable[[int, int], None]
"""Called with done and total."""


@dataclass(frozen=True)
class Examined:
    """N cases; A anatomies, E numbers a feature, F findings of the release."""

    subjects: tuple[str, ...]
    attributes: tuple[Mapping[str, str], ...]
    anatomies: tuple[str, ...]
    findings: tuple[str, ...]
    features: Floats
    """[N, A, E] of unit length; NaN where the anatomy was not assessed."""
    texts: tuple[tuple[AnatomyText, ...], ...]
    """[N][A]."""
    positive: Bools
    """[N, F]: the finding is there. What a report does not mention is not."""
    known: Bools
    """[N, F]: False where the report leaves it open."""
    problems: Mapping[str, str]
    """Cases that could not be read, and why; they are not among the N."""

    def of_finding(self, finding: str) -> Floats:
        """Features [N, E] of the anatomy of a finding."""
        features: Floats = self.features[:, self.anatomies.index(finding.split(".")[0])]
        return features


def examine(
    model: FVLM, findings: Sequence[FindingConfig], cases: Sequence[Case], folder: Path, progress: Progress
) -> Examined:
    """Encode every case that `folder` has no features of yet; `model` is of `load_release`. Raises OSError."""
    release = model.release
    assert release is not None  # load_release sets it
    kept = folder / f"features-{release.digest[:16]}"
    kept.mkdir(parents=True, exist_ok=True)
    engine, names = Engine(model), model.config.anatomies
    rows, done, problems = [], [], {}
    for count, case in enumerate(cases, start=1):
        try:
            about = case.about()
            rows.append((_features(model, engine, case, kept), about))
            done.append(case)
        except (ShardError, StudyError) as error:
            problems[case.key] = str(error)
        progress(count, len(cases))
    keys = tuple(finding.finding for finding in findings)
    said = [[about.labels.get(key, Mention.UNMENTIONED) for key in keys] for _, about in rows]
    empty = np.empty((0, len(names), model.config.embedding))
    return Examined(
        subjects=tuple(case.subject for case in done),
        attributes=tuple(about.attributes for _, about in rows),
        anatomies=names,
        findings=keys,
        features=np.array([features for features, _ in rows]) if rows else empty,
        texts=tuple(tuple(about.texts[name] for name in names) for _, about in rows),
        positive=np.array([[m == Mention.PRESENT for m in row] for row in said], bool).reshape(len(rows), len(keys)),
        known=np.array([[m != Mention.UNCERTAIN for m in row] for row in said], bool).reshape(len(rows), len(keys)),
        problems=problems,
    )


def _features(model: FVLM, engine: Engine, case: Case, folder: Path) -> Floats:
    """[A, E], NaN where not assessed; from its file, or into it."""
    name = hashlib.sha256(f"{case.key} {case.content}".encode()).hexdigest()
    file = folder / f"{name[:32]}.safetensors"
    try:
        found = load_file(file)["features"]
    except (OSError, SafetensorError, KeyError):
        found = _encode(model, engine, *case.load())
        partial = file.with_suffix(".part")
        save_file({"features": found}, partial)
        partial.replace(file)
    return np.asarray(found.double().numpy())


@torch.inference_mode()
def _encode(model: FVLM, engine: Engine, volume: Volume, anatomy_map: AnatomyMap) -> torch.Tensor:
    """As `fvlm.Reader` reads: nothing of an anatomy that is in doubt."""
    assert model.release is not None
    names, measures = model.config.anatomies, anatomy_map.measures
    wanted = [name for name in names if name in measures and measures[name].voxels and measures[name].doubt is None]
    features = torch.full((len(names), model.config.embedding), float("nan"))
    for encoded in engine.encode(prepare(volume, anatomy_map, model.release.config, wanted)):
        pooled, _ = model.pool_tokens(encoded.tokens, encoded.selected)
        for name in encoded.window.anatomies:
            features[names.index(name)] = pooled[0, names.index(name)].float().cpu()
    return features
