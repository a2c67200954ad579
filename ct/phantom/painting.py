"""The organs put on a canvas, from the lungs down; later ones lie over earlier ones."""

from collections.abc import Mapping

import numpy as np

from ct.phantom.bowel import Loop
from ct.phantom.canvas import Canvas
from ct.phantom.organs import CAGE_INSET, Kidney, Organs
from ct.phantom.patient import PhantomPatient, find
from ct.phantom.scenery import Scenery, paint_twigs, paint_vessels
from ct.phantom.shapes import Ellipsoid
from ct.phantom.tissues import Tissues


def paint_organs(
    canvas: Canvas,
    patient: PhantomPatient,
    organs: Organs,
    scenery: Scenery,
    tissue: Tissues,
    labels: Mapping[str, int],
) -> None:
    """Paint everything labelled, and the vessels and bones between, on a canvas that shows the trunk."""
    _chest(canvas, organs, scenery, tissue, labels)
    _heart(canvas, patient, organs, tissue, labels["heart"])
    _esophagus(canvas, organs, tissue, labels["esophagus"])
    for stroke in scenery.pelvis:
        canvas.paint(stroke.shape, stroke.hu, wave=stroke.wave, inset=stroke.inset)
    _sacrum(canvas, organs, tissue, labels["sacrum"])
    _liver(canvas, organs, scenery, tissue, labels["liver"])
    _spleen(canvas, organs, tissue, labels["spleen"])
    _stomach(canvas, organs, tissue, labels["stomach"])
    for loop in organs.small_bowel:
        _loop(canvas, loop, tissue.bowel, labels["small_intestine"])
    for loop in organs.colon:
        _loop(canvas, loop, tissue.bowel, labels["colon"])
    _bladder(canvas, organs, tissue, labels["urinary_bladder"])
    for kidney in organs.kidneys:
        _kidney(canvas, kidney, tissue, labels["kidney"])
    canvas.paint(organs.pancreas, tissue.pancreas, labels["pancreas"], wave=1.2)
    gallbladder = canvas.patch(organs.gallbladder, wave=1.5)
    canvas.fill(gallbladder, tissue.bowel, labels["gallbladder"])
    canvas.fill(gallbladder, tissue.bile, inset=1.8)
    for gland in organs.adrenals:
        canvas.paint(gland, tissue.adrenal, labels["adrenal_gland"])
    canvas.paint(organs.portal_vein, tissue.portal, labels["portal_vein"])


def _chest(canvas: Canvas, organs: Organs, scenery: Scenery, tissue: Tissues, labels: Mapping[str, int]) -> None:
    lung = labels["lung"]
    cage = canvas.patch(organs.cage)
    if cage is not None:
        floor = (np.float32(-58.0) - canvas.z[cage.box[0]])[:, None, None]
        np.maximum(cage.field, floor - np.float32(CAGE_INSET), out=cage.field)
        gravity = canvas.y[cage.box[1]] * np.float32(0.28)
        canvas.fill(cage, (tissue.lung + gravity)[None, :, None], lung, inset=CAGE_INSET, shade=0.35)
        paint_twigs(canvas, scenery, tissue.muscle, lung)
    domes = canvas.patch(organs.domes, wave=1.5)
    canvas.fill(domes, tissue.muscle, 0, within=lung, shade=-0.35)
    _fat_below(canvas, organs, tissue)
    canvas.fill(canvas.patch(scenery.mediastinum, wave=3), tissue.fat + 8, 0, within=lung, shade=-0.35)
    paint_vessels(canvas, scenery, tissue)


def _fat_below(canvas: Canvas, organs: Organs, tissue: Tissues) -> None:
    """Fat under the diaphragm, a muscle's thickness below it and inside of the ribs."""
    patch = canvas.patch(organs.domes, wave=1.5, cut=organs.cage)
    if patch is None:
        return
    cage = organs.cage.field(canvas.z[patch.box[0]], canvas.y[patch.box[1]], canvas.x[patch.box[2]], 10.0)
    np.maximum(patch.field + np.float32(3), cage + np.float32(CAGE_INSET + 2), out=patch.field)
    canvas.fill(patch, tissue.fat)


def _heart(canvas: Canvas, patient: PhantomPatient, organs: Organs, tissue: Tissues, label: int) -> None:
    fluid = find(patient.diseases, "heart.pericardial_effusion")
    rim = 0.0 if fluid is None else fluid.size_mm
    patch = canvas.patch(organs.heart, grow=rim + 6, wave=1.0)
    canvas.fill(patch, tissue.fat + 6, 0, inset=-3.0 - rim, shade=-0.35)
    if fluid is not None:
        canvas.fill(patch, fluid.hu, label, inset=-rim)
    canvas.fill(patch, tissue.myocardium, label)
    canvas.fill(patch, tissue.blood, inset=7.0)
    wall = canvas.patch(organs.ventricle, grow=11)
    canvas.fill(wall, tissue.myocardium, inset=-9.0, within=label)
    canvas.fill(wall, tissue.blood)


