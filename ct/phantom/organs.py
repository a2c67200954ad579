"""Where the labelled organs of one patient lie: shapes in body coordinates.

Unscaled mm, x to the Left, y to Posterior, z to Superior.

The origin is the middle of the trunk at the height of the diaphragm's domes; the apex of the lungs is near z = 255,
the pelvic floor near z = -300. Diseases that change the size of an organ act here.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ct.phantom import bowel
from ct.phantom.bowel import Loop
from ct.phantom.patient import Body, Lesion, dice, find
from ct.phantom.shapes import (
    Beads,
    Column,
    Ellipsoid,
    FloatArray,
    HalfSpace,
    Shape,
    Union,
    column,
    path,
    string,
    tube,
)


@dataclass(frozen=True)
class Kidney:
    """One kidney: outside, central sinus, and how far the collecting system is dilated (0: not)."""

    outer: Ellipsoid
    medulla: Ellipsoid
    sinus: Ellipsoid
    calyces: Beads
    dilated: float


@dataclass(frozen=True)
class Organs:
    """All labelled organs of one patient."""

    cage: Column
    domes: Union
    heart: Union
    ventricle: Ellipsoid
    esophagus: Column
    hernia: Ellipsoid | None
    liver: Union
    liver_cut: HalfSpace
    gallbladder: Ellipsoid
    pancreas: Beads
    spleen: Ellipsoid
    kidneys: tuple[Kidney, Kidney]
    """Left, right."""
    adrenals: tuple[Beads, Beads]
    """Left, right."""
    stomach: Loop
    portal_vein: Union
    small_bowel: tuple[Loop, ...]
    colon: tuple[Loop, ...]
    colon_curve: FloatArray
    """Centre line and radius of the colon [n, 4], from cecum to rectum."""
    bladder: Ellipsoid
    sacrum: Column


CAGE_INSET = 10.0
"""Thickness of the chest wall's ribs: the pleura lies this far inside of the cage, mm."""


def build(seed: int, body: Body, lesions: tuple[Lesion, ...]) -> Organs:
    """Lay out one patient's organs (cached for the last few)."""
    wide = (lesion for lesion in lesions if not lesion.balls)
    key = tuple(replace(lesion, size_mm=0.0) if lesion.key in MEASURED else lesion for lesion in wide)
    return _build(seed, body, key)


MEASURED = frozenset({"heart.cardiomegaly", "spleen.splenomegaly"})
"""Their size in mm follows from the organ that is drawn, not the other way round."""


@lru_cache(maxsize=8)
def _build(seed: int, body: Body, lesions: tuple[Lesion, ...]) -> Organs:
    lift = 5.0 * -body.inspiration
    rng = dice(seed, "organs")
    heart, ventricle = _heart(seed, lesions)
    colon, curve = bowel.colon(seed, lesions)
    hernia = find(lesions, "esophagus.hiatal_hernia")
    size = rng.uniform(0.96, 1.09)
    jx, jy = rng.uniform(-3, 3, 2)
    return Organs(
        cage=_cage(rng.uniform(0.96, 1.03)),
        domes=Union(
            (
                Ellipsoid((-68, 5, -75 + lift), (74, 94, 108)),
                Ellipsoid((66, 5, -84 + lift), (72, 92, 104)),
                Ellipsoid((0, -12, -80 + lift), (92, 88, 92)),
            ),
            blend=12,
        ),
        heart=heart,
        ventricle=ventricle,
        esophagus=column(
            (268, 2, 26, 8, 6.5),
            (200, 4, 24, 8.5, 6.5),
            (130, 5, 30, 9, 6.5),
            (60, 10, 30, 9.5, 7.5),
            (25, 16, 22, 10, 8.5),
            (2, 30, 14, 11, 10),
        ),
        hernia=None
        if hernia is None
        else Ellipsoid((15, 22, 32), (hernia.size_mm * 0.5, hernia.size_mm * 0.46, hernia.size_mm * 0.5)),
        liver=Union(
            (
                Ellipsoid((-66 + jx, 3, -36 + lift), (61 * size, 76 * size, 72 * size)),
                Ellipsoid((-4, -40 + jy, -18 + lift), (66 * size, 36, 36 * size), (-8, 0, 12)),
                Ellipsoid((-52, 0, -20 + lift), (48, 52, 48)),
            ),
            blend=22,
        ),
        liver_cut=HalfSpace((0.42, 0.10, -0.902), 48.0 * size - 0.7 * lift),
        gallbladder=Ellipsoid(
            (-46 + jx, -46 + jy, -80 + lift),
            (15 * rng.uniform(0.8, 1.15), 17 * rng.uniform(0.8, 1.15), 31 * rng.uniform(0.8, 1.15)),
            (10, -24, 12),
        ),
        pancreas=_pancreas(seed),
        spleen=_spleen(seed, lesions, lift),
        kidneys=(_kidney(seed, lesions, "left"), _kidney(seed, lesions, "right")),
        adrenals=_adrenals(seed),
        stomach=bowel.stomach(seed, lesions),
        portal_vein=_portal_vein(seed, lesions),
        small_bowel=bowel.small_bowel(seed, lesions),
        colon=colon,
        colon_curve=curve,
        bladder=_bladder(seed),
        sacrum=column(
            (-160, 0, 58, 40, 14),
            (-172, 0, 64, 54, 20),
            (-190, 0, 74, 52, 19),
            (-212, 0, 86, 42, 16),
            (-235, 0, 93, 30, 12),
            (-255, 0, 92, 18, 9),
            (-270, 0, 84, 9, 6),
            power=2.4,
        ),
    )


