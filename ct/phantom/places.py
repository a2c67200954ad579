"""The focal diseases, each with its own idea of where it grows, how large and how dense."""

import numpy as np

from ct.phantom.organs import CAGE_INSET, Organs
from ct.phantom.patient import Body, Lesion, Point, Side
from ct.phantom.placing import Balls, Case, Place, inside, lesion_of, on_surface, side_of, sides_of, skewed
from ct.phantom.shapes import Beads, Shape


def _lobe(point: Point) -> str:
    x, y, z = point
    if x < 0:
        if z > 135:
            return "right upper lobe"
        return "right middle lobe" if y < -22 else "right lower lobe"
    if z > 125:
        return "left upper lobe"
    return "lingula" if y < -30 else "left lower lobe"


def _lung_point(rng: np.random.Generator, organs: Organs, radius: float, sign: float) -> Point:
    low, high = sorted((sign * 40.0, sign * 122.0))
    return inside(
        rng,
        (low, -80.0, 0.0),
        (high, 80.0, 222.0),
        ((organs.cage, -CAGE_INSET - 0.9 * radius),),
        ((organs.domes, radius + 2), (organs.heart, radius + 5)),
    )


def _lung_nodule(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    found = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.68, 0.2, 0.12]))):
        radius, severity = skewed(rng, 4, 15, 1.3)
        centre = _lung_point(rng, organs, radius, 1.0 if rng.random() < 0.5 else -1.0)
        balls = [(*centre, radius)]
        hu = rng.uniform(15, 60)
        found.append(
            lesion_of(body, "lung.nodule", balls, hu, severity, side=side_of(centre[0]), location=_lobe(centre))
        )
    return found


def _consolidation(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    found = []
    signs = [1.0, -1.0] if rng.random() < 0.3 else [1.0 if rng.random() < 0.5 else -1.0]
    for sign in signs:
        radius, severity = skewed(rng, 17, 34, 1.2)
        centre = _lung_point(rng, organs, 14, sign)
        balls: Balls = [(*centre, radius)]
        for _ in range(int(rng.integers(2, 6))):
            dx, dy, dz = rng.normal(0, 0.75 * radius, 3)
            balls.append((centre[0] + dx * 0.7, centre[1] + dy, centre[2] + dz, radius * rng.uniform(0.45, 0.85)))
        size = 2.6 * radius
        found.append(
            lesion_of(
                body, "lung.consolidation", balls, rng.uniform(5, 40), severity,
                side=side_of(centre[0]), location=_lobe(centre), size=size,
            )
        )  # fmt: skip
    return found


def _coronary(case: Case) -> list[Lesion]:
    """Calcified plaques along the three arteries on the surface of the heart."""
    rng, body, organs = case.rng, case.body, case.organs
    severity = float(rng.random())
    main = organs.heart.parts[0]
    low, high = main.bounds
    centre, half = (np.array(low) + np.array(high)) / 2, (np.array(high) - np.array(low)) / 2
    arteries = {
        "left anterior descending artery": [(0.05, -0.55, 0.62), (0.35, -0.72, 0.3), (0.62, -0.62, -0.1)],
        "circumflex artery": [(0.1, -0.1, 0.85), (0.5, 0.15, 0.62), (0.72, 0.3, 0.2)],
        "right coronary artery": [(-0.3, -0.62, 0.5), (-0.62, -0.62, 0.1), (-0.6, -0.35, -0.4)],
    }
    names = list(arteries)
    count = 1 + int(severity * 2.4)
    chosen = [names[0], *[str(n) for n in rng.permutation(names[1:])]][:count]
    balls: Balls = []
    for name in chosen:
        knots = np.array(arteries[name])
        for t in np.sort(rng.uniform(0, 1.6, 4 + int(4 * severity))):
            direction = np.array([np.interp(t, [0, 1, 2], knots[:, k]) for k in range(3)])
            x, y, z = (float(v) for v in on_surface(organs.heart, centre, direction * half, -3.5))
            balls.append((x, y, z, float(rng.uniform(2.2, 2.8 + 1.2 * severity))))
    return [
        lesion_of(
            body, "heart.coronary_calcification", balls, rng.uniform(650, 1200), severity,
            location=" and ".join(sorted(chosen)) if count < 3 else "all three coronary arteries",
        )
    ]  # fmt: skip


def _liver(key: str) -> Place:
    def place(case: Case) -> list[Lesion]:
        rng, body, organs = case.rng, case.body, case.organs
        cyst = key == "liver.cyst"
        liver_hu = _liver_hu(body, case.lesions)
        found: list[Lesion] = []
        for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.55, 0.22, 0.13, 0.1]))):
            radius, severity = skewed(rng, 5, 30) if cyst else skewed(rng, 7, 38)
            taken = [
                (_ball_of(body, other), radius + 3)
                for other in [*case.lesions, *found]
                if other.anatomy == "liver" and other.balls
            ]
            x, y, z = inside(
                rng,
                (-122, -72, -105),
                (44, 74, 36),
                (
                    (organs.liver, -0.7 * radius - 3),
                    (organs.liver_cut, -0.5 * radius - 4),
                    (organs.domes, -0.6 * radius - 3),
                    (organs.cage, -CAGE_INSET - 3 - 0.6 * radius),
                ),
                (
                    (organs.kidneys[1].outer, 0.6 * radius + 3),
                    (organs.gallbladder, 0.6 * radius + 3),
                    (organs.stomach.wall, 0.6 * radius + 3),
                    *((loop.wall, 0.5 * radius + 2) for loop in organs.colon[:6]),
                    *taken,
                ),
            )
            lobe = "left hepatic lobe" if x > -28 else "right hepatic lobe"
            if cyst:
                hu = rng.uniform(0, 12)
            elif liver_hu < 35:
                hu = liver_hu + rng.uniform(26, 40)
            elif body.phase == "arterial" and rng.random() < 0.5:
                hu = liver_hu + rng.uniform(30, 50)
            else:
                hu = max(liver_hu - rng.uniform(24, 44), 26)
            found.append(lesion_of(body, key, [(x, y, z, radius)], hu, severity, location=lobe))
        return found

    return place


