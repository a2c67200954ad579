"""Vetting: may this series be read as one CT volume, in which order, and on which grid?

Slices are ordered by position along the slice normal, foot to head; file names and Instance Number are not looked at.
Every refusal is an `Unfit` with a stable reason and one line for the PACS administrator (no UID, no patient data).
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from pydicom.uid import UID

from config import Reason
from ct.part10 import Unfit
from ct.series import CT_IMAGE, ENHANCED_CT, PHASE_ATTRIBUTES, Header, Series, read_pixels
from ct.volume import FloatArray, Grid, SourceAxes

MAX_OBLIQUITY_DEG = 10.0
"""Largest angle between a voxel axis and its patient axis. Less is kept, with its true affine; more is NON_AXIAL."""
MAX_SHEAR_DEG = 1.0
MAX_DRIFT_MM = 1.0
"""Slices that move sideways by more than both (angle to the normal; over the whole stack) are sheared: TILT."""
SAME_COSINE = 0.01
"""Direction cosines that differ by no more are the same orientation (0.6 degrees)."""
SAME_SPACING = 1e-3
"""Pixel spacings that differ by no more, relatively, are the same."""
SAME_POSITION_MM = 0.01
"""Slices closer along the normal lie at the same position."""
GAP = 1.5
"""A step of this many slice spacings or more misses slices."""
WHOLE = 0.2
"""Such a step is a gap if it is a whole number of slice spacings within this; otherwise the spacing is irregular."""
FEW_GAPS = 0.25
"""Up to this share of long steps they are gaps; with more, the spacing itself is irregular."""
MAX_STEP_MM = 10.0
MAX_STEP_THICKNESSES = 2.0
STEP_SLACK_MM = 1.0
"""Slices further apart than MAX_STEP_MM, or than MAX_STEP_THICKNESSES times their Slice Thickness and STEP_SLACK_MM,
leave most of the body unseen (interval scans such as 1 mm every 10 mm): no volume."""
MAX_JITTER = 0.1
MIN_JITTER_MM = 0.1
"""A slice may lie off the regular grid by the larger of MAX_JITTER slice spacings and MIN_JITTER_MM (rounding)."""
MAX_POSITION_MM = 1e5
MAX_SPACING_MM = 10.0
"""Positions and pixel spacings beyond these are not of a CT."""
MAX_MATRIX = 4096
"""Largest number of rows and columns taken."""
HU_TYPES = ("", "HU", "US")
"""Values of Rescale Type (0028,1054) taken as Hounsfield units; US is `unspecified` (PS3.3 C.11.1.1.2)."""


@dataclass(frozen=True)
class Vetted:
    """A series fit to be read as one volume."""

    study_instance_uid: str
    series_instance_uid: str
    headers: tuple[Header, ...]
    """One a slice, foot to head."""
    grid: Grid
    notes: tuple[str, ...] = ()
    """What was left out and why, one line each."""


def vet(series: Series, min_slices: int = 20, max_slices: int = 3000) -> Vetted:
    """Check a series and lay out its grid (geometry: PS3.3 C.7.6.2.1.1); at least two slices are needed.

    Raises `Unfit` with MIXED_PATIENT, MIXED_STUDY, NOT_CT, LOCALIZER, MULTI_FRAME, DUPLICATE_CONFLICT, TOO_FEW_SLICES,
    TOO_MANY_SLICES, NO_PIXELS, UNDECODABLE, BAD_RESCALE, NO_GEOMETRY, MIXED_SIZE, MIXED_FRAME_OF_REFERENCE,
    MIXED_ORIENTATION, GEOM_DUPLICATE, TILT, NON_AXIAL, GEOM_GAP or GEOM_IRREGULAR: the first that applies.
    """
    _check_whose(series.headers)
    headers, notes = _ct_slices(series.headers)
    headers, repeated = _unique(headers)
    if repeated:
        notes.append(f"{_slices(repeated)} came more than once with the same content")
    least = max(2, min_slices)
    if len(headers) < least:
        raise Unfit(Reason.TOO_FEW_SLICES, f"{_slices(len(headers))}, at least {least} are needed")
    if len(headers) > max_slices:
        raise Unfit(Reason.TOO_MANY_SLICES, f"{_slices(len(headers))}, at most {max_slices} are taken")
    for header in headers:
        _check_pixels(header)
    ordered, grid = _lay_out(headers)
    return Vetted(series.study_instance_uid, series.series_instance_uid, ordered, grid, tuple(notes))


def _check_whose(headers: tuple[Header, ...]) -> None:
    """One patient and one study (PS3.3 A.1.2), over all instances, what is left out later included."""
    for reason, what, owners in (
        (Reason.MIXED_PATIENT, "patients", Counter(header.patient for header in headers)),
        (Reason.MIXED_STUDY, "studies", Counter(header.study_instance_uid for header in headers)),
    ):
        if len(owners) > 1:
            raise Unfit(reason, f"{len(owners)} {what} with {_counts(owners)} images")


def _ct_slices(headers: tuple[Header, ...]) -> tuple[list[Header], list[str]]:
    """Single-frame CT images without localizers, and what was left out."""
    foreign = [h for h in headers if h.sop_class_uid not in (CT_IMAGE, *ENHANCED_CT)]
    if foreign or not headers:
        kinds = Counter(UID(h.sop_class_uid).name or "no SOP class" for h in foreign)
        named = ", ".join(f"{count} {name}" for name, count in kinds.most_common(3))
        raise Unfit(Reason.NOT_CT, f"{len(foreign)} of {len(headers)} instances are not CT images: {named}")
    for header in headers:
        if header.modality not in ("CT", ""):
            raise Unfit(Reason.NOT_CT, f"modality is {header.modality[:16]}")
        if header.sop_class_uid in ENHANCED_CT or header.frames > 1:
            raise Unfit(Reason.MULTI_FRAME, f"{UID(header.sop_class_uid).name} with {header.frames} frames")
    kept = [h for h in headers if not h.is_localizer]
    dropped = len(headers) - len(kept)
    if not kept:
        raise Unfit(Reason.LOCALIZER, f"all {len(headers)} images are localizers by their Image Type")
    if any(h.samples > 1 for h in kept):
        raise Unfit(Reason.NOT_CT, "colour images")
    return kept, [f"{dropped} localizer image{'s' * (dropped > 1)} left out"] if dropped else []


def _unique(headers: list[Header]) -> tuple[list[Header], int]:
    """One header a SOP Instance UID, and how many repetitions were dropped."""
    first: dict[str, Header] = {}
    for header in headers:
        known = first.setdefault(header.sop_instance_uid, header)
        if known is not header and not _same_content(known, header):
            raise Unfit(Reason.DUPLICATE_CONFLICT, "two different images have the same SOP Instance UID")
    return list(first.values()), len(headers) - len(first)


def _same_content(one: Header, other: Header) -> bool:
    same = one == replace(other, source=one.source, pixels=one.pixels)
    return same and (one.source == other.source or read_pixels(one) == read_pixels(other))


def _check_pixels(header: Header) -> None:
    """Whether the declared image fits what is stored, and can become Hounsfield units."""
    rows, columns, allocated = header.rows, header.columns, header.bits_allocated
    if header.pixels is None:
        raise Unfit(Reason.NO_PIXELS, "an image has no pixel data")
    if not (0 < rows <= MAX_MATRIX and 0 < columns <= MAX_MATRIX):
        raise Unfit(Reason.UNDECODABLE, f"{rows} x {columns} pixels; 1 to {MAX_MATRIX} a side are taken")
    stored, high = header.bits_stored, header.high_bit
    if header.samples != 1 or allocated not in (8, 16) or not 1 <= stored <= high + 1 <= allocated:
        raise Unfit(
            Reason.UNDECODABLE,
            f"{header.samples} samples a pixel, bits allocated {allocated}, stored {stored}, high bit {high}",
        )
    needed = rows * columns * allocated // 8
    if not header.pixels.encapsulated and header.pixels.length not in (needed, needed + needed % 2):
        raise Unfit(
            Reason.UNDECODABLE,
            f"{rows} x {columns} pixels of {allocated} bits need {needed} bytes, {header.pixels.length} are stored",
        )
    if header.slope is None or header.intercept is None or header.slope == 0:
        raise Unfit(Reason.BAD_RESCALE, f"slope {header.slope}, intercept {header.intercept}")
    if header.rescale_type.upper() not in HU_TYPES:
        raise Unfit(Reason.BAD_RESCALE, f"Rescale Type is {header.rescale_type[:16]}, not HU")


def _lay_out(headers: list[Header]) -> tuple[tuple[Header, ...], Grid]:
    """Slices foot to head and their grid in patient space."""
    first = headers[0]
    row, column, normal = _directions(headers)
    spacing = _common_plane(headers)
    positions = np.array([h.position for h in headers])
    # foot to head; a sagittal or coronal stack, refused below, in either direction
    along = positions @ (normal if normal[2] >= 0 else -normal)
    order = np.argsort(along, kind="stable")
    ordered = tuple(headers[i] for i in order)
    along, positions = along[order], positions[order]
    _check_duplicates(ordered, along)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_shear(positions, normal)
    _check_axial(row, column)
    _check_steps(along, positions, step)
    _check_coverage(ordered, float(np.linalg.norm(step)))
    return ordered, _grid(len(ordered), first, spacing, positions[0], step, row, column)


def _directions(headers: list[Header]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Unit vectors along a row, along a column and their cross product, common to all slices."""
    bad = [h for h in headers if h.orientation is None or h.position is None or h.spacing is None]
    if bad:
        names = {"orientation": "Image Orientation", "position": "Image Position", "spacing": "Pixel Spacing"}
        missing = [name for key, name in names.items() if getattr(bad[0], key) is None]
        raise Unfit(
            Reason.NO_GEOMETRY, f"{', '.join(missing)} missing or not numbers in {len(bad)} of {_slices(len(headers))}"
        )
    cosines = np.array([h.orientation for h in headers])
    rows, columns = cosines[:, :3], cosines[:, 3:]
    lengths = np.linalg.norm(cosines.clip(-2, 2).reshape(-1, 2, 3), axis=2)
    skew = np.abs((rows.clip(-2, 2) * columns.clip(-2, 2)).sum(axis=1))
    if np.any(np.abs(lengths - 1) > SAME_COSINE) or np.any(skew > SAME_COSINE):
        raise Unfit(Reason.NO_GEOMETRY, "Image Orientation is not a pair of perpendicular unit vectors")
    odd = int(np.any(np.abs(cosines - np.median(cosines, axis=0)) > SAME_COSINE, axis=1).sum())
    if odd:
        raise Unfit(
            Reason.MIXED_ORIENTATION, f"{odd} of {_slices(len(headers))} are oriented differently from the rest"
        )
    row = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
    column = columns.mean(axis=0) - row * (columns.mean(axis=0) @ row)
    column /= np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _common_plane(headers: list[Header]) -> tuple[float, float]:
    """(mm between rows, mm between columns), if all slices have one size, spacing and frame of reference."""
    sizes = Counter((h.rows, h.columns) for h in headers)
    if len(sizes) > 1:
        raise Unfit(Reason.MIXED_SIZE, ", ".join(f"{n} of {r} x {c} pixels" for (r, c), n in sizes.most_common(3)))
    spacings = np.array([h.spacing for h in headers])
    if np.any(spacings <= 0) or np.any(spacings > MAX_SPACING_MM):
        raise Unfit(Reason.NO_GEOMETRY, f"Pixel Spacing {spacings.min():.4g} to {spacings.max():.4g} mm")
    furthest = float(np.abs(np.array([h.position for h in headers])).max())
    if furthest > MAX_POSITION_MM:
        raise Unfit(Reason.NO_GEOMETRY, f"Image Position reaches {furthest:.4g} mm")
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    if np.any(high - low > SAME_SPACING * high):
        raise Unfit(Reason.MIXED_SIZE, f"Pixel Spacing runs from {low.min():.4g} to {high.max():.4g} mm")
    frames = Counter(h.frame_of_reference_uid for h in headers)
    if len(frames) > 1:
        raise Unfit(Reason.MIXED_FRAME_OF_REFERENCE, f"{len(frames)} frames of reference with {_counts(frames)} slices")
    if "" in frames:
        raise Unfit(Reason.NO_GEOMETRY, "Frame of Reference UID is missing")
    return float(spacings[0, 0]), float(spacings[0, 1])


