"""The diseases put on a canvas, after the organs: focal ones as balls, diffuse ones by their own rule."""

from collections.abc import Mapping

import numpy as np

from ct.phantom.canvas import Canvas
from ct.phantom.organs import Organs, lung_side
from ct.phantom.patient import Lesion, PhantomPatient, dice
from ct.phantom.shapes import Beads, Ellipsoid

OUTGROWS = frozenset({"kidney.cyst", "pancreas.cyst", "pancreas.tumor", "adrenal_gland.nodule", "colon.tumor"})
"""Focal lesions that bulge out of their organ and carry its label; the others stay within."""

_WAVES = {"liver.tumor": 3.0, "lung.consolidation": 5.0, "colon.tumor": 2.0, "pancreas.tumor": 1.5, "lung.nodule": 0.6}
"""How much the surface of a lesion waves, mm."""


def lesion_shape(patient: PhantomPatient, lesion: Lesion) -> Beads:
    """The balls of a focal lesion in body coordinates; they are round in patient space."""
    body = patient.body
    points = np.array([body.from_patient((x, y, z)) for x, y, z, _ in lesion.balls], dtype=np.float64)
    radii = np.array([r for *_, r in lesion.balls], dtype=np.float64) / body.frame
    return Beads(points, radii, (1.0, 1.0, body.stature / body.frame))


def paint_lesions(canvas: Canvas, patient: PhantomPatient, organs: Organs, labels: Mapping[str, int]) -> None:
    """Paint every disease that is more than the size of an organ."""
    order = sorted(patient.diseases, key=lambda lesion: lesion.finding == "pleural_effusion")
    for lesion in order:
        label = labels[lesion.anatomy]
        if lesion.key == "lung.pleural_effusion":
            _effusion(canvas, lesion, label)
        elif lesion.key == "lung.atelectasis":
            _atelectasis(canvas, patient, organs, lesion, label)
        elif lesion.key == "lung.emphysema":
            _emphysema(canvas, patient, lesion, label)
        elif lesion.balls:
            _focal(canvas, patient, lesion, label)


def _focal(canvas: Canvas, patient: PhantomPatient, lesion: Lesion, label: int) -> None:
    shape = lesion_shape(patient, lesion)
    patch = canvas.patch(shape, wave=_WAVES.get(lesion.key, 0.0))
    if patch is None:
        return
    small = float(shape.radii.min())
    gain = min(1.0, max(0.45, small / (0.75 * canvas.edge)))
    if lesion.key == "lung.consolidation":
        hollow = canvas.wave[patch.box] * np.float32(-70) + np.float32(lesion.hu)
        canvas.fill(patch, hollow, within=label, edge=max(9.0, canvas.edge))
    elif lesion.key == "sacrum.metastasis":
        canvas.fill(patch, lesion.hu, within=label, gain=gain, edge=max(3.0, canvas.edge))
    elif lesion.key in OUTGROWS:
        canvas.fill(patch, lesion.hu, label, gain=gain)
        if lesion.key == "colon.tumor":
            x, y, z = shape.points[0].tolist()
            canvas.paint(Ellipsoid((x, y, z), (3.0, 3.0, 3.0)), -300.0, within=label)
    else:
        canvas.fill(patch, lesion.hu, within=label, gain=gain)
        if lesion.key == "liver.tumor" and small > 9:
            canvas.fill(patch, lesion.hu - 14, within=label, inset=0.45 * small)


def _effusion(canvas: Canvas, lesion: Lesion, label: int) -> None:
    """Fluid that lies behind and below the aerated lung, as the supine patient's does."""
    sign = 1.0 if lesion.side == "left" else -1.0
    depth = lesion.size_mm
    lung = Ellipsoid((sign * 66, -0.95 * depth, 112 + 0.75 * depth), (96, 96, 182))
    patch = canvas.patch(lung_side(lesion.side))
    if patch is None:
        return
    if not (canvas.labels == label).any():
        return
    aerated = lung.field(canvas.z[patch.box[0]], canvas.y[patch.box[1]], canvas.x[patch.box[2]], 10.0)
    np.maximum(patch.field, -aerated, out=patch.field)
    canvas.fill(patch, lesion.hu, within=label)


def _atelectasis(canvas: Canvas, patient: PhantomPatient, organs: Organs, lesion: Lesion, label: int) -> None:
    """Airless lung along the diaphragm, and plates above it."""
    half = lung_side(lesion.side)
    base = canvas.patch(organs.domes, grow=lesion.size_mm, cut=half)
    if base is not None:
        back = np.clip(canvas.y[base.box[1]] / np.float32(90), -0.7, 1)
        base.field -= np.float32(lesion.size_mm) * (np.float32(0.45) + np.float32(0.75) * back)[None, :, None]
        base.field += canvas.wave[base.box] * np.float32(2.0)
        canvas.fill(base, lesion.hu, within=label)
    rng = dice(patient.seed, f"atelectasis {lesion.side}")
    sign = 1.0 if lesion.side == "left" else -1.0
    for _ in range(1 + round(lesion.severity)):
        centre = (sign * rng.uniform(70, 95), rng.uniform(10, 50), rng.uniform(38, 75))
        radii = (rng.uniform(26, 40), rng.uniform(20, 34), rng.uniform(3.5, 6.5))
        plate = Ellipsoid(centre, radii, (rng.uniform(-40, 40), rng.uniform(-25, 25), sign * rng.uniform(-15, 25)))
        canvas.paint(plate, lesion.hu, within=label)


def _emphysema(canvas: Canvas, patient: PhantomPatient, lesion: Lesion, label: int) -> None:
    """Holes of nearly pure air, more and larger ones in the upper lungs."""
    rng = dice(patient.seed, "emphysema")
    count = int(140 + 260 * lesion.severity)
    height = 245 - 230 * rng.power(1.0, count) ** 1.6
    angle, out = rng.uniform(-np.pi, np.pi, count), np.sqrt(rng.uniform(0.1, 1, count))
    width = np.interp(height, [0, 120, 180, 250], [118, 112, 96, 40])
    points = np.stack([width * out * np.cos(angle), 0.72 * width * out * np.sin(angle), height], axis=1)
    radii = rng.uniform(3.0, 6.0 + 6.0 * lesion.severity, count)
    canvas.paint(Beads(points, radii), -990.0, within=label, gain=0.85)
