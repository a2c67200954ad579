"""Implicit shapes: an ellipsoid, a string of beads, a column of ellipses, and their union.

A shape is a function of the position (x, y, z) that is negative inside, zero on the surface and close to the distance
in mm near it. It is evaluated on the axes of a box only, so that a voxel grid of any resolution shows the same shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
Point = tuple[float, float, float]
Bounds = tuple[Point, Point]

FAR = np.float32(1e3)
"""What a field holds far outside of a shape, mm."""

_ALL_AT_ONCE = 60_000
"""Beads times voxels up to which all beads are evaluated everywhere instead of each in its own box."""


class Shape(Protocol):
    """What can be painted."""

    @property
    def bounds(self) -> Bounds:
        """Lowest and highest corner (x, y, z) of the shape, mm."""
        ...

    def field(self, z: Float32Array, y: Float32Array, x: Float32Array, reach: float) -> Float32Array:
        """Signed pseudo-distance float32 [z, y, x] in mm on three axes (mm, evenly spaced).

        `reach` (mm): how far outside the value must be right; farther out it may be `FAR`.
        """
        ...


def _corner(values: FloatArray) -> Point:
    x, y, z = values.tolist()
    return x, y, z


@cache
def _window(width: int) -> FloatArray:
    """A smoothing window of odd width whose sum is 1."""
    window = np.hanning(width + 2)[1:-1]
    normed: FloatArray = window / window.sum()
    return normed


def _smoothed(rows: FloatArray, width: int) -> FloatArray:
    """Each column of [n, k] smoothed over an odd `width` of rows; the ends are held."""
    count, half = len(rows), width // 2
    padded = rows[np.clip(np.arange(-half, count + half), 0, count - 1)]
    window = _window(width)
    return np.stack([np.convolve(padded[:, k], window, mode="valid") for k in range(rows.shape[1])], axis=1)


def value_at(shape: Shape, point: Point) -> float:
    """Signed pseudo-distance (mm) of one point (x, y, z) to a shape."""
    x, y, z = (np.array([c], dtype=np.float32) for c in point)
    return float(shape.field(z, y, x, 50.0)[0, 0, 0])


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> FloatArray:
    """Rotation matrix [3, 3] on (x, y, z): yaw about z, pitch about x, roll about y, degrees, in that order."""
    a, b, c = np.deg2rad((yaw, pitch, roll))
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    rotation: FloatArray = about_y @ about_x @ about_z
    return rotation


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned by (yaw, pitch, roll) degrees."""

    centre: Point
    radii: Point
    angles: Point = (0.0, 0.0, 0.0)

    @cached_property
    def _forms(self) -> tuple[FloatArray, FloatArray, float]:
        """Quadratic form [3, 3] scaled to mm, half extents [3], mean radius."""
        radii = np.asarray(self.radii, dtype=np.float64)
        mean = float(np.cbrt(radii.prod()))
        axes = turn(*self.angles) if any(self.angles) else np.eye(3)
        form = (axes / radii**2) @ axes.T * (mean / 2)
        extent = np.sqrt(((axes * radii) ** 2).sum(axis=1))
        return form, extent, mean

    @cached_property
    def bounds(self) -> Bounds:
        centre, extent = np.asarray(self.centre), self._forms[1]
        return _corner(centre - extent), _corner(centre + extent)

    def field(self, z: Float32Array, y: Float32Array, x: Float32Array, reach: float) -> Float32Array:  # noqa: ARG002
        form, _, mean = self._forms
        m = form.astype(np.float32)
        dx, dy, dz = x - np.float32(self.centre[0]), y - np.float32(self.centre[1]), z - np.float32(self.centre[2])
        plane = (m[2, 2] * dz * dz - np.float32(mean / 2))[:, None] + (m[1, 1] * dy * dy)[None, :]
        if m[1, 2]:
            plane += (2 * m[1, 2]) * dz[:, None] * dy[None, :]
        result: Float32Array = plane[:, :, None] + m[0, 0] * dx * dx
        if m[0, 1] or m[0, 2]:
            slope = (2 * m[0, 2]) * dz[:, None] + (2 * m[0, 1]) * dy[None, :]
            result += slope[:, :, None] * dx
        return result