def _check_duplicates(ordered: tuple[Header, ...], along: FloatArray) -> None:
    same = np.flatnonzero(np.diff(along) < SAME_POSITION_MM)
    if not len(same):
        return
    first = int(same[0])
    pair = (ordered[first].phase, ordered[first + 1].phase)
    differing = [
        f"{name} ({one[:40]}, {two[:40]})" for name, one, two in zip(PHASE_ATTRIBUTES, *pair, strict=True) if one != two
    ]
    told = f"; they differ in {', '.join(differing)}" if differing else ""
    places = len(along) - len(same)
    where = f"{places} position{'s' * (places > 1)}, the first at {along[first]:.1f} mm"
    raise Unfit(
        Reason.GEOM_DUPLICATE,
        f"{_slices(len(along))} at only {where}{told}",
    )


def _check_shear(positions: FloatArray, normal: FloatArray) -> None:
    """A tilted gantry moves every slice sideways by the same amount; one displaced slice does not move the median."""
    step = np.median(np.diff(positions, axis=0), axis=0)
    sideways = float(np.linalg.norm(step - normal * (step @ normal)))
    drift = sideways * (len(positions) - 1)
    angle = float(np.degrees(np.arctan2(sideways, abs(step @ normal))))
    if angle > MAX_SHEAR_DEG and drift > MAX_DRIFT_MM:
        raise Unfit(
            Reason.TILT, f"the slices are stacked at {angle:.1f} degrees to their normal (at most {MAX_SHEAR_DEG:g})"
        )