def _esophagus(canvas: Canvas, organs: Organs, tissue: Tissues, label: int) -> None:
    tube = canvas.patch(organs.esophagus)
    canvas.fill(tube, tissue.bowel - 4, label)
    canvas.fill(tube, -350.0, inset=5.2, gain=0.7)
    if organs.hernia is not None:
        bulge = canvas.patch(organs.hernia, wave=1.5)
        canvas.fill(bulge, tissue.bowel, label)
        content = np.where(canvas.y < organs.hernia.centre[1] - 6, -800.0, 25.0).astype(np.float32)
        if bulge is not None:
            canvas.fill(bulge, content[bulge.box[1]][None, :, None], inset=3.5)


def _liver(canvas: Canvas, organs: Organs, scenery: Scenery, tissue: Tissues, label: int) -> None:
    patch = canvas.patch(organs.liver, wave=2.5, cut=organs.liver_cut)
    if patch is None:
        return
    axes = canvas.z[patch.box[0]], canvas.y[patch.box[1]], canvas.x[patch.box[2]]
    np.maximum(patch.field, organs.cage.field(*axes, 10.0) + np.float32(CAGE_INSET + 2), out=patch.field)
    np.maximum(patch.field, organs.domes.field(*axes, 10.0) + np.float32(2.5), out=patch.field)
    canvas.fill(patch, tissue.liver, label)
    blood = tissue.portal * 0.5 + tissue.cava * 0.5
    canvas.paint(scenery.liver_vessels, blood, within=label, gain=0.8)


def _spleen(canvas: Canvas, organs: Organs, tissue: Tissues, label: int) -> None:
    patch = canvas.patch(organs.spleen, wave=2.5)
    if patch is None:
        return
    axes = canvas.z[patch.box[0]], canvas.y[patch.box[1]], canvas.x[patch.box[2]]
    np.maximum(patch.field, organs.cage.field(*axes, 10.0) + np.float32(CAGE_INSET + 2), out=patch.field)
    canvas.fill(patch, tissue.spleen, label)


def _stomach(canvas: Canvas, organs: Organs, tissue: Tissues, label: int) -> None:
    _loop(canvas, organs.stomach, tissue.bowel, label, wave=2.0)


def _loop(canvas: Canvas, loop: Loop, wall_hu: float, label: int, wave: float = 1.0) -> None:
    wall = canvas.patch(loop.wall, wave=wave)
    if wall is None:
        return
    canvas.fill(wall, wall_hu, label)
    lumen = canvas.patch(loop.lumen, wave=wave)
    if lumen is None:
        return
    y = canvas.y[lumen.box[1]]
    share = np.clip((loop.gas_above - y) / canvas.edge + 0.5, 0, 1)
    content = (loop.content_hu + share * (-900.0 - loop.content_hu)).astype(np.float32)
    canvas.fill(lumen, content[None, :, None], within=label)


def _kidney(canvas: Canvas, kidney: Kidney, tissue: Tissues, label: int) -> None:
    outer = canvas.patch(kidney.outer, wave=1.2)
    if outer is None:
        return
    canvas.fill(outer, tissue.cortex, label)
    canvas.paint(kidney.medulla, tissue.medulla, within=label, edge=max(6.0, canvas.edge))
    if kidney.dilated:
        pelvis = canvas.patch(kidney.sinus, wave=1.0)
        canvas.fill(pelvis, tissue.urine + 3, label)
        canvas.paint(kidney.calyces, tissue.urine + 3, label)
        return
    canvas.paint(kidney.sinus, tissue.fat + 20, wave=1.5, within=label)
    slim = Ellipsoid(kidney.sinus.centre, (4.0, 5.0, 13.0), kidney.sinus.angles)
    canvas.paint(slim, tissue.urine + 8, within=label)


def _bladder(canvas: Canvas, organs: Organs, tissue: Tissues, label: int) -> None:
    patch = canvas.patch(organs.bladder, wave=1.5)
    canvas.fill(patch, tissue.bowel - 8, label)
    canvas.fill(patch, tissue.urine, inset=2.8)


def _sacrum(canvas: Canvas, organs: Organs, tissue: Tissues, label: int) -> None:
    patch = canvas.patch(organs.sacrum, wave=1.0)
    if patch is None:
        return
    canvas.fill(patch, tissue.bone + 220, label)
    canvas.fill(patch, tissue.bone, inset=2.2)
    for sign in (-1, 1):
        for height, x, y in ((-185, 25, 70), (-205, 20, 80), (-224, 15, 88)):
            hole = Ellipsoid((sign * x, y, height), (4.0, 14, 4.5), (0, 20, 0))
            canvas.paint(hole, -20.0, within=label)
