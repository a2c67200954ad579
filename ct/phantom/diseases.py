"""Which diseases a patient has, and how large and where each one is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from config.vocabulary import load_vocabulary
from ct.phantom import organs as organ_layout
from ct.phantom.further import FURTHER
from ct.phantom.organs import Organs
from ct.phantom.patient import Body, Lesion, Side, dice
from ct.phantom.places import PLACERS
from ct.phantom.placing import Case

DISEASES = tuple(prompt.finding for prompt in load_vocabulary().preset("phantom").prompts)
"""The finding keys that a phantom can have, in the order of the vocabulary's preset `phantom`."""

FURTHER_DISEASES = tuple(FURTHER)
"""Finding keys that are drawn only where they are asked for by name."""

HEALTHY_SHARE = 0.08
"""Share of patients drawn without any disease."""

PREVALENCE = {
    "lung.nodule": 0.17,
    "lung.emphysema": 0.13,
    "lung.consolidation": 0.14,
    "lung.atelectasis": 0.11,
    "lung.pleural_effusion": 0.14,
    "heart.cardiomegaly": 0.14,
    "heart.pericardial_effusion": 0.1,
    "heart.coronary_calcification": 0.17,
    "esophagus.hiatal_hernia": 0.13,
    "liver.steatosis": 0.15,
    "liver.cyst": 0.15,
    "liver.tumor": 0.13,
    "gallbladder.stone": 0.16,
    "pancreas.cyst": 0.12,
    "pancreas.tumor": 0.11,
    "spleen.splenomegaly": 0.12,
    "kidney.cyst": 0.17,
    "kidney.stone": 0.13,
    "kidney.hydronephrosis": 0.1,
    "adrenal_gland.nodule": 0.14,
    "stomach.wall_thickening": 0.13,
    "portal_vein.dilatation": 0.1,
    "small_intestine.obstruction": 0.12,
    "colon.obstruction": 0.1,
    "colon.tumor": 0.1,
    "urinary_bladder.stone": 0.12,
    "urinary_bladder.tumor": 0.13,
    "sacrum.metastasis": 0.13,
}
"""Chance of each disease, before the company it keeps."""

COMPANY = (
    ("lung.pleural_effusion", "lung.atelectasis", 0.2),
    ("heart.cardiomegaly", "lung.pleural_effusion", 0.14),
    ("heart.cardiomegaly", "heart.pericardial_effusion", 0.1),
    ("heart.cardiomegaly", "heart.coronary_calcification", 0.12),
    ("portal_vein.dilatation", "spleen.splenomegaly", 0.25),
    ("kidney.stone", "kidney.hydronephrosis", 0.2),
    ("colon.tumor", "colon.obstruction", 0.22),
    ("colon.tumor", "liver.tumor", 0.12),
    ("pancreas.tumor", "liver.tumor", 0.08),
    ("urinary_bladder.tumor", "kidney.hydronephrosis", 0.08),
)
"""(disease, another that it brings with it, with this chance)."""


def draw_diseases(seed: int, age: int, sex: Literal["M", "F"]) -> tuple[str, ...]:
    """Diseases of one patient by prevalence: older patients have more, some come in pairs, some have none."""
    rng = dice(seed, "diseases")
    if rng.random() < HEALTHY_SHARE:
        return ()
    factor = 1.0 + 0.006 * (age - 58)
    chances = np.array([PREVALENCE[key] for key in DISEASES]) * factor
    if sex == "F":
        chances[DISEASES.index("gallbladder.stone")] *= 1.15
    drawn = {key for key, hit in zip(DISEASES, rng.random(len(DISEASES)) < chances, strict=True) if hit}
    for cause, effect, chance in COMPANY:
        if rng.random() < chance and cause in drawn:
            drawn.add(effect)
    return tuple(key for key in DISEASES if key in drawn)


def draw_lesions(seed: int, body: Body, keys: Iterable[str]) -> tuple[Lesion, ...]:
    """Size, side and place of every disease named; those that change an organ's size first, then the focal ones.

    Raises ValueError for a key that no phantom can have.
    """
    wanted = frozenset(keys)
    every = (*DISEASES, *FURTHER_DISEASES)
    unknown = sorted(wanted - frozenset(every))
    if unknown:
        raise ValueError(f"no phantom disease {unknown[0]!r}; there are: {', '.join(every)}")
    lesions: list[Lesion] = []
    for key in DISEASES:
        if key in wanted and key in _DIFFUSE:
            lesions += _DIFFUSE[key](Start(dice(seed, key), body, frozenset(wanted)))
    if wanted - _DIFFUSE.keys() or wanted & organ_layout.MEASURED:
        organs = organ_layout.build(seed, body, tuple(lesions))
        lesions = [_measured(lesion, body, organs) for lesion in lesions]
        for key, place in (PLACERS | FURTHER).items():
            if key in wanted:
                lesions += place(Case(dice(seed, key), body, organs, tuple(lesions)))
    order = {key: index for index, key in enumerate(every)}
    return tuple(sorted(lesions, key=lambda lesion: order[lesion.key]))


