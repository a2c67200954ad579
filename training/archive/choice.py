"""Which series of a study is taken: original axial CT, a soft tissue kernel, the thinnest, the most images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.uid import CTImageStorage

from config import Reason
from training.archive.entries import SeriesEntry, word

_NOT_TAKEN = frozenset(
    {"LOCALIZER", "SCOUT", "TOPOGRAM", "MIP", "MINIP", "MPR", "AVERAGE", "SCREEN SAVE", "CSA 3D EDITOR"}
)
_AXIAL = 0.9
"""Least cosine between the slice normal and the body axis; `ct.vet` looks closer, at all slices."""


class Kernel(IntEnum):
    """What a reconstruction kernel is for; the better for soft tissue, the smaller."""

    SOFT = 0
    UNKNOWN = 1
    SHARP = 2


_SIEMENS = re.compile(r"^[A-Z]{1,2}(\d{2})[A-Z]?(?:\\?\d)?$")
_CANON = re.compile(r"^FC(\d{2})")
_SOFT = frozenset({"STANDARD", "SOFT", "STND", "BODY", "A", "B", "C", "SMOOTH", "MEDIUM", "ABDOMEN"})
_SHARP = frozenset(
    {"LUNG", "BONE", "BONEPLUS", "BONE+", "EDGE", "DETAIL", "ULTRA", "HD LUNG", "CHST", "D", "E", "L", "LA", "YA", "YB",
     "YC", "YD", "YE", "SHARP", "HIGH"}
)  # fmt: skip


def kernel_of(name: str) -> Kernel:
    """By the names that GE, Philips, Siemens and Canon use.

    Siemens counts sharpness (B10 to B90; up to B49 soft tissue), Canon its FC numbers (FC01 to FC29 body), GE and
    Philips have names.
    """
    kernel = name.strip().upper()
    if kernel in _SOFT:
        return Kernel.SOFT
    if kernel in _SHARP or "LUNG" in kernel or "BONE" in kernel:
        return Kernel.SHARP
    if found := _CANON.match(kernel):
        return Kernel.SOFT if int(found[1]) < 30 else Kernel.SHARP
    if found := _SIEMENS.match(kernel):
        return Kernel.SOFT if int(found[1]) < 50 else Kernel.SHARP
    return Kernel.UNKNOWN


@dataclass(frozen=True)
class Candidate:
    """One series that may be taken."""

    entry: SeriesEntry
    header: Dataset = field(repr=False)
    kernel: Kernel
    thickness_mm: float


@dataclass(frozen=True)
class Choice:
    """The series that may be taken, the best first; and why there is none, if there is none."""

    candidates: tuple[Candidate, ...]
    reason: Reason = Reason.NO_ORIGINAL_SERIES


def choose(listed: Sequence[tuple[SeriesEntry, Dataset | None]], min_slices: int) -> Choice:
    """Rank the CT series of a study, each with the header of one image from its middle (None: it was not to be had)."""
    candidates, reasons = list[Candidate](), list[Reason]()
    for entry, header in listed:
        if header is None:
            reasons.append(Reason.INCOMPLETE_FETCH)
        elif (refused := _refused(entry, header, min_slices)) is not None:
            reasons.append(refused)
        else:
            candidates.append(
                Candidate(entry, header, kernel_of(_first(header, "ConvolutionKernel")), _thickness(header))
            )
    candidates.sort(
        key=lambda one: (one.kernel, one.thickness_mm, -(one.entry.instances or 0), one.entry.series_uid),
    )
    for telling in (Reason.INCOMPLETE_FETCH, Reason.BURNED_IN, Reason.TOO_FEW_SLICES):
        if telling in reasons:
            return Choice(tuple(candidates), telling)
    return Choice(tuple(candidates))


def burned_in(image: Dataset | Path) -> bool:
    """Whether an image says that annotations are burned into it, or that it was captured from a screen or scanned."""
    if isinstance(image, Path):
        image = dcmread(image, specific_tags=["BurnedInAnnotation", "ConversionType"], stop_before_pixels=True)
    return word(image.get("BurnedInAnnotation")).upper() == "YES" or bool(image.get("ConversionType"))


def _refused(entry: SeriesEntry, header: Dataset, min_slices: int) -> Reason | None:
    """Why a series is not taken; None if it is."""
    kinds = [str(one).strip().upper() for one in _values(header, "ImageType")]
    if header.get("SOPClassUID") != CTImageStorage or kinds[:2] != ["ORIGINAL", "PRIMARY"]:
        return Reason.NO_ORIGINAL_SERIES
    if not _NOT_TAKEN.isdisjoint(kinds) or not _axial(header):
        return Reason.NO_ORIGINAL_SERIES
    if burned_in(header):
        return Reason.BURNED_IN
    if entry.instances is not None and entry.instances < min_slices:
        return Reason.TOO_FEW_SLICES
    return None


def _axial(header: Dataset) -> bool:
    try:
        row_x, row_y, _, column_x, column_y, _ = (
            float(word(one)) for one in _values(header, "ImageOrientationPatient")
        )
    except ValueError:
        return False
    return abs(row_x * column_y - row_y * column_x) >= _AXIAL


def _thickness(header: Dataset) -> float:
    """mm; what is not said is thicker than anything that is."""
    try:
        thickness = float(word(header.get("SliceThickness")))
    except ValueError:
        return 1000.0
    return thickness if 0.0 < thickness < 1000.0 else 1000.0


def _values(header: Dataset, keyword: str) -> list[object]:
    value = header.get(keyword)
    return list(value) if isinstance(value, MultiValue | list) else [] if value is None else [value]


def _first(header: Dataset, keyword: str) -> str:
    return word(next(iter(_values(header, keyword)), ""))
