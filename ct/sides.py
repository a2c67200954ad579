"""Left and right of paired anatomies: told from the mask, or not at all.

A wrong side in a report can lead to the wrong side in the theatre. So every doubt (no spine in the scan, a kidney
across the midline, a liver on the left) ends in "not told", and the anatomy stays one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from config import Anatomy, Reason, load_vocabulary
from ct.anatomy import AnatomyMeasure, BoolArray, Box, Side, Sides, UInt8Array
from ct.measure import PIECE_SHARE
from ct.midline import Midline, find_midline
from ct.volume import Volume
from ct.waist import cut_in_two

RIGHT, LEFT = 1, 2
"""Values of a segmenter's own sides; 0 is none."""
OwnSides = Callable[[Box], UInt8Array]
"""What a segmenter itself says in a box of the scan: 0, RIGHT or LEFT, uint8 [z, y, x]."""

MOSTLY = 0.8
"""A piece lies on a side with this share of its voxels: lungs bulge over the midline, a spine is not straight."""
LARGELY = 0.9
"""The same for what was cut in two."""
ENTIRELY = 0.95
"""The same for a lone piece, which nothing on the other side confirms."""
LEAST_SHARE = 0.05
"""Less of the anatomy on one side is no organ but strays of the mask: not told."""
LEAST_CUT = 0.3
"""The same for what was cut in two: a lone lung may bulge far over the midline and have a waist there."""
STRAY_SHARE = 0.01
"""Pieces on the midline with less of the anatomy than this go to the side on which most of them lies."""
MAX_DISAGREEMENT = 0.1
"""Share of voxels of which the segmenter itself may say another side."""
MOST_ASTRAY = 0.5
"""With more of its voxels on the other side, what the segmenter says is swapped, not just unsure."""
APART_MM = 20.0
"""Least distance of left from right where there is no midline."""
NEAR_MM = 50.0
"""How far central anatomies may lie from the midline."""
SHIFTED_MM = 8.0
"""How far the heart's middle, which lies left of the midline, may be shifted to the right of it."""

_CENTRAL = ("esophagus", "aorta", "sacrum", "urinary_bladder")
_ON_THE_RIGHT, _ON_THE_LEFT, _HEART = "liver", "spleen", "heart"


@dataclass(frozen=True)
class ToldSides:
    """What is known about left and right of the paired anatomies of a scan."""

    sides: dict[str, Sides]
    """Those whose sides are known beyond doubt."""
    swapped: frozenset[str]
    """Those of which the segmenter's own left lies on the right: a mirrored image, or a wrong mask."""


@dataclass(frozen=True)
class _Body:
    """What is known about left and right of the body as a whole."""

    midline: Midline | None
    """In mm; None without a spine."""
    confirmed: bool
    """Whether other anatomies lie as they should to both sides of it, or on it."""
    mirrored: bool
    """Whether any of them lies where it should not: a mirrored image, or a mirrored patient."""


def tell_sides(
    volume: Volume,
    labels: UInt8Array,
    names: tuple[str, ...],
    measures: Mapping[str, AnatomyMeasure],
    own: OwnSides | None = None,
) -> ToldSides:
    """Left and right of every paired anatomy of `labels` (uint8 [z, y, x]; label i + 1 is `names[i]`) that is there.

    By the pieces of its mask and the midline of the body; what lies across the midline is divided by what the segmenter
    itself says (`own`), or, of anatomies whose sides touch, at its waist. An anatomy is left out if its sides cannot be
    told beyond doubt.
    """
    vocabulary = load_vocabulary()
    paired = [name for name in names if vocabulary.anatomy(name).paired and _there(measures, name)]
    if not paired:
        return ToldSides({}, frozenset())
    boxes = ndimage.find_objects(labels, max_label=len(names))
    body = _body(volume, labels, names, measures, boxes)
    told: dict[str, Sides] = {}
    swapped: set[str] = set()
    for name in paired:
        label = names.index(name) + 1
        box = boxes[label - 1]
        mask = labels[box] == label
        said = None if own is None else own(box)
        left = None if body.mirrored else _left(mask, box, volume, body, vocabulary.anatomy(name), said)
        if left is not None:
            told[name] = Sides(box, left, measure_sides(volume, box, mask, left))
        elif said is not None and _swapped(mask, said, box, volume, body):
            swapped.add(name)
    return ToldSides(told, frozenset(swapped))


