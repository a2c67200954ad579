"""`Reader`: a scan and its anatomy map in, a `Reading` out (arXiv 2501.14548, section 3.4, zero-shot)."""

import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import Reason
from ct.anatomy import AnatomyMap
from ct.quality import describe
from ct.volume import Grid, Volume
from fvlm.config import Calibration, FindingConfig
from fvlm.engine import Engine, Precision
from fvlm.evidence import Evidence, Level, as_heat, explain, token_grid
from fvlm.model import FVLM
from fvlm.preprocess import prepare
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict
from fvlm.release import ReleaseError
from fvlm.text_cache import text_features

_DETAIL = {
    Reason.ANATOMY_TOO_SMALL: "no voxel is left at the model's resolution",
    Reason.ANATOMY_CUT_OFF: "more than a tenth lies outside the model's window",
}


class Reader:
    """Reads scans with one release. The prompts are encoded once, when it is made."""

    def __init__(
        self,
        release: FVLM,
        cache: Path | None = None,
        precision: Precision = "float32",
        compiled: bool = False,
        batch: int | None = None,
    ) -> None:
        """`release` is what `load_release` returned; raises ReleaseError for any other model.

        `cache` is a folder that keeps the prompts' features (`fvlm.text_cache`); `precision`, `compiled` and `batch`
        are those of `fvlm.engine.Engine`, which raises ValueError.
        """
        if release.release is None:
            raise ReleaseError("the model belongs to no release; load it with fvlm.load_release")
        self.model = release.eval()
        self.release = release.release
        findings = self.release.findings
        self._engine = Engine(self.model, precision, compiled, batch)
        features = text_features(self.model, [text for f in findings for text in (f.negative, f.positive)], cache)
        self._negative = {f.finding: row for f, row in zip(findings, features[0::2], strict=True)}
        self._positive = {f.finding: row for f, row in zip(findings, features[1::2], strict=True)}

    def read(self, volume: Volume, anatomy_map: AnatomyMap) -> Reading:
        """What the release says about each of its anatomies, or why it says nothing.

        An anatomy in doubt (`anatomy_map.measures`) is never read. Raises ValueError if the map lies on another
        grid than the volume or was not measured.
        """
        analysed_at, started = datetime.now(UTC), time.perf_counter()
        refused = self._refused(anatomy_map)
        names = self.release.config.model.anatomies
        prepared = prepare(volume, anatomy_map, self.release.config, [name for name in names if name not in refused])
        for name, reason in prepared.lost.items():
            refused[name] = self._not_assessed(name, reason, _DETAIL[reason])
        prepared_at = time.perf_counter()
        readings: dict[str, AnatomyReading] = {}
        with torch.inference_mode():
            for encoded in self._engine.encode(prepared):
                window, tokens, selected = encoded.window, encoded.tokens, encoded.selected
                features, _ = self.model.pool_tokens(tokens, selected)
                grid = token_grid(volume.grid, window.box, self.release.config)
                for name in window.anatomies:
                    index = names.index(name)
                    states = [Level(level[0], own[0, index]) for level, own in zip(tokens, selected, strict=True)]
                    evidence = explain(self.model, states, grid.shape, index, self._directions(name))
                    readings[name] = self._describe(name, features[0, index], evidence, grid, anatomy_map)
        return Reading(
            model=self.release.identity,
            segmenter=anatomy_map.algorithm,
            anatomies=tuple(readings[name] for name in names if name in readings),
            not_assessed=tuple(refused[name] for name in names if name in refused),
            analysed_at=analysed_at,
            seconds={"preprocess": prepared_at - started, "model": time.perf_counter() - prepared_at},
        )

    def _refused(self, anatomy_map: AnatomyMap) -> dict[str, NotAssessed]:
        """The physiologic guard: anatomies that must not be read, before the model sees anything."""
        refused = {}
        for name in self.release.config.model.anatomies:
            if name not in anatomy_map.names:
                refused[name] = self._not_assessed(name, Reason.ANATOMY_NOT_SEGMENTED)
            elif (measure := anatomy_map.measures.get(name)) is None:
                raise ValueError(f"the anatomy map has no measure of {name}; measure it first")
            elif measure.doubt is not None:
                refused[name] = self._not_assessed(name, measure.doubt, describe(measure))
            elif not measure.voxels:
                refused[name] = self._not_assessed(name, Reason.ANATOMY_ABSENT)
        return refused

    def _not_assessed(self, name: str, reason: Reason, detail: str = "") -> NotAssessed:
        return NotAssessed(name, reason, detail, tuple(finding.finding for finding in self._asked(name)))

    def _asked(self, name: str) -> list[FindingConfig]:
        """The findings of one anatomy in the order of the release."""
        return [finding for finding in self.release.findings if finding.anatomy == name]

    def _directions(self, name: str) -> Tensor:
        """Positive minus negative text feature of each finding of one anatomy, [F, E]."""
        rows = [self._positive[f.finding] - self._negative[f.finding] for f in self._asked(name)]
        return torch.stack(rows) if rows else self.model.temp.new_zeros(0, self.model.config.embedding)

    def _describe(
        self, name: str, feature: Tensor, evidence: Evidence, grid: Grid, anatomy_map: AnatomyMap
    ) -> AnatomyReading:
        """All findings of one anatomy from its feature [E]; the evidence lies on the grid of tokens."""
        measure = anatomy_map.measures[name]
        findings = []
        for finding, added in zip(self._asked(name), evidence.contributions, strict=True):
            negative, positive = self._negative[finding.finding], self._positive[finding.finding]
            probability = float(self.model.probabilities(feature, negative, positive))
            findings.append(replace(judge(finding, probability), heat=as_heat(added, grid)))
        findings.sort(key=lambda finding: -finding.probability)
        embedding = feature.cpu().numpy().astype(np.float16)
        attention = as_heat(evidence.attention, grid)
        return AnatomyReading(
            name, measure.volume_ml, measure.mean_hu, tuple(findings), embedding, attention, measure.cut
        )


def judge(config: FindingConfig, probability: float) -> Finding:
    """Zero-shot probability -> calibrated probability and verdict at the release's operating points."""
    if config.calibration is not None:
        probability = calibrate(config.calibration, probability)
    calibrated = config.calibration is not None
    return Finding(
        config.finding, probability, verdict(config, probability), config.threshold, calibrated, config.absent_below
    )


def verdict(config: FindingConfig, probability: float) -> Verdict:
    """What a probability (after calibration) means; a finding is absent only where the release says how to tell."""
    if config.threshold is None:
        return Verdict.NO_OPERATING_POINT
    if probability >= config.threshold:
        return Verdict.PRESENT
    if config.absent_below is not None and probability < config.absent_below:
        return Verdict.ABSENT
    return Verdict.UNDETERMINED


def calibrate(calibration: Calibration, probability: float) -> float:
    """Platt scaling; 0 and 1 are taken as 1e-6 and 1 - 1e-6."""
    clipped = min(max(probability, 1e-6), 1 - 1e-6)
    score = calibration.slope * math.log(clipped / (1 - clipped)) + calibration.intercept
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