@dataclass(frozen=True, eq=False)
class Beads:
    """A union of balls: tubes, clusters, single balls.

    `points` float [n, 3] (x, y, z) and `radii` float [n] in mm. `squeeze` (x, y, z) multiplies the offsets from each
    centre, so that a ball in patient space stays one on axes that are scaled.
    """

    points: FloatArray
    radii: FloatArray
    squeeze: Point = (1.0, 1.0, 1.0)

    @cached_property
    def bounds(self) -> Bounds:
        reach = self.radii[:, None] / np.asarray(self.squeeze)
        return _corner((self.points - reach).min(axis=0)), _corner((self.points + reach).max(axis=0))

    def field(self, z: Float32Array, y: Float32Array, x: Float32Array, reach: float) -> Float32Array:
        half = 0.5 / self.radii
        rows = []
        for axis, ticks in ((2, z), (1, y), (0, x)):
            weight = half * self.squeeze[axis] ** 2
            rows.append((ticks[None, :] - self.points[:, axis, None]) ** 2 * weight[:, None])
        rows[0] -= (self.radii / 2)[:, None]
        zs, ys, xs = (row.astype(np.float32) for row in rows)
        if len(half) * z.size * y.size * x.size < _ALL_AT_ONCE:
            planes = zs[:, :, None] + ys[:, None, :]
            nearest: Float32Array = (planes[:, :, :, None] + xs[:, None, None, :]).min(axis=0)
            return nearest
        result = np.full((z.size, y.size, x.size), FAR, dtype=np.float32)
        span = self.radii * np.sqrt(1 + 2 * reach / self.radii)
        limits = []
        for axis, ticks in ((2, z), (1, y), (0, x)):
            step = float(ticks[1] - ticks[0]) if ticks.size > 1 else 1.0
            width, centre = span / self.squeeze[axis], self.points[:, axis] - ticks[0]
            limits.append(np.maximum(np.ceil((centre - width) / step), 0))
            limits.append(np.minimum(np.floor((centre + width) / step) + 1, ticks.size))
        table = np.array(limits).astype(np.intp)
        seen = np.flatnonzero((table[1] > table[0]) & (table[3] > table[2]) & (table[5] > table[4]))
        for i, (z0, z1, y0, y1, x0, x1) in zip(seen.tolist(), table.T[seen].tolist(), strict=True):
            ball = (zs[i, z0:z1, None] + ys[i, y0:y1])[:, :, None] + xs[i, x0:x1]
            view = result[z0:z1, y0:y1, x0:x1]
            np.minimum(view, ball, out=view)
        return result


@dataclass(frozen=True, eq=False)
class Column:
    """A stack of super-ellipses along z: the trunk, the rib cage, the spine, an aorta.

    `knots` float [n, 5], rising in z: (z, centre x, centre y, half width in x, half width in y), mm; linear between
    knots, rounded over `smooth` mm. `power` 2 is an ellipse, more is squarer.
    """

    knots: FloatArray
    power: float = 2.0
    smooth: float = 12.0

    @cached_property
    def table(self) -> FloatArray:
        """The knots, rounded, every 2 mm: float [m, 5]."""
        z = np.arange(self.knots[0, 0], self.knots[-1, 0] + 1e-3, 2.0)
        rows = np.stack([np.interp(z, self.knots[:, 0], self.knots[:, k]) for k in range(1, 5)], axis=1)
        return np.concatenate([z[:, None], _smoothed(rows, max(3, int(self.smooth) | 1))], axis=1)

    def section(self, z: float) -> tuple[float, float, float, float]:
        """Centre x, centre y, half width in x and in y (mm) at a height z (mm)."""
        table = self.table
        cx, cy, a, b = (float(np.interp(z, table[:, 0], table[:, k])) for k in range(1, 5))
        return cx, cy, a, b

    @cached_property
    def bounds(self) -> Bounds:
        z, cx, cy, a, b = self.knots.T
        low = float((cx - a).min()), float((cy - b).min()), float(z[0])
        return low, (float((cx + a).max()), float((cy + b).max()), float(z[-1]))

    def field(self, z: Float32Array, y: Float32Array, x: Float32Array, reach: float) -> Float32Array:  # noqa: ARG002
        table = self.table
        cx, cy, a, b = (np.interp(z, table[:, 0], table[:, k]).astype(np.float32) for k in range(1, 5))
        power = np.float32(self.power)
        scale = np.minimum(a, b) / power
        across = np.abs((x[None, :] - cx[:, None]) / a[:, None])
        along = np.abs((y[None, :] - cy[:, None]) / b[:, None])
        if self.power == 2.0:
            across *= across
            along *= along
        else:
            across **= power
            along **= power
        across *= scale[:, None]
        along -= 1
        along *= scale[:, None]
        beyond = np.maximum(np.maximum(table[0, 0] - z, z - table[-1, 0]), 0).astype(np.float32)
        along += (4 * beyond)[:, None]
        result: Float32Array = along[:, :, None] + across[:, None, :]
        return result