def _liver_hu(body: Body, lesions: tuple[Lesion, ...]) -> float:
    for lesion in lesions:
        if lesion.key == "liver.steatosis":
            return lesion.hu
    return {"none": 58.0, "arterial": 68.0, "portal": 108.0, "delayed": 90.0}[body.phase]


def _ball_of(body: Body, lesion: Lesion) -> Shape:
    points = np.array([body.from_patient((x, y, z)) for x, y, z, _ in lesion.balls])
    return Beads(points, np.array([r for *_, r in lesion.balls]))


def _gallstone(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    gall = organs.gallbladder
    biggest, severity = skewed(rng, 3, 8, 1.2)
    balls: Balls = []
    for i in range(int(rng.choice([1, 2, 3, 5], p=[0.45, 0.2, 0.2, 0.15]))):
        radius = biggest if i == 0 else biggest * rng.uniform(0.55, 0.95)
        (lx, ly, lz), (hx, hy, hz) = gall.bounds
        x, y, z = inside(
            rng, (lx, 0.4 * ly + 0.6 * hy, lz), (hx, hy, 0.6 * hz + 0.4 * lz), ((gall, -radius * 0.85 - 1.5),), ()
        )
        balls.append((x, y, z, radius))
    return [lesion_of(body, "gallbladder.stone", balls, rng.uniform(160, 800), severity, location=_many(balls))]


def _many(balls: Balls) -> str:
    return "single" if len(balls) == 1 else "multiple"


def _pancreas(key: str) -> Place:
    def place(case: Case) -> list[Lesion]:
        rng, body, organs = case.rng, case.body, case.organs
        cyst = key == "pancreas.cyst"
        radius, severity = skewed(rng, 6, 18) if cyst else skewed(rng, 9, 20)
        ranges = {"head": (0.02, 0.28), "body": (0.42, 0.66), "tail": (0.78, 0.97)}
        taken = [lesion.location for lesion in case.lesions if lesion.anatomy == "pancreas"]
        parts = [name for name in ranges if name not in taken]
        name = str(rng.choice(parts))
        at = int(rng.uniform(*ranges[name]) * len(organs.pancreas.radii))
        x, y, z = (float(v) for v in organs.pancreas.points[at] + rng.uniform(-4, 4, 3))
        base = {"none": 40.0, "arterial": 98.0, "portal": 90.0, "delayed": 70.0}[body.phase]
        hu = rng.uniform(0, 14) if cyst else (base - rng.uniform(26, 42) if base > 60 else base - rng.uniform(13, 19))
        balls: Balls = [(x, y, z, radius)]
        if not cyst:
            dx, dy, dz = rng.uniform(-0.6, 0.6, 3) * radius
            balls.append((x + dx, y + dy, z + dz, 0.7 * radius))
        return [lesion_of(body, key, balls, hu, severity, location=name)]

    return place


def _kidney_cyst(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    found = []
    sides = sides_of(rng, both=0.25)
    for side in sides:
        kidney = organs.kidneys[0 if side == "left" else 1]
        sign = 1.0 if side == "left" else -1.0
        for _ in range(int(rng.choice([1, 2], p=[0.75, 0.25]))):
            radius, severity = skewed(rng, 6, 28)
            up = rng.uniform(-0.8, 0.8)
            angle = rng.uniform(-1.3, 1.0)
            ray = np.array([sign * 40 * np.cos(angle), 40 * np.sin(angle), 60 * up])
            x, y, z = (
                float(v) for v in on_surface(kidney.outer, np.array(kidney.outer.centre), ray, -0.25 * radius - 1)
            )
            pole = "upper pole" if up > 0.3 else "lower pole" if up < -0.3 else "interpolar region"
            hu = rng.uniform(-2, 12)
            found.append(lesion_of(body, "kidney.cyst", [(x, y, z, radius)], hu, severity, side=side, location=pole))
    return found


_CALYCES = ("renal pelvis", "lower pole", "lower pole", "interpolar region", "upper pole", "upper pole")
"""What the places of `Kidney.calyces` are called."""


def _kidney_stone(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    found = []
    sides = sides_of(rng, both=0.2)
    for side in sides:
        kidney = organs.kidneys[0 if side == "left" else 1]
        count = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
        biggest, severity = skewed(rng, 2.8, 8, 1.2)
        order = rng.permutation(len(kidney.calyces.points))
        balls: Balls = []
        for i in range(count):
            x, y, z = (float(v) for v in kidney.calyces.points[order[i]])
            balls.append((x, y, z, biggest if i == 0 else biggest * rng.uniform(0.6, 0.95)))
        where = _CALYCES[int(order[0])]
        hu = rng.uniform(650, 1400)
        found.append(lesion_of(body, "kidney.stone", balls, hu, severity, side=side, location=where))
    return found


def _adrenal(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    found = []
    sides = sides_of(rng, both=0.12)
    for side in sides:
        gland = organs.adrenals[0 if side == "left" else 1]
        radius, severity = skewed(rng, 7, 16, 1.2)
        at = int(rng.integers(len(gland.radii)))
        x, y, z = (float(v) for v in gland.points[at] * 0.6 + gland.points.mean(axis=0) * 0.4)
        hu = rng.uniform(-5, 32) if body.phase == "none" or rng.random() < 0.4 else rng.uniform(40, 80)
        found.append(
            lesion_of(body, "adrenal_gland.nodule", [(x, y, z + 4, radius)], hu, severity, side=side, location="")
        )
    return found


_COLON_PARTS = (
    (0.1, "cecum"),
    (0.22, "ascending colon"),
    (0.28, "hepatic flexure"),
    (0.46, "transverse colon"),
    (0.54, "splenic flexure"),
    (0.72, "descending colon"),
    (0.88, "sigmoid colon"),
    (1.0, "rectum"),
)


def _colon_tumor(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    fraction = float(rng.choice([rng.uniform(0.03, 0.2), rng.uniform(0.3, 0.62), rng.uniform(0.66, 0.94)]))
    for lesion in case.lesions:
        if lesion.key == "colon.obstruction":
            fraction = {"sigmoid colon": 0.78, "descending colon": 0.63, "splenic flexure": 0.51}[lesion.location]
    x, y, z, caliber = (float(v) for v in organs.colon_curve[int(fraction * (len(organs.colon_curve) - 1))])
    radius, severity = skewed(rng, 13, 25, 1.1)
    dx, dy, dz = rng.uniform(-1, 1, 3) * 0.35 * caliber
    balls: Balls = [(x + dx, y + dy, z + dz, radius)]
    for _ in range(2):
        ex, ey, ez = rng.uniform(-0.6, 0.6, 3) * radius
        balls.append((x + ex, y + ey, z + ez, radius * rng.uniform(0.55, 0.8)))
    where = next(name for limit, name in _COLON_PARTS if fraction <= limit)
    hu = rng.uniform(36, 55) if body.phase == "none" else rng.uniform(65, 100)
    return [lesion_of(body, "colon.tumor", balls, hu, severity, location=where)]


def _bladder_stone(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    cx, cy, cz = organs.bladder.centre
    rx, ry, rz = organs.bladder.radii
    biggest, severity = skewed(rng, 3, 12, 1.3)
    balls: Balls = []
    for i in range(int(rng.choice([1, 2, 3], p=[0.65, 0.2, 0.15]))):
        radius = biggest if i == 0 else biggest * rng.uniform(0.5, 0.9)
        x, z = cx + rng.uniform(-0.4, 0.4) * rx, cz + rng.uniform(-0.4, 0.1) * rz
        depth = np.sqrt(max(0.1, 1 - ((x - cx) / rx) ** 2 - ((z - cz) / rz) ** 2))
        balls.append((float(x), float(cy + ry * depth - radius - 4.5), float(z), radius))
    return [lesion_of(body, "urinary_bladder.stone", balls, rng.uniform(400, 1200), severity, location=_many(balls))]


def _bladder_tumor(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    walls = {
        "left lateral wall": (1.0, 0.1, 0.1),
        "right lateral wall": (-1.0, 0.1, 0.1),
        "posterior wall": (0.15, 1.0, 0.2),
        "dome": (0.1, 0.0, 1.0),
        "anterior wall": (-0.1, -1.0, 0.1),
    }
    name = str(rng.choice(list(walls)))
    radius, severity = skewed(rng, 7, 19, 1.2)
    ray = np.array(walls[name]) * 40 + rng.uniform(-9, 9, 3)
    x, y, z = (float(v) for v in on_surface(organs.bladder, np.array(organs.bladder.centre), ray, -0.55 * radius))
    balls: Balls = [(x, y, z, radius)]
    dx, dy, dz = rng.uniform(-0.5, 0.5, 3) * radius
    balls.append((x + dx, y + dy, z + dz, 0.65 * radius))
    hu = rng.uniform(38, 55) if body.phase == "none" else rng.uniform(60, 95)
    return [lesion_of(body, "urinary_bladder.tumor", balls, hu, severity, location=name)]


def _sacrum(case: Case) -> list[Lesion]:
    rng, body, organs = case.rng, case.body, case.organs
    found = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        radius, severity = skewed(rng, 7, 17, 1.2)
        x, y, z = inside(rng, (-42, 56, -225), (42, 104, -168), ((organs.sacrum, -6.0),), ())
        where = "sacral ala" if abs(x) > 20 else "sacral body"
        side: Side = side_of(x) if abs(x) > 20 else ""
        level = int(np.clip(1 + (-172 - z) // 16, 1, 4))
        location = f"{where} at S{level}"
        hu = rng.uniform(620, 950)
        found.append(
            lesion_of(body, "sacrum.metastasis", [(x, y, z, radius)], hu, severity, side=side, location=location)
        )
    return found


PLACERS: dict[str, Place] = {
    "lung.nodule": _lung_nodule,
    "lung.consolidation": _consolidation,
    "heart.coronary_calcification": _coronary,
    "liver.cyst": _liver("liver.cyst"),
    "liver.tumor": _liver("liver.tumor"),
    "gallbladder.stone": _gallstone,
    "pancreas.cyst": _pancreas("pancreas.cyst"),
    "pancreas.tumor": _pancreas("pancreas.tumor"),
    "kidney.cyst": _kidney_cyst,
    "kidney.stone": _kidney_stone,
    "adrenal_gland.nodule": _adrenal,
    "colon.tumor": _colon_tumor,
    "urinary_bladder.stone": _bladder_stone,
    "urinary_bladder.tumor": _bladder_tumor,
    "sacrum.metastasis": _sacrum,
}
"""How each focal disease finds its place."""
