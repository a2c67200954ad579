"""What is seen but not labelled: skin, fat, muscle, bones, great vessels, airways, the lungs' vessels, the table."""

from dataclasses import dataclass

import numpy as np

from ct.phantom.canvas import Canvas, Patch
from ct.phantom.organs import Organs
from ct.phantom.patient import PhantomPatient, dice
from ct.phantom.shapes import Beads, Column, Ellipsoid, FloatArray, Shape, Union, column, tube
from ct.phantom.spine import paint_spine
from ct.phantom.tissues import Tissues


@dataclass(frozen=True)
class Stroke:
    """One shape painted in one value."""

    shape: Shape
    hu: float
    wave: float = 0.0
    inset: float = 0.0


@dataclass(frozen=True)
class Scenery:
    """Everything unlabelled, in the order it is painted."""

    trunk: Column
    cavity: Column
    fat_mm: float
    frame: tuple[Stroke, ...]
    """Before the organs: muscles, bones."""
    mediastinum: Column
    vessels: tuple[Stroke, ...]
    """After the lungs, before the organs: great vessels, airways."""
    pelvis: tuple[Stroke, ...]
    twigs: tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
    """Vessels of the right and the left lung: points [n, 3], radii [n]."""
    liver_vessels: Union
    table_y: float


def build(patient: PhantomPatient, tissue: Tissues) -> Scenery:
    """Lay out the unlabelled parts of one patient."""
    rng = dice(patient.seed, "scenery")
    muscle = tissue.muscle
    trunk = column(
        (330, 0, 26, 58, 50),
        (292, 0, 22, 66, 54),
        (272, 0, 16, 120, 66),
        (246, 0, 10, 160, 84),
        (205, 0, 6, 156, 100),
        (150, 0, 4, 148, 107),
        (90, 0, 4, 146, 109),
        (20, 0, 4, 145, 108),
        (-60, 0, 6, 138, 104),
        (-130, 0, 8, 136, 102),
        (-190, 0, 10, 146, 104),
        (-250, 0, 10, 160, 108),
        (-330, 0, 10, 158, 104),
        power=2.5,
        smooth=30,
    )
    cavity = column(
        (36, 0, -4, 118, 84),
        (-60, 0, -6, 118, 86),
        (-130, 0, -8, 116, 84),
        (-180, 0, -10, 106, 80),
        (-230, 0, -6, 78, 70),
        (-290, 0, -2, 58, 62),
        (-312, 0, 0, 40, 40),
        power=2.3,
        smooth=24,
    )
    return Scenery(
        trunk,
        cavity,
        patient.body.fat_mm,
        (*_arms(patient, tissue), *_muscles(muscle, tissue.fat)),
        column(
            (272, 0, 14, 34, 36),
            (235, 2, 8, 36, 56),
            (190, 3, 4, 34, 74),
            (140, 4, 2, 30, 84),
            (60, 6, 2, 26, 86),
            (-20, 6, 4, 26, 80),
        ),
        tuple(_great_vessels(patient, tissue)),
        tuple(_pelvis(patient, tissue)),
        (_twigs(rng, -1), _twigs(rng, 1)),
        _liver_vessels(rng),
        float(trunk.section(0)[1] + 108 + patient.body.fat_mm * 0.8 + 14),
    )


def _arms(patient: PhantomPatient, tissue: Tissues) -> list[Stroke]:
    """Both arms beside the trunk: fat, muscle, bone with marrow. Raised arms lie above the scan."""
    if patient.arms == "raised":
        return []
    reach, strokes = 194 + patient.body.fat_mm, []
    for side in (-1, 1):
        knots = (
            (side * 150, 16, 250),
            (side * (reach - 14), 16, 200),
            (side * reach, 12, 60),
            (side * reach, 4, -60),
            (side * (reach - 6), -24, -190),
            (side * (reach - 14), -50, -320),
        )
        layers = ((46.0, tissue.fat), (38.0, tissue.muscle), (12.0, tissue.bone + 190), (7.0, tissue.bone))
        strokes += [Stroke(tube(*((*knot, radius) for knot in knots), step=0.3), hu) for radius, hu in layers]
    return strokes


