"""The tools to place a focal lesion: a random point inside of some shapes and clear of others, sizes, sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ct.phantom.organs import Organs
from ct.phantom.patient import Body, Lesion, Point, Side
from ct.phantom.shapes import FloatArray, Shape, value_at

Balls = list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Case:
    """What a placer works on: dice, the body, its organs, and the lesions that are already there."""

    rng: np.random.Generator
    body: Body
    organs: Organs
    lesions: tuple[Lesion, ...]


Place = Callable[[Case], list[Lesion]]
Rule = tuple[Shape, float]
"""A shape and the highest value (mm) allowed there: negative keeps inside, see `inside`."""


def inside(rng: np.random.Generator, low: Point, high: Point, keep: Sequence[Rule], clear: Sequence[Rule]) -> Point:
    """A random point of a box with value < limit for all of `keep` and value > limit for all of `clear`.

    The limits are loosened step by step where no point is found.
    """
    best, best_excess = low, np.inf
    for _ in range(160):
        x, y, z = (float(v) for v in rng.uniform(low, high))
        excess = 0.0
        for shape, limit in keep:
            excess = max(excess, value_at(shape, (x, y, z)) - limit)
            if excess >= best_excess:
                break
        else:
            for shape, limit in clear:
                excess = max(excess, limit - value_at(shape, (x, y, z)))
                if excess >= best_excess:
                    break
            else:
                best, best_excess = (x, y, z), excess
        if best_excess <= 0:
            break
    return best


def lesion_of(
    body: Body,
    key: str,
    balls: Balls,
    hu: float,
    severity: float,
    *,
    side: Side = "",
    location: str = "",
    size: float | None = None,
) -> Lesion:
    """A focal lesion from balls in body coordinates (x, y, z) with radii in patient mm."""
    moved = []
    for x, y, z, r in balls:
        px, py, pz = body.to_patient((x, y, z))
        moved.append((round(px, 2), round(py, 2), round(pz, 2), round(r, 2)))
    x, y, z, r = moved[0]
    size_mm = float(round(2 * r)) if size is None else float(round(size))
    return Lesion(key, side, location, size_mm, severity, (x, y, z), r, tuple(moved), float(hu))


def skewed(rng: np.random.Generator, low: float, high: float, power: float = 1.7) -> tuple[float, float]:
    """A size between low and high, small ones more often, and how far up it is (0..1)."""
    severity = float(rng.random() ** power)
    return low + (high - low) * severity, severity


def sides_of(rng: np.random.Generator, both: float) -> tuple[Side, ...]:
    """One side, or with the chance `both` both."""
    if rng.random() < both:
        return ("left", "right")
    return ("left",) if rng.random() < 0.5 else ("right",)


def side_of(x: float) -> Side:
    return "left" if x > 0 else "right"


def on_surface(shape: Shape, centre: FloatArray, ray: FloatArray, value: float) -> FloatArray:
    """The point along centre + t * ray where the shape has this value (bisection)."""
    low, high = 0.0, 3.0
    for _ in range(14):
        middle = (low + high) / 2
        x, y, z = (float(v) for v in centre + middle * ray)
        if value_at(shape, (x, y, z)) < value:
            low = middle
        else:
            high = middle
    result: FloatArray = centre + low * ray
    return result
