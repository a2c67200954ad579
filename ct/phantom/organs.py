"""Where the labelled organs of one patient lie: shapes in body coordinates (unscaled mm, x Left, y Posterior, z Superior).

The origin is the middle of the trunk at the height of the diaphragm's domes; the apex of the lungs is near z = 255,
the pelvic floor near z = -300. Diseases that change the size of an organ act here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ct.phantom.patient import Body, Lesion, dice
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
class Loop:
    """A piece of bowel: its outside, its lumen and what is in it."""

    wall: Beads
    lumen: Beads
    content_hu: float
    gas_above: float
    """Gas lies where y is smaller (more anterior) than this, mm."""


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


def find(lesions: Iterable[Lesion], key: str, side: str | None = None) -> Lesion | None:
    """The first lesion of a key (on a side: there or on both)."""
    for lesion in lesions:
        if lesion.key == key and (side is None or lesion.side in (side, "both")):
            return lesion
    return None


def build(seed: int, body: Body, lesions: tuple[Lesion, ...]) -> Organs:
    """Lay out one patient's organs (cached for the last few)."""
    return _build(seed, body, tuple(replace(le, size_mm=0.0) if le.key in _MEASURED else le for le in lesions if not le.balls))


_MEASURED = frozenset({"heart.cardiomegaly", "spleen.splenomegaly"})
"""Their size in mm follows from the organ that is drawn, not the other way round."""


@lru_cache(maxsize=8)
def _build(seed: int, body: Body, lesions: tuple[Lesion, ...]) -> Organs:
    lift = 5.0 * -body.inspiration
    rng = dice(seed, "organs")
    heart, ventricle = _heart(seed, lesions)
    colon, curve = _colon(seed, lesions)
    hernia = find(lesions, "esophagus.hiatal_hernia")
    size = rng.uniform(0.96, 1.09)
    jx, jy, jz = rng.uniform(-3, 3, 3)
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
        stomach=_stomach(seed, lesions),
        portal_vein=_portal_vein(seed, lesions),
        small_bowel=_small_bowel(seed, lesions),
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
        s = 1.28 + 0.34 * large.severity
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
            np.full(6, sinus_x) + sign * np.array([-16, 5, 9, 10, 9, 5]) * s,
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
    for sign, cx, cy, cz in ((1, 38.0, 29.0, -34.0), (-1, -34.0, 32.0, -40.0)):
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


def _stomach(seed: int, lesions: tuple[Lesion, ...]) -> Loop:
    rng = dice(seed, "stomach")
    s = rng.uniform(0.85, 1.12)
    jx, jy, jz = rng.uniform(-4, 4, 3)
    curve = path(
        np.array(
            [
                (52 + jx, 12 + jy, 2 + jz, 24 * s),
                (58 + jx, 4 + jy, -12 + jz, 32 * s),
                (64 + jx, -26 + jy, -30 + jz, 29 * s),
                (52 + jx, -48 + jy, -58 + jz, 25 * s),
                (18 + jx, -56 + jy, -78 + jz, 20 * s),
                (-12, -48, -82, 14 * s),
                (-24, -40, -84, 10 * s),
            ]
        ),
        22,
    )
    thick = find(lesions, "stomach.wall_thickening")
    wall = rng.uniform(3.0, 4.2)
    thickness = np.full(len(curve), wall)
    if thick is not None:
        along = np.linspace(0, 1, len(curve))
        centre, width = {"antrum": (0.85, 0.3), "body": (0.5, 0.35), "fundus": (0.12, 0.35)}.get(
            thick.location, (0.5, 2.0)
        )
        thickness += (thick.size_mm - wall) * np.exp(-(((along - centre) / width) ** 2) * 1.4)
        curve[:, 3] = np.maximum(curve[:, 3], 0.55 * thickness + 8)
    lumen = curve.copy()
    lumen[:, 3] = np.maximum(curve[:, 3] - thickness, 2.0)
    content = float(rng.choice([8.0, 18.0, 30.0, 45.0]))
    level = float((curve[:, 1] - curve[:, 3]).min() + rng.uniform(5, 42))
    return Loop(string(curve, 0.4), string(lumen, 0.5), content, level)


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


def _pieces(
    curve: FloatArray, wall: float, every: float, contents: FloatArray, gas: FloatArray
) -> tuple[Loop, ...]:
    """Cut a bowel into loops of about `every` mm; content HU and gas fraction of each from the two tables."""
    count = max(1, round(len(curve) / every))
    edges = np.linspace(0, len(curve), count + 1).astype(int)
    loops = []
    for i, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        lumen = curve[max(0, start - 12) : stop].copy()
        lumen[:, 3] = np.maximum(lumen[:, 3] - wall, 1.5)
        piece = curve[start:stop]
        top = float((piece[:, 1] - piece[:, 3]).min())
        level = top + gas[i % gas.size] * 2 * float(piece[:, 3].mean())
        loops.append(Loop(string(piece, 0.65), string(lumen, 0.75), float(contents[i % contents.size]), level))
    return tuple(loops)