def paint_frame(canvas: Canvas, scene: Scenery, organs: Organs, tissue: Tissues) -> None:
    """Table, skin, fat, muscle, bones and the empty cavities."""
    trunk = canvas.patch(scene.trunk, grow=scene.fat_mm + 4)
    if canvas.edge < 3:
        canvas.paint(Ellipsoid((0, scene.table_y + 300, 0), (1500, 310, 5000)), -890, inset=0)
        canvas.paint(Ellipsoid((0, scene.table_y + 303, 0), (1500, 310, 5000)), -1000)
        canvas.fill(trunk, 10.0, inset=-scene.fat_mm - 2.2)
    canvas.fill(trunk, tissue.fat, inset=-scene.fat_mm)
    canvas.fill(trunk, tissue.muscle)
    for stroke in scene.frame:
        canvas.paint(stroke.shape, stroke.hu, wave=stroke.wave, inset=stroke.inset)
    canvas.paint(scene.cavity, tissue.fat + 4, wave=3)
    _paint_ribs(canvas, organs.cage, tissue)


def _paint_ribs(canvas: Canvas, cage: Column, tissue: Tissues) -> None:
    patch = canvas.patch(cage)
    if patch is None:
        return
    z, y, x = canvas.z[patch.box[0]], canvas.y[patch.box[1]], canvas.x[patch.box[2]]
    slant = z[:, None] - np.float32(0.42) * y[None, :]
    stripe = np.abs(np.mod(slant, np.float32(26)) - np.float32(13)) - np.float32(5.5)
    stripe = np.maximum(stripe, np.float32(-88) - z[:, None])
    shell = patch.field + np.float32(5)
    shell *= shell
    shell *= np.float32(1 / 9)
    shell += (np.maximum(stripe + np.float32(5.5), 0) ** 2 * np.float32(1 / 12) - np.float32(2.2))[:, :, None]
    shell += np.maximum(np.float32(18) - np.abs(x), 0)
    patch.field = shell
    hu = np.where(y < -62, tissue.muscle + 45, tissue.bone + 190).astype(np.float32)[None, :, None]
    canvas.fill(patch, hu)
    if canvas.edge < 3:
        marrow = Patch(patch.box, patch.field + np.float32(1.6))
        canvas.fill(marrow, np.where(y < -62, tissue.muscle + 45, tissue.bone).astype(np.float32)[None, :, None])


def paint_vessels(canvas: Canvas, scene: Scenery, tissue: Tissues) -> None:
    """Spine, great vessels and airways."""
    paint_spine(canvas, tissue.bone)
    for stroke in scene.vessels:
        canvas.paint(stroke.shape, stroke.hu, 0, wave=stroke.wave, inset=stroke.inset)


def paint_twigs(canvas: Canvas, scene: Scenery, hu: float, lung: int) -> None:
    """Vessels inside the lungs."""
    for points, radii in scene.twigs:
        if canvas.edge > 3:
            canvas.splat(points, radii, hu, lung)
        else:
            canvas.paint(Beads(points, np.maximum(radii, 0.55 * canvas.edge)), hu, within=lung)


