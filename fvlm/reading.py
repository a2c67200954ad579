"""`Reading`: what the model says about one series. Plain data, no torch."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from config import Preset, Reason
from ct.anatomy import AlgorithmIdentity
from fvlm.heat import Heat


class Verdict(StrEnum):
    """What a probability means at the operating points of the release."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"
    NO_OPERATING_POINT = "no operating point"


@dataclass(frozen=True)
class Finding:
    """One finding asked of one anatomy."""

    key: str
    """`anatomy.finding` of the vocabulary."""
    probability: float
    """0..1, softmax over the negative and the positive prompt (paper section 3.4), calibrated if `calibrated`."""
    verdict: Verdict
    threshold: float | None = None
    """Present at or above it, probability; None where the release has no operating point."""
    calibrated: bool = False
    absent_below: float | None = None
    """Absent below it, undetermined up to `threshold`; None: the release never calls the finding absent."""
    heat: Heat | None = field(default=None, compare=False, repr=False)
    """What the score looked at: the log-odds that each token adds (`fvlm.evidence`); their sum is the log-odds of the
    probability before calibration."""

    @property
    def anatomy(self) -> str:
        return self.key.split(".")[0]


@dataclass(frozen=True)
class AnatomyReading:
    """Everything said about one assessed anatomy; findings by falling probability."""

    anatomy: str
    volume_ml: float
    mean_hu: float
    findings: tuple[Finding, ...]
    embedding: npt.NDArray[np.float16] | None = None
    """[E] unit length: the anatomy feature, for later re-scoring."""
    attention: Heat | None = field(default=None, compare=False, repr=False)
    """The share of the anatomy's attention that each token has, whatever is asked; they sum to 1."""
    cut: bool = field(default=False, compare=False)
    """Whether the border of the scan cuts it: all that is said is about the part that was scanned."""


@dataclass(frozen=True)
class NotAssessed:
    """An anatomy about which nothing is said, and why."""

    anatomy: str
    reason: Reason
    detail: str = ""
    findings: tuple[str, ...] = ()
    """Keys of the findings that the release would have asked of it."""


@dataclass(frozen=True)
class Reading:
    """The result for one series."""

    model: AlgorithmIdentity
    segmenter: AlgorithmIdentity
    anatomies: tuple[AnatomyReading, ...]
    not_assessed: tuple[NotAssessed, ...]
    analysed_at: datetime
    """Start of the analysis, with time zone."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds per stage."""

    @property
    def positives(self) -> tuple[Finding, ...]:
        """Findings with verdict PRESENT, by falling probability."""
        present = [f for a in self.anatomies for f in a.findings if f.verdict is Verdict.PRESENT]
        return tuple(sorted(present, key=lambda f: -f.probability))

    def only(self, preset: Preset) -> "Reading":
        """What a preset asks of it: its other anatomies are not assessed (NOT_ASKED), its other findings left out.

        Raises ValueError if the release asks no finding of the preset.
        """
        wanted = {prompt.finding for prompt in preset.prompts}
        asked = {f.key for a in self.anatomies for f in a.findings} | {f for n in self.not_assessed for f in n.findings}
        if not wanted & asked:
            raise ValueError(f"no finding of the preset {preset.name}")
        names = [one.anatomy for one in self.anatomies] + [one.anatomy for one in self.not_assessed]
        return replace(
            self,
            anatomies=tuple(
                replace(one, findings=tuple(f for f in one.findings if f.key in wanted))
                for one in self.anatomies
                if one.anatomy in preset.anatomies
            ),
            not_assessed=(
                *(
                    replace(one, findings=tuple(f for f in one.findings if f in wanted))
                    for one in self.not_assessed
                    if one.anatomy in preset.anatomies
                ),
                *(
                    NotAssessed(name, Reason.NOT_ASKED, f"preset {preset.name}")
                    for name in names
                    if name not in preset.anatomies
                ),
            ),
        )

    @property
    def calibration(self) -> str:
        """Whether the probabilities are calibrated, in words."""
        findings = [f for a in self.anatomies for f in a.findings]
        calibrated = sum(f.calibrated for f in findings)
        if calibrated in (0, len(findings)):
            return "calibrated" if calibrated else "not calibrated"
        return f"{calibrated} of {len(findings)} calibrated"

    @property
    def test_only(self) -> bool:
        """True if any algorithm involved is a test model."""
        return self.model.test_only or self.segmenter.test_only
