"""The radiology report of a synthetic patient: it states what was drawn, and nothing else."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from config.vocabulary import load_vocabulary
from ct.phantom.diseases import DISEASES, FURTHER_DISEASES
from ct.phantom.patient import Lesion, PhantomPatient, dice
from ct.phantom.wording import Texts, load_wording

ANATOMIES = load_vocabulary().preset("phantom").anatomies


@dataclass(frozen=True)
class Habits:
    """How a radiologist of phantoms writes."""

    prompts: float = 0.25
    """How often a sentence is the very prompt that the model will be asked with."""
    unmentioned: float = 0.3
    """How often a normal anatomy is left out of the findings."""
    findings_only: float = 0.0
    """How often a disease is described in the findings and then not taken up in the impression."""


USUAL = Habits()


@dataclass(frozen=True)
class AnatomyText:
    """What a report says about one anatomy."""

    findings: str
    """Sentences of the findings section; "" where the anatomy is not mentioned."""
    impression: str
    """Sentences of the impression; "" where there is nothing to say."""
    normal: bool
    """True where the anatomy has no disease."""


@dataclass(frozen=True)
class Report:
    """A radiology report in English."""

    findings: str
    impression: str
    by_anatomy: dict[str, AnatomyText]
    """One entry for each of the 15 anatomies."""


def write_report(patient: PhantomPatient, habits: Habits = USUAL) -> Report:
    """Report one patient: findings in shuffled order, impression by weight.

    The same patient and habits give the same report.
    """
    rng = dice(patient.seed, "report " + " ".join(sorted(patient.keys)))
    by_anatomy: dict[str, AnatomyText] = {}
    for name in ANATOMIES:
        mine = [lesion for lesion in patient.diseases if lesion.anatomy == name]
        if mine:
            by_anatomy[name] = _abnormal(rng, name, mine, habits)
        elif rng.random() < habits.unmentioned:
            by_anatomy[name] = AnatomyText("", "", True)
        else:
            by_anatomy[name] = AnatomyText(_normal(rng, name, habits), "", True)
    order = [str(name) for name in rng.permutation(ANATOMIES)] if rng.random() < 0.4 else list(ANATOMIES)
    findings = " ".join(by_anatomy[name].findings for name in order if by_anatomy[name].findings)
    weight = {name: max((le.severity for le in patient.diseases if le.anatomy == name), default=0.0) for name in order}
    ranked = sorted((name for name in order if by_anatomy[name].impression), key=lambda name: -weight[name])
    impression = " ".join(by_anatomy[name].impression for name in ranked)
    if not impression:
        impression = _pick(rng, load_wording().healthy)
    if not findings:
        findings = _normal(rng, "lung", habits)
        by_anatomy["lung"] = AnatomyText(findings, "", True)
    return Report(findings, impression, by_anatomy)


@cache
def prompts() -> dict[str, tuple[str, str]]:
    """Negative and positive prompt of each finding; of one that the model does not know, its first sentences."""
    further = {key: load_wording().findings[key] for key in FURTHER_DISEASES}
    return {key: (phrases.absent[0], phrases.one[0]) for key, phrases in further.items()} | {
        p.finding: (p.negative, p.positive) for p in load_vocabulary().preset("phantom").prompts
    }


def _pick(rng: np.random.Generator, texts: Texts) -> str:
    return texts[int(rng.integers(len(texts)))]


def _absent(rng: np.random.Generator, key: str, habits: Habits) -> str:
    if rng.random() < habits.prompts:
        return prompts()[key][0]
    return _pick(rng, load_wording().findings[key].absent)


def _normal(rng: np.random.Generator, name: str, habits: Habits) -> str:
    keys = [key for key in DISEASES if key.startswith(name + ".")]
    if rng.random() < 0.55:
        return _pick(rng, load_wording().normal[name])
    count = min(len(keys), 1 + int(rng.integers(2)))
    chosen = [keys[i] for i in rng.permutation(len(keys))[:count]]
    return " ".join(_absent(rng, key, habits) for key in chosen)


def _abnormal(rng: np.random.Generator, name: str, lesions: list[Lesion], habits: Habits) -> AnatomyText:
    keys = [key for key in (*DISEASES, *FURTHER_DISEASES) if any(lesion.key == key for lesion in lesions)]
    keys = [keys[i] for i in rng.permutation(len(keys))]
    sentences, impressions = [], []
    for key in keys:
        group = [lesion for lesion in lesions if lesion.key == key]
        sentences.append(_present(rng, key, group, habits))
        if habits.findings_only and rng.random() < habits.findings_only:
            continue
        impressions.append(
            prompts()[key][1]
            if rng.random() < habits.prompts
            else _fill(_pick(rng, load_wording().findings[key].impression), group)
        )
    missing = [key for key in DISEASES if key.startswith(name + ".") and key not in keys]
    for key in missing:
        if rng.random() < 0.8 / max(1, len(missing)):
            sentences.append(_absent(rng, key, habits))
    return AnatomyText(" ".join(sentences), " ".join(impressions), False)


def _present(rng: np.random.Generator, key: str, group: list[Lesion], habits: Habits) -> str:
    wording = load_wording().findings[key]
    if rng.random() < habits.prompts:
        return prompts()[key][1]
    if _plural(group) and wording.many:
        return _fill(_pick(rng, wording.many), group)
    return _fill(_pick(rng, wording.one), group)


def _plural(group: list[Lesion]) -> bool:
    return len(group) > 1 or group[0].location == "multiple"


def _fill(template: str, group: list[Lesion]) -> str:
    """Put a group of lesions of one disease into a template."""
    main = max(group, key=lambda lesion: lesion.size_mm)
    sides = {lesion.side for lesion in group if lesion.side}
    side = "bilateral" if "both" in sides or len(sides) > 1 else next(iter(sides), "")
    third = min(2, int(main.severity * 3))
    plural = _plural(group)
    where = main.location
    if main.key == "sacrum.metastasis" and main.side:
        where = f"{main.side} {where}"
    text = template.format(
        size=round(main.size_mm),
        side=side,
        where=where,
        degree=("mild", "moderate", "severe")[third],
        extent=("small", "moderate", "large")[third],
        s="s" if plural else "",
        es="es" if plural else "",
        **{"is": "es" if plural else "is"},
        ofpart=f" of the {main.location}" if main.location else "",
    )
    if side == "bilateral":
        text = text.replace("on the bilateral", "on both sides").replace("the bilateral", "both")
    return text[0].upper() + text[1:]