def _muscles(muscle: float, fat: float) -> list[Stroke]:
    seat = column((-335, 0, 10, 152, 99), (-250, 0, 10, 154, 103), (-205, 0, 10, 128, 90), power=2.5, smooth=30)
    strokes = [Stroke(seat, fat + 14, 2), Stroke(Ellipsoid((0, -82, -240), (46, 9, 90)), muscle, 1)]
    for sign in (-1, 1):
        back = column((170, sign * 24, 96, 18, 9), (0, sign * 27, 86, 22, 13), (-170, sign * 26, 94, 22, 10))
        strokes += [
            Stroke(Ellipsoid((sign * 72, 80, -252), (58, 21, 62), (sign * 18, 0, 0)), muscle - 4, 2),
            Stroke(Ellipsoid((sign * 116, 24, -222), (24, 50, 56), (sign * -22, 0, 0)), muscle - 2, 2),
            Stroke(Ellipsoid((sign * 104, -48, -318), (36, 34, 62)), muscle, 2),
            Stroke(Ellipsoid((sign * 44, -18, -330), (32, 36, 46)), muscle - 2, 2),
            Stroke(Ellipsoid((sign * 136, -12, -290), (9, 36, 44), (sign * 16, 0, 0)), muscle, 1),
            Stroke(Ellipsoid((sign * 64, 26, -282), (13, 34, 30), (sign * 12, 0, 0)), muscle, 1),
            Stroke(Ellipsoid((sign * 118, 12, 216), (26, 30, 34), (0, 0, sign * 30)), fat, 4),
            Stroke(back, muscle),
            Stroke(Ellipsoid((sign * 66, 86, -60), (36, 7, 96), (sign * 20, 0, 0)), fat + 25, 3),
        ]
    return strokes


INFERIOR_CAVA = column((38, -20, 14, 13, 11), (-30, -20, 20, 13, 10), (-90, -18, 22, 11, 9), (-145, -12, 28, 11, 8))


def descending_aorta(patient: PhantomPatient) -> Column:
    """From the arch to the bifurcation."""
    wide = _aortic_width(patient)
    return column(
        (160, 22, 38, 12.5 * wide, 12.5 * wide),
        (60, 17, 42, 12 * wide, 12 * wide),
        (-20, 8, 26, 11 * wide, 11 * wide),
        (-90, 6, 18, 9.5 * wide, 9.5 * wide),
        (-142, 5, 22, 8.5 * wide, 8.5 * wide),
    )


def _aortic_width(patient: PhantomPatient) -> float:
    return float(dice(patient.seed, "vessels").uniform(0.9, 1.15) * (1 + 0.002 * (patient.age - 58)))