@dataclass(frozen=True)
class Union:
    """Several shapes as one, blended over `blend` mm where they meet."""

    parts: tuple[Shape, ...]
    blend: float = 0.0

    @cached_property
    def bounds(self) -> Bounds:
        lows, highs = zip(*(part.bounds for part in self.parts), strict=True)
        return _corner(np.min(lows, axis=0)), _corner(np.max(highs, axis=0))

    def field(self, z: Float32Array, y: Float32Array, x: Float32Array, reach: float) -> Float32Array:
        result = self.parts[0].field(z, y, x, reach)
        for part in self.parts[1:]:
            other = part.field(z, y, x, reach)
            if self.blend:
                overlap = np.abs(result - other)
                np.subtract(np.float32(self.blend), overlap, out=overlap)
                np.maximum(overlap, 0, out=overlap)
                overlap *= overlap
                overlap *= np.float32(0.25 / self.blend)
                np.minimum(result, other, out=result)
                result -= overlap
            else:
                np.minimum(result, other, out=result)
        return result


@dataclass(frozen=True)
class HalfSpace:
    """The half space where `normal` . (x, y, z) < `level`; `normal` has unit length."""

    normal: Point
    level: float

    @property
    def bounds(self) -> Bounds:
        far = float(FAR)
        return (-far, -far, -far), (far, far, far)

    def field(self, z: Float32Array, y: Float32Array, x: Float32Array, reach: float) -> Float32Array:  # noqa: ARG002
        nx, ny, nz = (np.float32(n) for n in self.normal)
        plane = (nz * z - np.float32(self.level))[:, None] + ny * y
        result: Float32Array = plane[:, :, None] + nx * x
        return result


def column(*knots: Sequence[float], power: float = 2.0, smooth: float = 12.0) -> Column:
    """A `Column` from (z, cx, cy, a, b) rows in any order of z."""
    table = np.asarray(sorted(knots, key=lambda row: row[0]), dtype=np.float64)
    return Column(table, power, smooth)


def path(knots: FloatArray, smooth: float = 14.0) -> FloatArray:
    """A rounded curve through (x, y, z, radius) rows: float [m, 4], one point about every mm."""
    steps = np.sqrt(((knots[1:, :3] - knots[:-1, :3]) ** 2).sum(axis=1))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    ticks = np.arange(0.0, along[-1] + 0.5, 1.0)
    dense = np.stack([np.interp(ticks, along, knots[:, k]) for k in range(4)], axis=1)
    width = min(int(smooth) | 1, max(1, ticks.size // 2) | 1)
    return dense if width < 3 else _smoothed(dense, width)


def string(curve: FloatArray, step: float = 0.6) -> Beads:
    """Beads along a curve (x, y, z, radius), `step` radii apart."""
    steps = np.sqrt(((curve[1:, :3] - curve[:-1, :3]) ** 2).sum(axis=1))
    gaps = steps / (np.maximum(curve[1:, 3], 0.5) * step)
    along = np.concatenate([[0.0], np.cumsum(gaps)])
    count = max(2, int(np.ceil(along[-1])) + 1)
    picks = np.interp(np.linspace(0, along[-1], count), along, np.arange(along.size))
    chosen = curve[np.round(picks).astype(np.intp)]
    return Beads(chosen[:, :3].copy(), chosen[:, 3].copy())


def tube(*knots: Sequence[float], step: float = 0.6, smooth: float = 14.0) -> Beads:
    """A tube through (x, y, z, radius) rows, mm."""
    return string(path(np.asarray(knots, dtype=np.float64), smooth), step)


def ball(centre: Point, radius: float) -> Beads:
    """One ball."""
    return Beads(np.array([centre], dtype=np.float64), np.array([radius], dtype=np.float64))
