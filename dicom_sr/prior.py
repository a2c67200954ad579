"""The reading compared with the patient's earlier one: a change for each finding."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from config import Vocabulary
from fvlm.reading import Finding, Reading, Verdict

_MOVED = 0.15
"""A probability that differs by less has not changed: two scans of the same patient differ by as much."""


class Change(StrEnum):
    """What became of a finding since the earlier reading. It is told of the model's certainty, not of a lesion."""

    NEW = "new"
    """Absent then, present now."""
    RESOLVED = "resolved"
    """Present then, absent now."""
    UP = "up"
    """Neither, and its probability rose by 15 percentage points or more."""
    DOWN = "down"
    """Neither, and its probability fell by as much."""
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Said:
    """What the earlier reading said of a finding."""

    probability: float
    """0..1"""
    verdict: Verdict


@dataclass(frozen=True)
class Prior:
    """An earlier reading of the same patient by the same release."""

    studied_on: date
    """Study Date (0008,0020)."""
    report_uid: str
    """SOP Instance UID of its SR."""
    findings: Mapping[str, Said]
    """By `anatomy.finding`; what was not assessed is not there."""

    def change(self, now: Finding) -> Change | None:
        """The change of a finding; None if nothing was said of it then."""
        then = self.findings.get(now.key)
        if then is None:
            return None
        if (then.verdict, now.verdict) == (Verdict.ABSENT, Verdict.PRESENT):
            return Change.NEW
        if (then.verdict, now.verdict) == (Verdict.PRESENT, Verdict.ABSENT):
            return Change.RESOLVED
        moved = now.probability - then.probability
        if abs(moved) < _MOVED:
            return Change.UNCHANGED
        return Change.UP if moved > 0 else Change.DOWN


def comparison(reading: Reading, prior: Prior, vocabulary: Vocabulary) -> list[str]:
    """Sentences: what it was compared with, one for each finding that changed, and how many did not.

    Findings that are new come first, then the resolved ones, then those whose certainty moved.
    """
    order = list(Change)
    compared = [
        (change, finding)
        for anatomy in reading.anatomies
        for finding in anatomy.findings
        if (change := prior.change(finding)) is not None
    ]
    day = prior.studied_on.isoformat()
    if not compared:
        return [f"No finding could be compared with the AI reading of {day}: it assessed none of them."]
    compared.sort(key=lambda pair: (order.index(pair[0]), -pair[1].probability))
    sentences = [f"Compared with the AI reading of {day} by the same release (certainty of the model then and now):"]
    for change, finding in compared:
        if change is not Change.UNCHANGED:
            title, site = vocabulary.finding(finding.key).title, vocabulary.anatomy(finding.anatomy).title.lower()
            then, now = prior.findings[finding.key].probability, finding.probability
            sentences.append(f"{change.capitalize()}: {title} ({site}), {100 * then:.1f} % to {100 * now:.1f} %.")
    unchanged = sum(change is Change.UNCHANGED for change, _ in compared)
    sentences.append(f"Unchanged: {unchanged} of {len(compared)} compared findings.")
    return sentences