def _great_vessels(patient: PhantomPatient, tissue: Tissues) -> list[Stroke]:
    wide = _aortic_width(patient)
    arch = tube(
        (-14, -30, 108, 16 * wide),
        (-20, -30, 140, 16 * wide),
        (-14, -26, 172, 15 * wide),
        (4, -6, 186, 14 * wide),
        (18, 22, 178, 13 * wide),
        (22, 36, 156, 12.5 * wide),
        step=0.5,
    )
    iliacs = Union(
        tuple(
            tube(
                (4, 22, -138, 7),
                (s * 26, 28, -170, 6),
                (s * 48, 26, -205, 5.5),
                (s * 66, -18, -262, 5),
                (s * 72, -38, -320, 5),
                step=1.0,
            )
            for s in (-1, 1)
        )
    )
    upper = column((235, -24, -12, 8, 7), (190, -26, -12, 9, 9), (115, -26, -10, 10, 10))
    branches = Union(
        (
            tube((-12, -22, 180, 6.5), (-20, -14, 215, 6), (-28, -4, 262, 4.5), (-36, 0, 320, 3.5), step=1.0),
            tube((2, -10, 192, 4.5), (16, -6, 225, 4), (30, 2, 270, 3.5), (36, 2, 320, 3.5), step=1.0),
            tube((12, 8, 190, 5), (26, 4, 225, 4.5), (58, 0, 246, 4), (110, 0, 240, 4), step=1.0),
        )
    )
    trunk = Union(
        (
            tube((10, -44, 128, 14), (12, -34, 146, 14), (8, -12, 150, 12), (-30, 0, 144, 9), (-48, 4, 136, 7)),
            tube((12, -30, 148, 12), (28, -2, 152, 10), (44, 14, 146, 7)),
        ),
        blend=4,
    )
    veins = Union(
        (
            tube((-14, 6, 104, 8), (-42, 6, 108, 6), (-60, 4, 112, 4)),
            tube((12, 6, 106, 8), (42, 10, 112, 6), (58, 8, 116, 4)),
        )
    )
    trachea = column((322, 0, 0, 9, 9), (250, 0, 8, 9, 9.5), (200, 1, 10, 9, 9.5), (164, 1, 14, 10, 9))
    bronchi = Union(
        (
            tube((1, 14, 166, 9), (-20, 14, 148, 7), (-40, 14, 132, 5), (-54, 18, 112, 3.5)),
            tube((1, 14, 166, 9), (20, 15, 150, 6.5), (40, 18, 138, 5), (52, 24, 114, 3.5)),
        )
    )
    thyroid = Union((Ellipsoid((-17, 2, 288), (9, 11, 22)), Ellipsoid((17, 2, 288), (9, 11, 22))))
    sternum = column((215, 0, -90, 22, 6), (190, 0, -98, 20, 6), (120, 0, -103, 17, 5.5), (62, 0, -103, 14, 5))
    clavicles = tube((-130, 2, 262, 6), (-70, -30, 254, 6), (-18, -62, 226, 8))
    clavicles_left = tube((130, 2, 262, 6), (70, -30, 254, 6), (18, -62, 226, 8))
    heads = Union((Ellipsoid((-150, 16, 250), (22, 22, 24)), Ellipsoid((150, 16, 250), (22, 22, 24))))
    blades = Union(
        (
            Ellipsoid((-112, 78, 190), (36, 3.2, 62), (30, 8, 10)),
            Ellipsoid((112, 78, 190), (36, 3.2, 62), (-30, 8, -10)),
        )
    )
    bone = tissue.bone
    return [
        Stroke(thyroid, 105.0),
        Stroke(upper, tissue.aorta * 0.9),
        Stroke(trunk, tissue.blood),
        Stroke(veins, tissue.blood),
        Stroke(branches, tissue.aorta),
        Stroke(arch, tissue.aorta),
        Stroke(descending_aorta(patient), tissue.aorta),
        Stroke(iliacs, tissue.aorta),
        Stroke(INFERIOR_CAVA, tissue.cava),
        Stroke(trachea, 30.0, inset=-1.6),
        Stroke(bronchi, 20.0, inset=-1.4),
        Stroke(trachea, -985.0),
        Stroke(bronchi, -960.0),
        *(Stroke(shape, bone + 190) for shape in (sternum, clavicles, clavicles_left, heads, blades)),
        Stroke(sternum, bone - 30, inset=2.5),
        Stroke(heads, bone, inset=3.0),
    ]


