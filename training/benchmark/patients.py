"""The benchmark's patients: diseases that come in company, and reports as radiologists write them."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from config import load_vocabulary
from ct.phantom import DISEASES, FURTHER_DISEASES, Habits, Lesion, PhantomPatient, write_report

FINDINGS = (*DISEASES, *FURTHER_DISEASES)
"""What is asked of every patient, `anatomy.finding`."""
ANATOMIES = load_vocabulary().preset("phantom").anatomies
HABITS = Habits(prompts=0.05, unmentioned=0.35, findings_only=0.1)
"""Mostly synonyms; every third normal anatomy is not mentioned, every tenth disease not taken up in the impression."""

GROWN = 1.7
"""Focal lesions are so many times as large as other phantoms', for the benchmark's voxels are."""

_YOUNG, _OLD = 0.7, 1.3
"""Factors of all chances at 30 and at 85 years."""


@dataclass(frozen=True)
class Syndrome:
    """Findings that come together."""

    chance: float
    findings: dict[str, float]
    """Chance of each in a patient who has the syndrome."""


@dataclass(frozen=True)
class Syndromes:
    """`syndromes.yaml`."""

    healthy: float
    sporadic: float
    all: dict[str, Syndrome]


@dataclass(frozen=True)
class Case:
    """The text side and the truth of one patient; A anatomies, F findings."""

    seed: int
    truth: tuple[bool, ...]
    """F: was it drawn?"""
    labels: tuple[bool | None, ...]
    """F: what the report says; None where it does not mention the anatomy."""
    captions: tuple[str, ...]
    """A: as the reference assembles them, impression before findings; the template where nothing is said."""
    normal: tuple[bool, ...]
    """A: the impression has nothing to say of it. So is a disease that stands in the findings alone called normal."""
    report: str


def case_of(patient: PhantomPatient) -> Case:
    """Report a patient."""
    report = write_report(patient, HABITS)
    captions, normal, mentioned = [], [], set()
    for name in ANATOMIES:
        said = report.by_anatomy[name]
        text = " ".join(part for part in (said.impression, said.findings) if part)
        captions.append(text or f"{name.replace('_', ' ')} shows no significant abnormalities.")
        normal.append(not said.impression)
        if text:
            mentioned.add(name)
    truth = tuple(finding in patient.keys for finding in FINDINGS)
    labels = tuple(
        here if finding.split(".")[0] in mentioned else None for finding, here in zip(FINDINGS, truth, strict=True)
    )
    return Case(patient.seed, truth, labels, tuple(captions), tuple(normal), f"{report.impression} {report.findings}")


def draw(seed: int) -> PhantomPatient:
    """The benchmark's patient of a seed: the body is that of `PhantomPatient.draw`, the diseases are its own."""
    body = PhantomPatient.draw(seed, ())
    patient = PhantomPatient.draw(seed, diseases_of(seed, body.age))
    return replace(patient, diseases=tuple(_grown(lesion) for lesion in patient.diseases))


def _grown(lesion: Lesion) -> Lesion:
    if not lesion.balls:
        return lesion
    balls = tuple((x, y, z, GROWN * radius) for x, y, z, radius in lesion.balls)
    return replace(lesion, balls=balls, radius_mm=balls[0][3], size_mm=float(round(GROWN * lesion.size_mm)))


def diseases_of(seed: int, age: int) -> tuple[str, ...]:
    """Syndromes and what comes alone, more of both in the old."""
    rng = np.random.default_rng([seed, zlib.crc32(b"syndromes")])
    table = load_syndromes()
    if rng.random() < table.healthy:
        return ()
    factor = float(np.interp(age, (30, 85), (_YOUNG, _OLD)))
    found = {key for key, hit in zip(FINDINGS, rng.random(len(FINDINGS)) < table.sporadic * factor, strict=True) if hit}
    for syndrome in table.all.values():
        hits = rng.random(1 + len(syndrome.findings))
        if hits[0] < syndrome.chance * factor:
            brought = zip(syndrome.findings.items(), hits[1:], strict=True)
            found |= {key for (key, chance), hit in brought if hit < chance}
    return tuple(key for key in FINDINGS if key in found)


@cache
def load_syndromes() -> Syndromes:
    """The table beside this file."""
    table = yaml.safe_load((Path(__file__).parent / "syndromes.yaml").read_text(encoding="utf-8"))
    return Syndromes(
        table["healthy"], table["sporadic"], {name: Syndrome(**row) for name, row in table["syndromes"].items()}
    )


def prevalence(cases: Sequence[Case]) -> dict[str, float]:
    """Share of the patients who have each finding."""
    shares = np.mean([case.truth for case in cases], axis=0)
    return dict(zip(FINDINGS, (float(share) for share in shares), strict=True))
