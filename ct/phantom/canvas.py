"""A slab of voxels that shapes are painted on: Hounsfield units with soft edges, and labels."""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from ct.phantom.shapes import Float32Array, FloatArray, Shape

UInt8Array = npt.NDArray[np.uint8]
Box = tuple[slice, slice, slice]


@dataclass
class Patch:
    """The signed pseudo-distance (mm, float32) of a shape on a box of the canvas."""

    box: Box
    field: Float32Array


class Canvas:
    """HU float32 [z, y, x] and labels uint8 [z, y, x] on three axes (mm, body coordinates).

    Edges are `edge` mm wide, which stands for the partial volume effect. Waves (see `wave`) make shapes less perfect.
    """

    def __init__(self, z: Float32Array, y: Float32Array, x: Float32Array, edge: float, waves: "Waves") -> None:
        self.z, self.y, self.x = z, y, x
        self.edge = edge
        self.shape = (z.size, y.size, x.size)
        self.hu: Float32Array = np.full(self.shape, -1000.0, dtype=np.float32)
        self.labels: UInt8Array = np.zeros(self.shape, dtype=np.uint8)
        self.wave = waves.on(z, y, x)
        self._axes = tuple((float(ticks[0]), _step(ticks), ticks.size) for ticks in (x, y, z))
        self._low = np.array([x[0], y[0], z[0]], dtype=np.float64)
        self._step = np.array([_step(x), _step(y), _step(z)], dtype=np.float64)
        self._size = np.array([x.size, y.size, z.size])

    def box(self, shape: Shape, margin: float = 0.0) -> Box | None:
        """The part of the canvas that a shape, grown by `margin` mm, can touch; None if it touches nothing."""
        parts = []
        for low, high, (start, step, size) in zip(*shape.bounds, self._axes, strict=True):
            first = max(ceil((low - margin - start) / step), 0)
            last = min(floor((high + margin - start) / step) + 1, size)
            if last <= first:
                return None
            parts.append(slice(first, last))
        x, y, z = parts
        return z, y, x

    def patch(self, shape: Shape, *, grow: float = 0.0, wave: float = 0.0, cut: Shape | None = None) -> Patch | None:
        """Evaluate a shape for painting up to `grow` mm outside of it, its surface waving by `wave` mm.

        `cut` keeps only what is also inside that shape.
        """
        reach = self.edge / 2 + grow + abs(wave)
        box = self.box(shape, reach + 0.15 * reach)
        if box is None:
            return None
        axes = self.z[box[0]], self.y[box[1]], self.x[box[2]]
        field = shape.field(*axes, reach)
        if wave:
            field += self.wave[box] * np.float32(wave)
        if cut is not None:
            np.maximum(field, cut.field(*axes, reach), out=field)
        return Patch(box, field)

    def fill(
        self,
        patch: Patch | None,
        hu: float | Float32Array,
        label: int | None = None,
        *,
        inset: float = 0.0,
        within: int | None = None,
        gain: float = 1.0,
        edge: float | None = None,
        shade: float = 0.0,
    ) -> None:
        """Paint a patch.

        Parameters
        ----------
        hu
            Value inside, a number or an array that broadcasts to the patch.
        label
            Label to write inside; None leaves labels as they are.
        inset
            Shrink the shape by so many mm (negative: grow).
        within
            Paint only voxels that now carry this label.
        gain
            Opacity 0..1.
        edge
            Width of the soft edge in mm instead of the canvas's.
        shade
            Where the soft edge lies: 0 astride the surface, 0.5 all inside, -0.5 all outside.
        """
        if patch is None:
            return
        field = patch.field + np.float32(inset) if inset else patch.field
        alpha = field * np.float32(-1.0 / (edge or self.edge))
        alpha += np.float32(0.5 - shade)
        np.maximum(alpha, 0, out=alpha)
        np.minimum(alpha, 1, out=alpha)
        if gain != 1.0:
            alpha *= np.float32(gain)
        labels = self.labels[patch.box]
        keep = None
        if within is not None:
            keep = labels == within
            alpha *= keep
        view = self.hu[patch.box]
        change = np.subtract(np.float32(hu) if isinstance(hu, float | int) else hu, view)
        change *= alpha
        view += change
        if label is not None:
            inside = field < 0
            if keep is not None:
                inside &= keep
            np.copyto(labels, np.uint8(label), where=inside)

    def paint(
        self,
        shape: Shape,
        hu: float,
        label: int | None = None,
        *,
        wave: float = 0.0,
        inset: float = 0.0,
        within: int | None = None,
        gain: float = 1.0,
        cut: Shape | None = None,
        edge: float | None = None,
    ) -> None:
        """`patch` and `fill` in one."""
        grow = max(0.0, -inset) + (max(0.0, edge - self.edge) / 2 if edge else 0.0)
        patch = self.patch(shape, grow=grow, wave=wave, cut=cut)
        self.fill(patch, hu, label, inset=inset, within=within, gain=gain, edge=edge)

    def splat(self, points: FloatArray, radii: FloatArray, hu: float, within: int) -> None:
        """Dots thinner than a voxel: raise the nearest voxel of each point (x, y, z) by its share of `hu`."""
        index = np.round((points - self._low) / self._step).astype(np.intp)
        inside = np.flatnonzero(((index >= 0) & (index < self._size)).all(axis=1))
        x, y, z = index[inside].T
        inside = inside[self.labels[z, y, x] == within]
        x, y, z = index[inside].T
        cell = float(np.cbrt(self._step.prod()))
        share = np.minimum(np.pi * radii[inside] ** 2 / cell**2, 1).astype(np.float32)
        order = np.argsort(share, kind="stable")
        x, y, z, share = x[order], y[order], z[order], share[order]
        old = self.hu[z, y, x]
        self.hu[z, y, x] = np.maximum(old, old + share * (np.float32(hu) - old))


class Waves:
    """Seeded smooth fields: sums of products of sines along the three axes, about -1..1."""

    def __init__(self, rng: np.random.Generator, lengths: tuple[float, float], terms: int = 5) -> None:
        wavelengths = rng.uniform(*lengths, size=(3, terms))
        self._turns = 2 * np.pi / wavelengths
        self._phases = rng.uniform(0, 2 * np.pi, size=(3, terms))
        self._scale = 1.6 / np.sqrt(terms)

    def on(self, z: Float32Array, y: Float32Array, x: Float32Array) -> Float32Array:
        """The field on three axes (mm): float32 [z, y, x]."""
        sines = [
            np.sin(ticks[:, None].astype(np.float64) * self._turns[k] + self._phases[k]).astype(np.float32)
            for k, ticks in enumerate((z, y, x))
        ]
        plane = sines[0][:, None, :] * sines[1][None, :, :]
        plane *= np.float32(self._scale)
        field: Float32Array = plane @ sines[2].T
        return field


def _step(ticks: Float32Array) -> float:
    return float(ticks[1] - ticks[0]) if ticks.size > 1 else 1.0