def measure_sides(volume: Volume, box: Box, mask: BoolArray, left: BoolArray) -> dict[Side, AnatomyMeasure]:
    """What each side measures; all arrays are [z, y, x] of the box."""
    voxels, sums = {"left": 0, "right": 0}, {"left": 0.0, "right": 0.0}
    for hu, whole, part in zip(volume.hu[box], mask, left, strict=True):
        for side, plane in (("left", part), ("right", whole & ~part)):
            voxels[side] += int(np.count_nonzero(plane))
            sums[side] += float(hu.sum(where=plane, dtype=np.float64))
    sides: tuple[Side, Side] = ("left", "right")
    return {
        side: AnatomyMeasure(voxels[side], voxels[side] * volume.grid.voxel_ml, sums[side] / voxels[side])
        for side in sides
        if voxels[side]
    }


def _there(measures: Mapping[str, AnatomyMeasure], name: str) -> bool:
    return name in measures and measures[name].voxels > 0


def _body(
    volume: Volume,
    labels: UInt8Array,
    names: tuple[str, ...],
    measures: Mapping[str, AnatomyMeasure],
    boxes: list[Box],
) -> _Body:
    vocabulary = load_vocabulary()
    bones = tuple(i for i, name in enumerate(names, start=1) if vocabulary.anatomy(name).category == "bone")
    midline = find_midline(volume, labels, bones)
    x = {}
    for name in (*_CENTRAL, _ON_THE_RIGHT, _ON_THE_LEFT, _HEART):
        if _there(measures, name) and measures[name].doubt in (None, Reason.ANATOMY_CUT_OFF):
            label = names.index(name) + 1
            x[name] = _off_midline(labels, label, boxes[label - 1], volume, midline or Midline(0.0, 0.0))
    right, left = x.get(_ON_THE_RIGHT), x.get(_ON_THE_LEFT)
    swapped = right is not None and left is not None and right > left
    central = [abs(x[name]) <= NEAR_MM for name in _CENTRAL if name in x]
    if midline is None or not all(central):
        return _Body(None, confirmed=False, mirrored=swapped)
    between = right is not None and left is not None and right < 0 < left
    mirrored = swapped or (right or 0.0) > 0 or (left or 0.0) < 0 or x.get(_HEART, 0.0) < -SHIFTED_MM
    return _Body(midline, bool(central) or between, mirrored)


def _off_midline(labels: UInt8Array, label: int, box: Box, volume: Volume, midline: Midline) -> float:
    """Mean distance of an anatomy from the midline, mm; positive to the left."""
    by_z_and_x = (labels[box] == label).sum(axis=1)
    z = (box[0].start + np.arange(by_z_and_x.shape[0])) * volume.spacing[0]
    x = (box[2].start + np.arange(by_z_and_x.shape[1])) * volume.spacing[2]
    return float(np.average(x[None, :] - midline.x_mm(z)[:, None], weights=by_z_and_x))


def _left(
    mask: BoolArray, box: Box, volume: Volume, body: _Body, anatomy: Anatomy, said: UInt8Array | None
) -> BoolArray | None:
    """The left voxels of a mask [z, y, x] of the box; None if they cannot be told."""
    if body.midline is None:
        return None if said is None else _as_said(mask, said, volume.spacing[2])
    first = _first_left(box, volume, body.midline)
    pieces, count = ndimage.label(mask)
    sizes, lefts = _sizes(pieces, count, first)
    share = lefts / np.maximum(sizes, 1)
    left: BoolArray = (share >= 0.5)[pieces]
    least, least_share = MOSTLY, LEAST_SHARE
    across = (share < MOSTLY) & (share > 1 - MOSTLY) & (sizes > 0)
    if sizes[across].sum() > STRAY_SHARE * sizes.sum():
        middle = across[pieces]
        if said is not None:
            left[middle] = said[middle] == LEFT
        elif anatomy.sides_touch and (cut := cut_in_two(middle, volume.spacing, first)) is not None:
            left[middle] = cut[middle]
            least, least_share = LARGELY, LEAST_CUT
        else:
            return None
    if said is not None:
        other = mask & (said > 0) & ((said == LEFT) != left)
        if np.count_nonzero(other) > MAX_DISAGREEMENT * sizes.sum():
            return None
    main = int(np.count_nonzero(sizes >= PIECE_SHARE * sizes.max()))
    confirmed = body.confirmed or (said is not None and bool((said[mask] > 0).any()))
    held = _on_their_sides(mask, left, first)
    if held.lesser == 0:
        holds = confirmed and main == 1 and held.share >= ENTIRELY
    else:
        holds = held.lesser >= least_share and held.share >= least
    return left if holds else None