def _pelvis(patient: PhantomPatient, tissue: Tissues) -> list[Stroke]:
    bone, strokes = tissue.bone, []
    for s in (-1, 1):
        wing = Ellipsoid((s * 92, 26, -178), (8, 60, 54), (s * -34, -12, s * 12))
        socket = Ellipsoid((s * 86, 8, -272), (32, 31, 33))
        joint = Ellipsoid((s * 89, 7, -276), (26.5, 26.5, 26.5))
        head = Ellipsoid((s * 89, 7, -276), (23, 23, 23))
        column_ = tube((s * 70, 50, -215, 11), (s * 72, 34, -245, 13), (s * 70, 42, -290, 11), (s * 66, 44, -320, 12))
        ramus = tube((s * 66, -22, -270, 10), (s * 36, -46, -284, 7.5), (s * 10, -56, -296, 9), (s * 34, -18, -318, 6))
        femur = tube((s * 92, 8, -280, 13), (s * 116, 16, -298, 14), (s * 126, 20, -322, 15))
        psoas = column((-20, s * 32, 42, 8, 9), (-90, s * 41, 42, 17, 18), (-160, s * 52, 30, 19, 20),
                       (-225, s * 66, -4, 18, 18), (-290, s * 84, -24, 15, 15))  # fmt: skip
        strokes += [
            Stroke(psoas, tissue.muscle, 1.5),
            Stroke(wing, bone + 210, 1.5),
            Stroke(wing, bone - 20, 1.5, inset=2.4),
            Stroke(column_, bone + 170),
            Stroke(column_, bone - 10, inset=3),
            Stroke(socket, bone + 190),
            Stroke(ramus, bone + 170),
            Stroke(ramus, bone - 10, inset=3),
            Stroke(joint, 60.0),
            Stroke(femur, bone + 180),
            Stroke(head, bone + 180),
            Stroke(head, bone + 90, inset=2.5),
            Stroke(femur, bone + 20, inset=4),
        ]
    if patient.sex == "M":
        strokes.append(Stroke(Ellipsoid((0, 2, -300), (24, 19, 16)), tissue.muscle - 12, 1))
    else:
        strokes.append(Stroke(Ellipsoid((4, 18, -250), (26, 19, 30), (0, 30, 0)), tissue.muscle + 10, 2))
    return strokes


def _twigs(rng: np.random.Generator, sign: int) -> tuple[FloatArray, FloatArray]:
    """A vessel tree from the hilum to the periphery of one lung."""
    hilum = np.array([sign * 46.0, 8.0, 134.0])
    count = 16
    height = rng.uniform(-10, 225, count)
    angle = rng.uniform(-1.35, 1.35, count)
    wide = np.interp(height, [-20, 100, 180, 240], [1.0, 1.0, 0.85, 0.5])
    ends = np.stack([sign * (30 + 88 * np.cos(angle)) * wide, 78 * np.sin(angle) * wide, height], axis=1)
    bends = hilum + 0.5 * (ends - hilum) + rng.normal(0, 14, (count, 3))
    t = np.linspace(0, 1, 40)[None, :, None]
    stems = (1 - t) ** 2 * hilum + 2 * t * (1 - t) * bends[:, None] + t**2 * ends[:, None]
    widths = np.broadcast_to(np.interp(t[0, :, 0], [0, 0.45, 1], [4.6, 2.9, 1.0]), (count, 40))
    which, at = np.repeat(np.arange(count), 3), rng.integers(12, 36, 3 * count)
    roots = stems[which, at]
    stops = roots + (ends - hilum)[which] * rng.uniform(0.2, 0.45, (3 * count, 1)) + rng.normal(0, 24, (3 * count, 3))
    u = np.linspace(0, 1, 18)[None, :, None]
    twigs = roots[:, None] * (1 - u) + stops[:, None] * u
    thin = widths[which, at][:, None] * 0.75 * (1 - u[:, :, 0]) + 0.8 * u[:, :, 0]
    points = np.concatenate([stems.reshape(-1, 3), twigs.reshape(-1, 3)])
    return points, np.concatenate([widths.ravel(), thin.ravel()])


def _liver_vessels(rng: np.random.Generator) -> Union:
    """Hepatic veins towards the vena cava and portal branches."""
    veins = []
    for x, y, z in ((-100, 20, -34), (-70, -44, -26), (-22, -46, -14)):
        jx, jy, jz = rng.uniform(-8, 8, 3)
        veins.append(
            tube((-22, 10, 18, 4.6), ((x - 20) / 2 + jx, y / 2, z / 3 + 4, 3.4), (x + jx, y + jy, z + jz, 1.8))
        )
    veins.append(tube((-66, -4, -42, 4), (-86, 16, -56, 3), (-98, 30 + rng.uniform(-6, 6), -70, 1.8)))
    veins.append(tube((-66, -4, -42, 4), (-84, -28, -44, 3), (-94, -44, -50 + rng.uniform(-6, 6), 1.8)))
    return Union(tuple(veins))