def _check_axial(row: FloatArray, column: FloatArray) -> None:
    """Each voxel axis must lie within MAX_OBLIQUITY_DEG of a patient axis, the slice axis of the body axis."""
    off_axis = _degrees_between(np.cross(row, column)[2])
    if off_axis > MAX_OBLIQUITY_DEG:
        raise Unfit(
            Reason.NON_AXIAL,
            f"the slice normal is {off_axis:.0f} degrees off the body axis (at most {MAX_OBLIQUITY_DEG:g})",
        )
    turned = max(_degrees_between(np.abs(row).max()), _degrees_between(np.abs(column).max()))
    if turned > MAX_OBLIQUITY_DEG:
        raise Unfit(
            Reason.NON_AXIAL,
            f"the images are turned by {turned:.0f} degrees in their plane (at most {MAX_OBLIQUITY_DEG:g})",
        )


def _degrees_between(cosine: float) -> float:
    return float(np.degrees(np.arccos(min(1.0, abs(cosine)))))


def _check_steps(along: FloatArray, positions: FloatArray, step: FloatArray) -> None:
    steps = np.diff(along)
    usual = float(np.median(steps))
    ratios = steps / usual
    long = np.flatnonzero(ratios >= GAP)
    whole = np.all(np.abs(ratios[long] - np.rint(ratios[long])) <= WHOLE)
    if 0 < len(long) <= FEW_GAPS * len(steps) and whole:
        missing = np.rint(ratios[long]).astype(int) - 1
        at, others = int(long[0]), len(long) - 1
        more = f"; {_slices(int(missing[1:].sum()))} at {others} more place{'s' * (others > 1)}" if others else ""
        raise Unfit(
            Reason.GEOM_GAP,
            f"{_slices(int(missing[0]))} missing between {along[at]:.1f} and {along[at + 1]:.1f} mm"
            f" (spacing {usual:.2f} mm){more}",
        )
    off_grid = np.linalg.norm(positions - positions[0] - np.arange(len(along))[:, None] * step, axis=1)
    worst = int(off_grid.argmax())
    if off_grid[worst] > max(MAX_JITTER * usual, MIN_JITTER_MM):
        raise Unfit(
            Reason.GEOM_IRREGULAR,
            f"steps between slices run from {steps.min():.2f} to {steps.max():.2f} mm; "
            f"the slice at {along[worst]:.1f} mm lies {off_grid[worst]:.2f} mm off the regular grid",
        )