def _as_said(mask: BoolArray, said: UInt8Array, x_mm: float) -> BoolArray | None:
    """The segmenter's own left, without a midline to check it by: both sides must be there, in the right order."""
    left: BoolArray = mask & (said == LEFT)
    unsaid = np.count_nonzero(mask & (said == 0))
    return left if not unsaid and _apart_mm(mask, said, x_mm) >= APART_MM else None


def _apart_mm(mask: BoolArray, said: UInt8Array, x_mm: float) -> float:
    """How far the segmenter's left lies left of its right, mm; 0 if it says hardly any of one side."""
    lefts, rights = ((mask & (said == side)).sum(axis=(0, 1)) for side in (LEFT, RIGHT))
    if min(lefts.sum(), rights.sum()) < LEAST_SHARE * np.count_nonzero(mask):
        return 0.0
    columns = np.arange(mask.shape[2]) * x_mm
    return float(np.average(columns, weights=lefts) - np.average(columns, weights=rights))


def _swapped(mask: BoolArray, said: UInt8Array, box: Box, volume: Volume, body: _Body) -> bool:
    """Whether each side that the segmenter says lies for the most part on the other side of the midline.

    Without a midline: whether they lie the wrong way round. Two kidneys on one side are not swapped.
    """
    if body.midline is None:
        return _apart_mm(mask, said, volume.spacing[2]) <= -APART_MM
    if not body.confirmed:
        return False
    columns = np.arange(mask.shape[2])[None, None, :]
    on_the_left = columns >= _first_left(box, volume, body.midline)[:, None, None]
    astray = []
    for side, there in ((LEFT, on_the_left), (RIGHT, ~on_the_left)):
        part = mask & (said == side)
        voxels = np.count_nonzero(part)
        if voxels >= LEAST_SHARE * np.count_nonzero(mask):
            astray.append(np.count_nonzero(part & ~there) / voxels)
    return bool(astray and min(astray) > MOST_ASTRAY)


def _first_left(box: Box, volume: Volume, midline: Midline) -> npt.NDArray[np.int64]:
    """For each slice of a box, the column of the box from which on it lies left of the midline."""
    z_mm = (box[0].start + np.arange(box[0].stop - box[0].start)) * volume.spacing[0]
    columns = np.ceil(midline.x_mm(z_mm) / volume.spacing[2]).astype(np.int64) - box[2].start
    first: npt.NDArray[np.int64] = np.clip(columns, 0, box[2].stop - box[2].start)
    return first


def _sizes(
    pieces: npt.NDArray[np.int32], count: int, first: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Voxels of each piece (0 for the background), all and those left of the midline."""
    sizes, lefts = np.zeros(count + 1, dtype=np.int64), np.zeros(count + 1, dtype=np.int64)
    for plane, column in zip(pieces, first, strict=True):
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
        lefts += np.bincount(plane[:, column:].ravel(), minlength=count + 1)
    sizes[0] = lefts[0] = 0
    return sizes, lefts


@dataclass(frozen=True)
class _Held:
    """How a division of an anatomy agrees with the midline."""

    lesser: float
    """Share of the smaller side in the whole."""
    share: float
    """Of the side that agrees less (or of the only one): share of its voxels that lie on its side of the midline."""


def _on_their_sides(mask: BoolArray, left: BoolArray, first: npt.NDArray[np.int64]) -> _Held:
    whole = lefts = lefts_astray = rights_there = 0
    for plane, part, column in zip(mask, left, first, strict=True):
        whole += int(np.count_nonzero(plane))
        lefts += int(np.count_nonzero(part))
        lefts_astray += int(np.count_nonzero(part[:, :column]))
        rights_there += int(np.count_nonzero(plane[:, :column] & ~part[:, :column]))
    rights = whole - lefts
    shares = [1 - lefts_astray / lefts] if lefts else []
    shares += [rights_there / rights] if rights else []
    return _Held(min(lefts, rights) / whole, min(shares))