def _cage(width: float) -> Column:
    w = width
    return column(
        (270, 0, 12, 44 * w, 34),
        (255, 0, 10, 66 * w, 48),
        (225, 0, 6, 92 * w, 70),
        (180, 0, 2, 115 * w, 88),
        (120, 0, 0, 131 * w, 97),
        (50, 0, 0, 139 * w, 100),
        (0, 0, 0, 139 * w, 99),
        (-45, 0, 2, 134 * w, 93),
        (-95, 0, 4, 128 * w, 86),
        power=2.3,
        smooth=24,
    )


def _heart(seed: int, lesions: tuple[Lesion, ...]) -> tuple[Union, Ellipsoid]:
    rng = dice(seed, "heart")
    s = rng.uniform(0.9, 1.04)
    enlarged = find(lesions, "heart.cardiomegaly")
    if enlarged is not None:
        s = 1.16 + 0.11 * enlarged.severity
    jx, jy, jz = rng.uniform(-3, 3, 3)
    cx, cy, cz = 24 + jx + 10 * (s - 1), -32 + jy, 65 + jz + 16 * (s - 1)
    angles = (-28.0, -6.0, 24.0)
    whole = Union(
        (
            Ellipsoid((cx + 2, cy, cz), (67 * s, 47 * s, 46 * s), angles),
            Ellipsoid((cx - 20 * s, cy + 26 * s, cz + 24 * s), (40 * s, 27 * s, 34 * s)),
            Ellipsoid((cx - 40 * s, cy + 4, cz + 14 * s), (28 * s, 36 * s, 40 * s)),
        ),
        blend=16,
    )
    ventricle = Ellipsoid((cx + 18 * s, cy - 2, cz - 6 * s), (36 * s, 22 * s, 21 * s), angles)
    return whole, ventricle


def _spleen(seed: int, lesions: tuple[Lesion, ...], lift: float) -> Ellipsoid:
    rng = dice(seed, "spleen")
    s = rng.uniform(0.8, 1.04)
    large = find(lesions, "spleen.splenomegaly")
    if large is not None:
        s = 1.32 + 0.32 * large.severity
    jx, jy, jz = rng.uniform(-3, 3, 3)
    more = max(s - 1, 0)
    return Ellipsoid(
        (94 + jx - 22 * more, 36 + jy - 26 * more, -26 + jz + lift - 55 * more),
        (27 * s, 45 * s, 50 * s),
        (18, 14, -10),
    )


