"""A synthetic renal CT angiogram: the part of a patient around a kidney with a tumour, with the renal vessels.

The labels are those of the KiPA22 challenge. Both kidneys and their vessels are labelled where they are in the picture,
the parts of the vessels inside of the aorta and the vena cava are not; a cyst belongs to its kidney.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ct.phantom.canvas import Canvas
from ct.phantom.export import nifti_bytes
from ct.phantom.organs import Kidney
from ct.phantom.patient import PhantomPatient, dice
from ct.phantom.placing import on_surface, skewed
from ct.phantom.rendering import LABELS, Grain, Rendered, Scene, Size, Spacing, canvas_at, paint, scene_of
from ct.phantom.scenery import INFERIOR_CAVA, descending_aorta
from ct.phantom.shapes import Beads, Column, Union, tube

VEIN, KIDNEY, ARTERY, TUMOR = 1, 2, 3, 4
"""Labels of KiPA22."""
SPACING: Spacing = (1.5, 1.5, 1.5)
SHAPE: Size = (96, 72, 92)
"""144 x 108 x 138 mm: a whole kidney, the aorta and the vena cava."""
_FIRST = 100
"""Labels on the canvas while it is painted: those of the organs, and from here on those of KiPA22."""

Side = Literal["left", "right"]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class RenalPhantom:
    """One patient in the arterial phase, with a tumour of one kidney."""

    patient: PhantomPatient
    side: Side
    """Of the kidney with the tumour."""

    @classmethod
    def draw(cls, seed: int) -> "RenalPhantom":
        """Throw the dice; the same seed gives the same phantom. Every second one has renal cysts."""
        rng = dice(seed, "renal")
        side: Side = "left" if rng.random() < 0.5 else "right"
        patient = PhantomPatient.draw(seed, ("kidney.cyst",) if rng.random() < 0.5 else ())
        return cls(replace(patient, body=replace(patient.body, phase="arterial")), side)

    def render(self, spacing: Spacing = SPACING, shape: Size = SHAPE) -> Rendered:
        """HU int16 and labels uint8 (0..4) [z, y, x] around the kidney with the tumour."""
        rng, scene = dice(self.patient.seed, "renal place"), scene_of(self.patient)
        x, y, z = _kidney(scene, self.side).outer.centre
        middle = self.patient.body.to_patient((x - _sign(self.side) * 14, y - 8, z))
        jitter = rng.uniform(-6, 6, 3)
        centre = [at + by for at, by in zip(reversed(middle), jitter, strict=True)]
        low = [at - 0.5 * (n - 1) * step for at, n, step in zip(centre, shape, spacing, strict=True)]
        origin = (float(low[0]), float(low[1]), float(low[2]))
        canvas = canvas_at(self.patient, origin, spacing, shape)
        paint(canvas, self.patient)
        self._paint_tumor(canvas, scene)
        self._paint_vessels(canvas, scene)
        Grain(self.patient, spacing, shape).add(canvas.hu, 0)
        hu = np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16)
        table = np.zeros(256, dtype=np.uint8)
        table[LABELS["kidney"]] = KIDNEY
        for label in (VEIN, ARTERY, TUMOR):
            table[_FIRST + label] = label
        return Rendered(hu, table[canvas.labels], spacing, origin)

    def _paint_tumor(self, canvas: Canvas, scene: Scene) -> None:
        """A mass that grows out of the kidney, away from the hilum: enhancing or not, dead inside if it is large."""
        rng, sign, kidney = dice(self.patient.seed, "renal tumor"), _sign(self.side), _kidney(scene, self.side)
        radius, _ = skewed(rng, 10, 25, 1.2)
        angle, up = rng.uniform(-0.9, 1.2), rng.uniform(-0.75, 0.75)
        ray = np.array([sign * 40 * np.cos(angle), 40 * np.sin(angle), 60 * up])
        centre = on_surface(kidney.outer, np.array(kidney.outer.centre), ray, -rng.uniform(0.0, 0.7) * radius)
        second = centre + rng.normal(0, 0.35, 3) * radius
        shape = Beads(np.stack([centre, second]), np.array([radius, 0.8 * radius]))
        patch = canvas.patch(shape, wave=2.0)
        enhancing = rng.random() < 0.65
        hu = float(rng.uniform(95, 135) if enhancing else rng.uniform(42, 70))
        canvas.fill(patch, hu, _FIRST + TUMOR)
        if radius > 15:
            canvas.fill(patch, float(rng.uniform(22, 40)), inset=0.55 * radius, edge=4.0)

    def _paint_vessels(self, canvas: Canvas, scene: Scene) -> None:
        """Veins, then arteries over them, then the great vessels that they begin in."""
        rng, tissue = dice(self.patient.seed, "renal vessels"), scene.tissue
        aorta = descending_aorta(self.patient)
        venous = float(rng.uniform(120, 185))
        sides: tuple[Side, Side] = ("left", "right")
        trees = [(_veins(rng, scene, side), _arteries(rng, scene, side, aorta)) for side in sides]
        for veins, _ in trees:
            canvas.paint(veins, venous, _FIRST + VEIN)
        for _, arteries in trees:
            canvas.paint(arteries, tissue.aorta, _FIRST + ARTERY)
        canvas.paint(INFERIOR_CAVA, 0.5 * (tissue.cava + venous), 0)
        canvas.paint(aorta, tissue.aorta, 0)


def write_renal_phantoms(folder: Path, seeds: range) -> Iterator[Path]:
    """Write `image/ID.nii.gz` and `label/ID.nii.gz` of every seed, as KiPA22 has them, and give each image's path.

    Files that are there are left as they are.
    """
    for part in ("image", "label"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        image, label = (folder / part / f"{seed}.nii.gz" for part in ("image", "label"))
        if not (image.is_file() and label.is_file()):
            rendered = RenalPhantom.draw(seed).render()
            for path, array in ((label, rendered.labels), (image, rendered.hu)):
                partial = path.with_suffix(".part")
                partial.write_bytes(nifti_bytes(array, rendered))
                partial.replace(path)
        yield image


def _sign(side: Side) -> float:
    return 1.0 if side == "left" else -1.0


def _kidney(scene: Scene, side: Side) -> Kidney:
    return scene.organs.kidneys[0 if side == "left" else 1]


def _hilum(scene: Scene, side: Side) -> Vector:
    """Where the vessels enter the kidney, medial of and in front of its sinus."""
    x, y, z = _kidney(scene, side).sinus.centre
    return x - _sign(side) * 12, y - 9, z


def _twigs(rng: np.random.Generator, scene: Scene, side: Side, root: Vector, radius: float) -> list[Beads]:
    """Two to four segmental branches from a point before the hilum into the sinus; `radius` is that of the thickest."""
    sx, sy, sz = _kidney(scene, side).sinus.centre
    hx, hy, _ = _hilum(scene, side)
    branches = []
    for up in rng.permutation([-22.0, 20.0, 2.0, -10.0])[: int(rng.integers(2, 5))]:
        top, thin = sz + up + rng.uniform(-4, 4), radius * rng.uniform(0.8, 1.0)
        end = (sx + _sign(side) * rng.uniform(-3, 5), sy + rng.uniform(-6, 3), top)
        gate = (hx, hy + rng.uniform(-2, 2), 0.5 * (root[2] + top))
        branches.append(tube((*root, thin), (*gate, thin), (*end, 0.72 * thin), smooth=8))
    return branches


def _arteries(rng: np.random.Generator, scene: Scene, side: Side, aorta: Column) -> Union:
    """The renal artery from the aorta, on the right behind the vena cava; in one of five a second one to a pole."""
    sign, (hx, hy, hz) = _sign(side), _hilum(scene, side)
    radius, rise = rng.uniform(2.7, 3.5), rng.uniform(2, 12)
    cx, cy, a, _ = aorta.section(hz + rise)
    root = (hx - sign * rng.uniform(7, 12), hy - 2 + rng.uniform(-1, 1), hz + 0.2 * rise)
    start = (cx + sign * 0.5 * a, cy + 1.0, hz + rise)
    behind = 33.0 if side == "right" else cy + 2.0
    middle = (0.5 * (start[0] + root[0]), 0.5 * (behind + root[1]), hz + 0.8 * rise)
    first = (start[0] + sign * 9, behind - 2, hz + rise)
    parts = [
        tube(*((*knot, radius) for knot in (start, first, middle, root)), smooth=8),
        *_twigs(rng, scene, side, root, 0.72 * radius),
    ]
    if rng.random() < 0.2:
        down = float(rng.choice([-30.0, 28.0]))
        cx, cy, a, _ = aorta.section(hz + 0.7 * down)
        end = (hx + sign * 9, hy + 3, hz + down)
        far = (cx + sign * 0.5 * a, cy + 1.0, hz + 0.7 * down)
        parts.append(tube((*far, 1.9), (far[0] + sign * 9, behind - 2, far[2], 1.9), (*end, 1.8), smooth=8))
    return Union(tuple(parts))


def _veins(rng: np.random.Generator, scene: Scene, side: Side) -> Union:
    """The renal vein into the vena cava, on the left in front of the aorta."""
    sign, (hx, hy, hz) = _sign(side), _hilum(scene, side)
    radius, drop = rng.uniform(4.2, 5.6), rng.uniform(-6, 4)
    root = (hx - sign * rng.uniform(4, 9), hy - 9 + rng.uniform(-1, 1), hz - 2)
    z = hz + drop
    way: tuple[tuple[float, float, float, float], ...]
    if side == "left":
        crossing = 0.75 * radius
        way = ((-14, 14, z + 2, radius), (-6, 5, z + 2, radius), (6, 3, z + 2, crossing), (18, 6, z + 1, radius))
    else:
        way = ((-20, 22, z, radius), (-29, 20, z, radius))
    return Union((tube(*way, (*root, radius), smooth=8), *_twigs(rng, scene, side, root, 0.6 * radius)))