@dataclass(frozen=True)
class Start:
    """What a disease without a place is drawn from: dice, the body, and the keys of all of the patient's diseases."""

    rng: np.random.Generator
    body: Body
    keys: frozenset[str]


Draw = Callable[[Start], list[Lesion]]


def _sides(rng: np.random.Generator, both: float) -> tuple[Side, ...]:
    if rng.random() < both:
        return ("right", "left")
    return ("right",) if rng.random() < 0.5 else ("left",)


def _one(key: str, low: float, high: float) -> Draw:
    """A disease with one size between `low` and `high` mm."""

    def draw(start: Start) -> list[Lesion]:
        severity = float(start.rng.uniform(0, 1))
        return [Lesion(key, size_mm=float(round(low + (high - low) * severity)), severity=severity)]

    return draw


def _by_side(key: str, low: float, high: float, both: float, location: str, hu: tuple[float, float]) -> Draw:
    """A disease of one or both sides."""

    def draw(start: Start) -> list[Lesion]:
        rng, found = start.rng, []
        value = float(rng.uniform(*hu))
        if key == "lung.atelectasis" and start.body.phase != "none":
            value += 30
        for side in _sides(rng, both):
            severity = float(rng.uniform(0, 1))
            size = float(round(low + (high - low) * severity))
            found.append(Lesion(key, side, location, size, severity, hu=value))
        return found

    return draw


def _measured(lesion: Lesion, body: Body, organs: Organs) -> Lesion:
    """The lesion with the size that the enlarged organ really has."""
    if lesion.key == "heart.cardiomegaly":
        low, high = organs.heart.bounds
        return replace(lesion, size_mm=float(round((high[0] - low[0]) * body.frame)))
    if lesion.key == "spleen.splenomegaly":
        low, high = organs.spleen.bounds
        return replace(lesion, size_mm=float(round((high[2] - low[2]) * body.stature)))
    return lesion


def _emphysema(start: Start) -> list[Lesion]:
    return [Lesion("lung.emphysema", "both", "upper lobes", 0.0, float(start.rng.uniform(0, 1)), hu=-990.0)]


def _pericardial(start: Start) -> list[Lesion]:
    severity = float(start.rng.uniform(0, 1))
    large = "heart.cardiomegaly" in start.keys
    size = round(6 + (2 if large else 8) * severity)
    return [Lesion("heart.pericardial_effusion", "", "", float(size), severity, hu=float(start.rng.uniform(2, 18)))]


def _steatosis(start: Start) -> list[Lesion]:
    severity = float(start.rng.uniform(0, 1))
    mild = {"none": 24.0, "arterial": 34.0, "portal": 58.0, "delayed": 46.0}[start.body.phase]
    return [Lesion("liver.steatosis", "", "", 0.0, severity, hu=mild - 26 * severity)]


def _stomach(start: Start) -> list[Lesion]:
    severity = float(start.rng.uniform(0, 1))
    where = str(start.rng.choice(["antrum", "body", "fundus", ""], p=[0.4, 0.2, 0.15, 0.25]))
    return [Lesion("stomach.wall_thickening", "", where, float(round(10 + 10 * severity)), severity)]


def _colon_obstruction(start: Start) -> list[Lesion]:
    severity = float(start.rng.uniform(0, 1))
    where = str(start.rng.choice(["sigmoid colon", "descending colon", "splenic flexure"], p=[0.55, 0.3, 0.15]))
    return [Lesion("colon.obstruction", "", where, float(round(60 + 16 * severity)), severity)]


_DIFFUSE: dict[str, Draw] = {
    "lung.emphysema": _emphysema,
    "lung.atelectasis": _by_side("lung.atelectasis", 10, 26, 0.4, "base", (25, 50)),
    "lung.pleural_effusion": _by_side("lung.pleural_effusion", 14, 50, 0.4, "", (2, 16)),
    "heart.cardiomegaly": _one("heart.cardiomegaly", 152, 176),
    "heart.pericardial_effusion": _pericardial,
    "esophagus.hiatal_hernia": _one("esophagus.hiatal_hernia", 34, 54),
    "liver.steatosis": _steatosis,
    "spleen.splenomegaly": _one("spleen.splenomegaly", 130, 165),
    "kidney.hydronephrosis": _by_side("kidney.hydronephrosis", 14, 32, 0.25, "", (0, 10)),
    "stomach.wall_thickening": _stomach,
    "portal_vein.dilatation": _one("portal_vein.dilatation", 17, 23),
    "small_intestine.obstruction": _one("small_intestine.obstruction", 32, 46),
    "colon.obstruction": _colon_obstruction,
}
"""Diseases that need no place: they change the size or the whole of an anatomy."""