def _kidney(seed: int, lesions: tuple[Lesion, ...], side: str) -> Kidney:
    rng = dice(seed, f"kidney {side}")
    sign = 1 if side == "left" else -1
    s = rng.uniform(0.88, 1.08)
    jx, jy, jz = rng.uniform(-4, 4, 3)
    dilated = find(lesions, "kidney.hydronephrosis", side)
    degree = 0.0 if dilated is None else 0.35 + 0.65 * dilated.severity
    grown = s * (1 + 0.08 * degree)
    cx, cy, cz = sign * 64 + jx, 48 + jy, (-84 if side == "left" else -98) + jz
    angles = (sign * 30.0, 10.0, sign * 9.0)
    sinus_x = cx - sign * 11 * s * (1 - 0.35 * degree)
    up = np.array([-9, -28, -17, 0, 17, 28], dtype=float) * s
    calyces = np.stack(
        [
            np.full(6, sinus_x) + sign * np.array([-5, 5, 9, 10, 9, 5]) * s,
            cy + np.array([-8, 1, -3, 3, -3, 1]) * s,
            cz + up,
        ],
        axis=1,
    )
    return Kidney(
        Ellipsoid((cx, cy, cz), (28 * grown, 27 * grown, 53 * s), angles),
        Ellipsoid((cx - sign * 3, cy, cz), (20 * s, 19 * s, 43 * s), angles),
        Ellipsoid(
            (sinus_x, cy - 2, cz),
            (8 * s + 11 * degree, 10 * s + 10 * degree, 24 * s + 12 * degree),
            angles,
        ),
        Beads(calyces, np.full(6, 4.0 + 6.5 * degree)),
        degree,
    )


def _adrenals(seed: int) -> tuple[Beads, Beads]:
    both = []
    for sign, cx, cy, cz in ((1, 38.0, 29.0, -34.0), (-1, -30.0, 35.0, -40.0)):
        rng = dice(seed, f"adrenal {sign}")
        jx, jy, jz = rng.uniform(-3, 3, 3)
        x, y, z, r = cx + jx, cy + jy, cz + jz, rng.uniform(3.6, 4.8)
        medial = tube((x, y - 8, z + 16, r), (x, y, z, r), (x - sign * 6, y + 13, z - 12, r * 0.8), step=0.9)
        lateral = tube((x, y - 2, z + 4, r), (x + sign * 11, y + 13, z - 12, r * 0.8), step=0.9)
        both.append(
            Beads(np.concatenate([medial.points, lateral.points]), np.concatenate([medial.radii, lateral.radii]))
        )
    return both[0], both[1]


def _pancreas(seed: int) -> Beads:
    rng = dice(seed, "pancreas")
    s = rng.uniform(0.88, 1.14)
    jx, jy, jz = rng.uniform(-4, 4, 3)
    knots = np.array(
        [
            (-26, -2, -108, 11 * s),
            (-27, -6, -90, 14 * s),
            (-12, -20, -78, 10 * s),
            (14, -26, -68, 10 * s),
            (42, -8, -60, 11 * s),
            (64, 14, -52, 11 * s),
            (80, 26, -46, 8 * s),
        ]
    )
    knots[:, :3] += (jx, jy, jz)
    curve = path(knots, 18)
    curve[:, 3] *= 1 + 0.1 * np.sin(np.arange(len(curve)) / rng.uniform(2.5, 4) + rng.uniform(0, 6))
    return string(curve, 0.5)


def _portal_vein(seed: int, lesions: tuple[Lesion, ...]) -> Union:
    rng = dice(seed, "portal vein")
    jx, jy, jz = rng.uniform(-2, 2, 3)
    r = rng.uniform(5.2, 6.6)
    wide = find(lesions, "portal_vein.dilatation")
    if wide is not None:
        r = wide.size_mm / 2
    trunk = tube(
        (-14 + jx, -6 + jy, -84 + jz, 0.9 * r),
        (-18 + jx, -7 + jy, -70 + jz, r),
        (-36, -10 + jy, -54 + jz, r),
        (-54, -8, -44 + jz, 0.95 * r),
        (-76, -2, -40, 0.55 * r),
    )
    left = tube((-50, -10, -44 + jz, 0.7 * r), (-34, -24, -34, 0.55 * r), (-26, -44, -26, 0.4 * r))
    splenic = tube(
        (-15 + jx, -6 + jy, -74 + jz, 0.8 * r),
        (14, -12, -64, 0.75 * r),
        (44, 8, -56, 0.7 * r),
        (70, 28, -48, 0.65 * r),
        (84, 34, -40, 0.6 * r),
    )
    return Union((trunk, left, splenic), blend=3)


def _bladder(seed: int) -> Ellipsoid:
    rng = dice(seed, "bladder")
    s = rng.uniform(0.74, 1.1)
    jx, jy = rng.uniform(-3, 3, 2)
    return Ellipsoid((jx, -34 + jy, -284 + 37 * s), (43 * s, 35 * s, 35 * s), (0, 8, 0))


def lung_side(side: str) -> Shape:
    """Everything left or right of the midline."""
    sign = -1.0 if side == "left" else 1.0
    return HalfSpace((sign, 0, 0), 0.0)
