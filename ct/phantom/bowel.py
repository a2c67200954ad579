"""Stomach, small bowel and colon of one patient: tubes cut into loops with walls and contents."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ct.phantom.patient import Lesion, dice, find
from ct.phantom.shapes import Beads, FloatArray, path, string


@dataclass(frozen=True)
class Loop:
    """A piece of bowel: its outside, its lumen and what is in it."""

    wall: Beads
    lumen: Beads
    content_hu: float
    gas_above: float
    """Gas lies where y is smaller (more anterior) than this, mm."""


def stomach(seed: int, lesions: tuple[Lesion, ...]) -> Loop:
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


def _pieces(curve: FloatArray, wall: float, every: float, contents: FloatArray, gas: FloatArray) -> tuple[Loop, ...]:
    """Cut a bowel into loops of about `every` mm; content HU and gas fraction of each from the two tables."""
    count = max(1, round(len(curve) / every))
    edges = np.linspace(0, len(curve), count + 1).astype(int)
    loops = []
    for i, (start, stop) in enumerate(pairwise(edges.tolist())):
        lumen = curve[max(0, start - 12) : stop].copy()
        lumen[:, 3] = np.maximum(lumen[:, 3] - wall, 1.5)
        piece = curve[start:stop]
        top = float((piece[:, 1] - piece[:, 3]).min())
        level = top + gas[i % gas.size] * 2 * float(piece[:, 3].mean())
        loops.append(Loop(string(piece, 0.65), string(lumen, 0.75), float(contents[i % contents.size]), level))
    return tuple(loops)


def small_bowel(seed: int, lesions: tuple[Lesion, ...]) -> tuple[Loop, ...]:
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


def colon(seed: int, lesions: tuple[Lesion, ...]) -> tuple[tuple[Loop, ...], FloatArray]:
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
