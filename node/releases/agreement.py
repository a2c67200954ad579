"""How far the release in shadow agrees with the one that sent its results, on the same series."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from sklearn.metrics import cohen_kappa_score
from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from fvlm.reading import Verdict
from node.records import Job, ReportedFinding
from node.releases import shadow_queue
from node.releases.rows import ShadowReading, ShadowState

CASES = 20
"""Cases to look at that are named."""
_TIMED = "read"
"""The stage whose seconds are compared: what the releases differ in."""


@dataclass(frozen=True)
class Said:
    """What one release says of one finding."""

    probability: float
    verdict: str


@dataclass(frozen=True)
class Pair:
    """One series, read by both."""

    job_id: int
    current: dict[str, Said]
    """By finding."""
    shadow: dict[str, Said]
    not_assessed: dict[str, str]
    """By the shadow: anatomy -> reason."""
    seconds: tuple[float, float] | None
    """Of the stage `read`, current and shadow; None if one of them was not taken."""


@dataclass(frozen=True)
class FindingAgreement:
    """One finding, on the series in which both assessed its anatomy."""

    finding: str
    studies: int
    same_verdict: float
    """Share, 0..1."""
    kappa: float | None
    """Cohen's, over the verdicts; None where neither ever says anything else."""
    correlation: float | None
    """Pearson's, of the probabilities; None where one of them never moves."""
    mean_difference: float
    """Of the probabilities, shadow minus current."""
    only_current: int
    """Series in which only the current release assessed it."""
    only_shadow: int


@dataclass(frozen=True)
class Case:
    """A series in which the two disagree most."""

    job_id: int
    finding: str
    current: Said
    shadow: Said


@dataclass(frozen=True)
class Agreement:
    """The whole comparison."""

    current: str
    """Digest."""
    shadow: str
    studies: int
    """Series read by both."""
    progress: dict[str, int]
    """Readings of the shadow by state, whichever release they are compared with."""
    same_verdict: float | None
    """Share over all findings; None if there is nothing to compare."""
    findings: tuple[FindingAgreement, ...]
    not_assessed: dict[str, int]
    """`anatomy: REASON` -> series in which only the shadow did not assess it."""
    seconds: tuple[float, float] | None
    """Median of the stage `read`, current and shadow (which reads on the CPU at the lowest priority)."""
    cases: tuple[Case, ...]


def compare(session: Session, current: str, shadow: str) -> Agreement:
    """What the two digests' releases say on the series that both have read."""
    pairs = _pairs(session, current, shadow)
    keys = sorted({key for pair in pairs for key in (*pair.current, *pair.shadow)})
    findings = [_finding(key, pairs) for key in keys]
    compared = sum(row.studies for row in findings)
    agreed = sum(row.same_verdict * row.studies for row in findings if row.studies)
    timed = [pair.seconds for pair in pairs if pair.seconds is not None]
    return Agreement(
        current=current,
        shadow=shadow,
        studies=len(pairs),
        progress={state.value: count for state, count in shadow_queue.progress(session, shadow).items()},
        same_verdict=agreed / compared if compared else None,
        findings=tuple(findings),
        not_assessed=_lost(pairs),
        seconds=(median(one for one, _ in timed), median(other for _, other in timed)) if timed else None,
        cases=tuple(_cases(pairs)),
    )


def _pairs(session: Session, current: str, shadow: str) -> list[Pair]:
    query = (
        select(ShadowReading, Job)
        .join(Job, Job.id == ShadowReading.job_id)
        .where(ShadowReading.release_digest == shadow, ShadowReading.state == ShadowState.DONE)
        .where(Job.release_digest == current)
        .order_by(Job.id)
        .options(undefer(ShadowReading.reading))
    )
    rows = list(session.execute(query).tuples())
    mine: dict[int, dict[str, Said]] = {job.id: {} for _, job in rows}
    said = select(ReportedFinding).join(Job).join(ShadowReading, ShadowReading.job_id == Job.id)
    for row in session.scalars(said.where(ShadowReading.release_digest == shadow, Job.release_digest == current)):
        if row.job_id in mine:
            mine[row.job_id][row.finding] = Said(row.probability, row.verdict)
    return [_pair(job, mine[job.id], reading.reading or {}) for reading, job in rows]


def _pair(job: Job, mine: dict[str, Said], reading: dict[str, dict[str, list[float | str] | str | float]]) -> Pair:
    shadow = {}
    for key, told in reading.get("findings", {}).items():
        probability, verdict = told if isinstance(told, list) else (math.nan, "")
        shadow[key] = Said(float(probability), str(verdict))
    lost = {anatomy: str(reason) for anatomy, reason in reading.get("not_assessed", {}).items()}
    took, takes = job.seconds.get(_TIMED), reading.get("seconds", {}).get(_TIMED)
    timed = None if took is None or not isinstance(takes, int | float) else (took, float(takes))
    return Pair(job.id, mine, shadow, lost, timed)


def _finding(key: str, pairs: Sequence[Pair]) -> FindingAgreement:
    both = [(pair.current[key], pair.shadow[key]) for pair in pairs if key in pair.current and key in pair.shadow]
    mine, its = [one for one, _ in both], [other for _, other in both]
    p, q = np.array([one.probability for one in mine]), np.array([one.probability for one in its])
    return FindingAgreement(
        finding=key,
        studies=len(both),
        same_verdict=sum(a.verdict == b.verdict for a, b in both) / len(both) if both else 0.0,
        kappa=_kappa([one.verdict for one in mine], [one.verdict for one in its]),
        correlation=float(np.corrcoef(p, q)[0, 1]) if len(both) > 1 and p.std() > 0 and q.std() > 0 else None,
        mean_difference=float((q - p).mean()) if both else 0.0,
        only_current=sum(key in pair.current and key not in pair.shadow for pair in pairs),
        only_shadow=sum(key in pair.shadow and key not in pair.current for pair in pairs),
    )


def _kappa(mine: list[str], its: list[str]) -> float | None:
    if len({*mine, *its}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one rater without variation: the value says it
        value = float(cohen_kappa_score(mine, its))
    return None if math.isnan(value) else value


def _lost(pairs: Iterable[Pair]) -> dict[str, int]:
    """Anatomies of which only the current release says something."""
    counts: Counter[str] = Counter()
    for pair in pairs:
        assessed = {key.split(".")[0] for key in pair.current}
        counts.update(f"{name}: {reason}" for name, reason in pair.not_assessed.items() if name in assessed)
    return dict(sorted(counts.items()))


def _cases(pairs: Iterable[Pair]) -> list[Case]:
    """One a series: where one calls present what the other calls absent, then where the verdicts differ otherwise, each
    by how far the probabilities are apart.
    """
    worst = []
    for pair in pairs:
        different = [
            Case(pair.job_id, key, pair.current[key], pair.shadow[key])
            for key in pair.current.keys() & pair.shadow.keys()
            if pair.current[key].verdict != pair.shadow[key].verdict
        ]
        if different:
            worst.append(max(different, key=_severity))
    return sorted(worst, key=_severity, reverse=True)[:CASES]


def _severity(case: Case) -> tuple[bool, float, str]:
    opposite = {case.current.verdict, case.shadow.verdict} == {Verdict.PRESENT, Verdict.ABSENT}
    return opposite, abs(case.current.probability - case.shadow.probability), case.finding