def _small_bowel(seed: int, lesions: tuple[Lesion, ...]) -> tuple[Loop, ...]:
    rng = dice(seed, "small bowel")
    knots: list[tuple[float, float, float, float]] = [
        (-26, -38, -88, 11),
        (-44, -22, -96, 12),
        (-46, 2, -122, 12),
        (-22, 12, -132, 11),
        (18, 10, -128, 11),
    ]
    sign = 1
    heights = np.linspace(-120, -220, 9)
    radius = rng.uniform(12.0, 14.5)
    for k, height in enumerate(heights):
        reach = 76 - 14 * abs(k - 4) / 4
        for u in (0.9, 0.35, -0.3, -0.9):
            y = rng.uniform(-72, -44) if rng.random() < 0.5 else rng.uniform(-36, 0)
            knots.append(
                (sign * u * reach + rng.uniform(-8, 8), y, height + rng.uniform(-9, 9), radius * rng.uniform(0.9, 1.1))
            )
        sign = -sign
    knots.append((-72, -16, -196, radius))
    curve = path(np.array(knots), 30)
    contents, gas = rng.uniform(8, 42, 97), np.where(rng.random(97) < 0.12, rng.uniform(0.15, 0.45, 97), -1.0)
    blocked = find(lesions, "small_intestine.obstruction")
    if blocked is not None:
        along = np.arange(len(curve)) / len(curve)
        end = 0.5 + 0.25 * blocked.severity
        wide = 1 / (1 + np.exp((along - end) * 60)) / (1 + np.exp(-(along - 0.1) * 60))
        curve[:, 3] = curve[:, 3] * (1 - 0.2 * (along > end)) + wide * (blocked.size_mm / 2 - curve[:, 3])
        contents = rng.uniform(2, 16, 97)
        gas = np.where(rng.random(97) < 0.6, rng.uniform(0.2, 0.5, 97), -1.0)
    return _pieces(curve, 2.4, 62.0, contents, gas)


def _colon(seed: int, lesions: tuple[Lesion, ...]) -> tuple[tuple[Loop, ...], FloatArray]:
    rng = dice(seed, "colon")
    sag = rng.uniform(-22, 6)
    s = rng.uniform(0.86, 1.12)
    jy = rng.uniform(-4, 4)
    knots = np.array(
        [
            (-74, -22, -206, 22 * s),
            (-86, -10, -178, 24 * s),
            (-95, 10, -148, 22 * s),
            (-90, 10, -118, 20 * s),
            (-72, -40, -112 + sag * 0.3, 20 * s),
            (-36, -64, -112 + sag, 19 * s),
            (8, -66, -114 + sag, 18 * s),
            (56, -58, -104 + sag * 0.6, 18 * s),
            (92, -24, -84, 18 * s),
            (103, 18, -76, 17 * s),
            (104, 30, -104, 15 * s),
            (98, 22, -140, 14 * s),
            (88, -6, -176, 14 * s),
            (74, -24, -206, 14 * s),
            (48, -22, -222, 14 * s),
            (26, 8, -208, 14 * s),
            (12, 40, -216, 15 * s),
            (2, 56, -236, 18 * s),
            (0, 54, -262, 18 * s),
            (0, 44, -284, 10 * s),
        ]
    )
    knots[:, 1] += jy
    curve = path(knots, 34)
    along = np.arange(len(curve))
    curve[:, 3] *= 1 + 0.13 * np.sin(along * 2 * np.pi / rng.uniform(26, 34) + rng.uniform(0, 6))
    contents = rng.uniform(-40, 45, 61)
    gas = np.where(rng.random(61) < 0.55, rng.uniform(0.15, 0.7, 61), -1.0)
    blocked = find(lesions, "colon.obstruction")
    if blocked is not None:
        end = {"sigmoid colon": 0.77, "descending colon": 0.62, "splenic flexure": 0.5}.get(blocked.location, 0.7)
        rel = along / len(curve)
        wide = 1 / (1 + np.exp((rel - end) * 70))
        taper = np.where(rel < 0.55, 1.0, 0.82)
        curve[:, 3] = np.maximum(
            curve[:, 3] * (1 - 0.45 * (1 - wide)), wide * taper * blocked.size_mm / 2 * (1 + 0.05 * np.sin(along / 5))
        )
        contents = rng.uniform(0, 22, 61)
        gas = np.where(rng.random(61) < 0.85, rng.uniform(0.3, 0.6, 61), -1.0)
    return _pieces(curve, 2.6, 55.0, contents, gas), curve


def _bladder(seed: int) -> Ellipsoid:
    rng = dice(seed, "bladder")
    s = rng.uniform(0.74, 1.1)
    jx, jy = rng.uniform(-3, 3, 2)
    return Ellipsoid((jx, -34 + jy, -284 + 37 * s), (43 * s, 35 * s, 35 * s), (0, 8, 0))


def lung_side(side: str) -> Shape:
    """Everything left or right of the midline."""
    sign = -1.0 if side == "left" else 1.0
    return HalfSpace((sign, 0, 0), 0.0)
