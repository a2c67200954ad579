"""Diseases that are only drawn when they are asked for by name: the bundled model does not know them.

They join the others where many diseases are wanted at once, as in the phantom benchmark. All are focal, within their
organ; patients drawn by prevalence never have them, so that a seed stays the patient it was.
"""

import numpy as np

from ct.phantom.patient import Body, Lesion
from ct.phantom.placing import Balls, Case, Place, inside, lesion_of, on_surface, sides_of, skewed
from ct.phantom.shapes import Beads, Shape

_LIVER_LOW, _LIVER_HIGH = (-122.0, -72.0, -105.0), (44.0, 74.0, 36.0)


def _taken(case: Case, anatomy: str, distance: float) -> list[tuple[Shape, float]]:
    """Keep so many mm from the lesions that the anatomy already has."""
    rules: list[tuple[Shape, float]] = []
    for lesion in case.lesions:
        if lesion.anatomy == anatomy and lesion.balls:
            points = np.array([case.body.from_patient((x, y, z)) for x, y, z, _ in lesion.balls])
            rules.append((Beads(points, np.array([r for *_, r in lesion.balls])), distance))
    return rules


def _liver_hu(body: Body, lesions: tuple[Lesion, ...]) -> float:
    fatty = next((lesion.hu for lesion in lesions if lesion.key == "liver.steatosis"), None)
    return fatty or {"none": 58.0, "arterial": 68.0, "portal": 108.0, "delayed": 90.0}[body.phase]


def _cirrhosis(case: Case) -> list[Lesion]:
    """Regenerative nodules all over the liver."""
    rng, organs = case.rng, case.organs
    severity = float(rng.random())
    keep = ((organs.liver, -4.0), (organs.liver_cut, -4.0), (organs.domes, -4.0))
    clear = _taken(case, "liver", 8.0)
    balls: Balls = []
    for _ in range(24 + int(30 * severity)):
        radius = float(rng.uniform(5, 9 + 2 * severity))
        balls.append((*inside(rng, _LIVER_LOW, _LIVER_HIGH, keep, clear), radius))
    hu = _liver_hu(case.body, case.lesions) + rng.uniform(24, 40)
    size = max(2 * r for *_, r in balls)
    return [lesion_of(case.body, "liver.cirrhosis", balls, hu, severity, size=size)]


def _liver_calcification(case: Case) -> list[Lesion]:
    rng, organs = case.rng, case.organs
    biggest, severity = skewed(rng, 4, 9, 1.2)
    keep = ((organs.liver, -biggest - 4), (organs.liver_cut, -biggest - 4), (organs.domes, -biggest - 4))
    balls: Balls = []
    for i in range(int(rng.choice([1, 2, 4], p=[0.5, 0.3, 0.2]))):
        radius = biggest if i == 0 else biggest * rng.uniform(0.5, 0.9)
        balls.append((*inside(rng, _LIVER_LOW, _LIVER_HIGH, keep, _taken(case, "liver", biggest + 3)), radius))
    where = "left hepatic lobe" if balls[0][0] > -28 else "right hepatic lobe"
    return [
        lesion_of(case.body, "liver.calcification", balls, rng.uniform(350, 800), severity, location=where),
    ]


def _spleen(key: str) -> Place:
    def place(case: Case) -> list[Lesion]:
        rng, spleen = case.rng, case.organs.spleen
        cyst = key == "spleen.cyst"
        biggest, severity = skewed(rng, 8, 20, 1.2) if cyst else skewed(rng, 3, 7, 1.2)
        count = 1 if cyst else int(rng.choice([1, 3, 6], p=[0.3, 0.4, 0.3]))
        low, high = spleen.bounds
        balls: Balls = []
        for i in range(count):
            radius = biggest if i == 0 else biggest * rng.uniform(0.5, 0.9)
            keep = ((spleen, -0.6 * radius - 2),)
            balls.append((*inside(rng, low, high, keep, _taken(case, "spleen", radius + 2)), radius))
        hu = rng.uniform(0, 12) if cyst else rng.uniform(400, 900)
        return [lesion_of(case.body, key, balls, hu, severity, location="single" if count == 1 else "multiple")]

    return place


def _gallbladder_cancer(case: Case) -> list[Lesion]:
    """A soft mass that grows from the wall into the lumen."""
    rng, gall = case.rng, case.organs.gallbladder
    radius, severity = skewed(rng, 8, 16, 1.1)
    ray = rng.normal(0, 1, 3)
    ray *= 40 / np.linalg.norm(ray)
    x, y, z = (float(v) for v in on_surface(gall, np.array(gall.centre), ray, -0.5 * radius))
    hu = rng.uniform(42, 60) if case.body.phase == "none" else rng.uniform(70, 105)
    return [lesion_of(case.body, "gallbladder.cancer", [(x, y, z, radius)], hu, severity)]


def _angiomyolipoma(case: Case) -> list[Lesion]:
    rng, found = case.rng, []
    for side in sides_of(rng, both=0.15):
        kidney = case.organs.kidneys[0 if side == "left" else 1]
        radius, severity = skewed(rng, 8, 18, 1.2)
        up, angle = rng.uniform(-0.8, 0.8), rng.uniform(-1.3, 1.0)
        ray = np.array([(1 if side == "left" else -1) * 40 * np.cos(angle), 40 * np.sin(angle), 60 * up])
        centre = np.array(kidney.outer.centre)
        x, y, z = (float(v) for v in on_surface(kidney.outer, centre, ray, -0.6 * radius))
        pole = "upper pole" if up > 0.3 else "lower pole" if up < -0.3 else "interpolar region"
        balls: Balls = [(x, y, z, radius)]
        hu = rng.uniform(-80, -45)
        found.append(lesion_of(case.body, "kidney.angiomyolipoma", balls, hu, severity, side=side, location=pole))
    return found


def _adrenal_calcification(case: Case) -> list[Lesion]:
    rng, found = case.rng, []
    for side in sides_of(rng, both=0.3):
        gland = case.organs.adrenals[0 if side == "left" else 1]
        radius, severity = skewed(rng, 3.5, 6.5, 1.1)
        balls: Balls = []
        for _ in range(2):
            x, y, z = (float(v) for v in gland.points[int(rng.integers(len(gland.radii)))])
            balls.append((x, y, z, radius))
        hu = rng.uniform(400, 900)
        found.append(lesion_of(case.body, "adrenal_gland.calcification", balls, hu, severity, side=side))
    return found


FURTHER: dict[str, Place] = {
    "liver.cirrhosis": _cirrhosis,
    "liver.calcification": _liver_calcification,
    "gallbladder.cancer": _gallbladder_cancer,
    "spleen.cyst": _spleen("spleen.cyst"),
    "spleen.calcification": _spleen("spleen.calcification"),
    "kidney.angiomyolipoma": _angiomyolipoma,
    "adrenal_gland.calcification": _adrenal_calcification,
}
"""How each of them finds its place."""