def _check_coverage(ordered: tuple[Header, ...], step_mm: float) -> None:
    """Slices must lie close enough together for what is between them to be interpolated."""
    if step_mm > MAX_STEP_MM:
        raise Unfit(Reason.GEOM_GAP, f"slices lie {step_mm:.2f} mm apart, at most {MAX_STEP_MM:g} mm make a volume")
    known = [h.slice_thickness for h in ordered if h.slice_thickness is not None and h.slice_thickness > 0]
    thickness = float(np.median(known)) if known else None
    if thickness is not None and step_mm > MAX_STEP_THICKNESSES * thickness + STEP_SLACK_MM:
        raise Unfit(Reason.GEOM_GAP, f"slices of {thickness:.2f} mm lie {step_mm:.2f} mm apart: an interval scan")


def _grid(
    slices: int,
    first: Header,
    spacing: tuple[float, float],
    origin: FloatArray,
    step: FloatArray,
    row: FloatArray,
    column: FloatArray,
) -> Grid:
    """Grid whose axes grow to Superior, Posterior, Left, from slices stacked foot to head."""
    shape = (slices, first.rows, first.columns)
    directions = np.stack([step, column * spacing[0], row * spacing[1]])
    turned = abs(row[1]) > abs(row[0])  # rows run front to back: lateral decubitus
    order = (0, 2, 1) if turned else (0, 1, 2)
    by_axis = directions[list(order)]
    flipped = (False, bool(by_axis[1, 1] < 0), bool(by_axis[2, 0] < 0))
    affine = np.eye(4)
    affine[:3, 3] = origin
    for axis in range(3):
        affine[:3, axis] = -by_axis[axis] if flipped[axis] else by_axis[axis]
        if flipped[axis]:
            affine[:3, 3] += by_axis[axis] * (shape[order[axis]] - 1)
    z, y, x = (float(np.linalg.norm(vector)) for vector in by_axis)
    return Grid((slices, shape[order[1]], shape[order[2]]), (z, y, x), affine, SourceAxes(order, flipped))


def _counts(owners: Counter[str]) -> str:
    """The largest counts, without their owners."""
    return ", ".join(str(count) for _, count in owners.most_common(5))


def _slices(count: int) -> str:
    return f"{count} slice{'s' * (count != 1)}"
