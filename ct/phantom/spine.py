"""The spine: vertebral bodies with discs between, arch and canal, processes."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ct.phantom.canvas import Canvas
from ct.phantom.shapes import Column, FloatArray

LOWEST, HIGHEST = -165.0, 331.0
"""From the lumbosacral joint to the neck, mm."""
PERIOD = 32.0
"""Height of a vertebra with its disc, mm."""


@dataclass(frozen=True)
class Spine:
    """The same for all patients, as the other shapes in body coordinates."""

    bodies: Column
    arch: Column
    canal: Column
    spinous: Column
    transverse: Column


@cache
def spine() -> Spine:
    """The shapes of the spine."""
    z = np.arange(LOWEST, HIGHEST, 2.0)
    y = np.interp(z, [-165, -110, -40, 60, 150, 240, 330], [54, 44, 48, 60, 68, 58, 44])
    width = np.interp(z, [-165, 0, 150, 330], [25, 21, 17, 12])
    depth = 0.76 * width
    waist = 1 + 0.07 * np.cos(_phase(z))
    bump = np.clip(1.6 * np.cos(_phase(z - 8)), 0, 1) ** 2
    wing = np.clip(1.8 * np.cos(_phase(z - 19)) - 0.6, 0, 1) ** 2
    one = np.ones_like(z)
    return Spine(
        _column(z, y, width * waist, depth * waist, 2.3),
        _column(z, y + depth + 9, 15 * one, 13 * one),
        _column(z, y + depth + 7, 9 * one, 7.5 * one),
        _column(z, y + depth + 20 + 7 * bump, 2.2 + 1.4 * bump, 5 + 8 * bump),
        _column(z, y + depth + 10, 12 + 21 * wing, 4 + 1.5 * wing),
    )


def paint_spine(canvas: Canvas, bone: float) -> None:
    """Paint the spine; `bone` is the attenuation of its marrow, HU. It lies over the lungs and belongs to nothing."""
    shapes = spine()
    canvas.paint(shapes.spinous, bone + 160, 0)
    canvas.paint(shapes.transverse, bone + 120, 0)
    canvas.paint(shapes.arch, bone + 190, 0)
    canvas.paint(shapes.canal, 22.0, 0)
    bodies = canvas.patch(shapes.bodies)
    if bodies is None:
        return
    canvas.fill(bodies, bone + 210, 0)
    height = np.mod(canvas.z[bodies.box[0]] - np.float32(LOWEST), np.float32(PERIOD))
    from_disc = np.minimum(height, np.float32(PERIOD) - height)
    disc = np.clip((np.float32(3.4) - from_disc) / np.float32(canvas.edge) + np.float32(0.5), 0, 1)
    inside = np.float32(bone) + disc * np.float32(85 - bone)
    canvas.fill(bodies, inside[:, None, None], inset=2.2)


def _phase(z: FloatArray) -> FloatArray:
    """0 at each disc, 2 pi at the next."""
    phase: FloatArray = (z - LOWEST) / PERIOD * 2 * np.pi
    return phase


def _column(z: FloatArray, y: FloatArray, a: FloatArray, b: FloatArray, power: float = 2.0) -> Column:
    return Column(np.stack([z, np.zeros_like(z), y, a, b], axis=1), power=power, smooth=3)
