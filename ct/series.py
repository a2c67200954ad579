"""Headers of stored instances, without pixels, and their grouping into series.

An instance is a Part 10 stream: a whole file or a byte range of a spool segment (`SourceSlice`). Only what vetting,
ordering and decoding need is kept; of the patient only a digest of the id, which tells two patients apart.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from pydicom import Dataset, dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from config import Reason
from ct.part10 import (
    PixelSpan,
    Unfit,
    Window,
    data_set_start,
    is_uid,
    parsing,
    pixel_span,
    read_until_pixels,
)
from ct.volume import SourceSlice

Progress = Callable[[int, int], None]
"""Called with (done, total) after each step."""

CT_IMAGE = str(CTImageStorage)
ENHANCED_CT = (str(EnhancedCTImageStorage), str(LegacyConvertedEnhancedCTImageStorage))
PHASE_ATTRIBUTES = {
    "Acquisition Number": 0x00200012,
    "Temporal Position Identifier": 0x00200100,
    "Trigger Time": 0x00181060,
    "Nominal Percentage Of Cardiac Phase": 0x00209241,
    "KVP": 0x00180060,
    "Convolution Kernel": 0x00181210,
    "Image Type": 0x00080008,
}
"""Attributes that tell the phases, energies or reconstructions apart that some senders put into one series."""

_UID_TAGS = {"SOP Instance UID": 0x00080018, "Study Instance UID": 0x0020000D, "Series Instance UID": 0x0020000E}
_TAGS = {
    **_UID_TAGS,
    "image_type": 0x00080008, "sop_class": 0x00080016, "modality": 0x00080060, "position": 0x00200032,
    "orientation": 0x00200037, "frame_of_reference": 0x00200052, "samples": 0x00280002, "frames": 0x00280008,
    "slice_thickness": 0x00180050, "patient_id": 0x00100020,
    "rows": 0x00280010, "columns": 0x00280011, "spacing": 0x00280030, "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101, "high_bit": 0x00280102, "signed": 0x00280103, "padding": 0x00280120,
    "padding_limit": 0x00280121, "intercept": 0x00281052, "slope": 0x00281053, "rescale_type": 0x00281054,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What one instance says about itself. Numbers that are missing or not finite are None, texts empty."""

    source: SourceSlice
    transfer_syntax_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient: str
    """SHA-256 of the Patient ID (empty or not), hex: to be compared, never shown."""
    frame_of_reference_uid: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    """Pixel Representation: two's complement."""
    spacing: tuple[float, ...] | None
    """Pixel Spacing: mm between rows, between columns."""
    orientation: tuple[float, ...] | None
    """Image Orientation (Patient): direction cosines along a row, then along a column, LPS."""
    position: tuple[float, ...] | None
    """Image Position (Patient): centre of the first voxel, (x, y, z) in mm, LPS."""
    slice_thickness: float | None
    """Nominal slice thickness, mm."""
    slope: float | None
    intercept: float | None
    rescale_type: str
    padding: int | None
    """Pixel Padding Value as the stored 16-bit word, unsigned."""
    padding_limit: int | None
    """Pixel Padding Range Limit as the stored 16-bit word, unsigned."""
    phase: tuple[str, ...]
    """Values of `PHASE_ATTRIBUTES`."""
    pixels: PixelSpan | None
    """None for objects without pixel data."""

    @property
    def sop_instance_uid(self) -> str:
        return self.source.sop_instance_uid

    @property
    def is_localizer(self) -> bool:
        """Image Type says localizer, scout or topogram (PS3.3 C.8.2.1.1.1: value 3 LOCALIZER)."""
        return not {"LOCALIZER", "SCOUT", "TOPOGRAM"}.isdisjoint(value.upper() for value in self.image_type)


@dataclass(frozen=True)
class Series:
    """The instances of one Series Instance UID, in the order they were met."""

    study_instance_uid: str
    series_instance_uid: str
    headers: tuple[Header, ...]


@dataclass(frozen=True)
class Problem:
    """A file that could not be taken."""

    path: Path
    reason: Reason
    detail: str


@dataclass(frozen=True)
class FolderScan:
    """What lies in a folder: `series` in order of first appearance, `problems` in order of path."""

    series: list[Series] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_header(source: Path | SourceSlice) -> Header:
    """Read one instance up to its pixel data and check that the pixel data is all there.

    Raises `Unfit`: NOT_DICOM, TRUNCATED, BAD_UID, NO_PIXELS (a CT image without pixel data), UNDECODABLE.
    """
    where = source if isinstance(source, SourceSlice) else SourceSlice("", source)
    try:
        with where.path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            length = max(0, end - where.offset) if where.length is None else where.length
            if where.offset + length > end:
                raise Unfit(Reason.TRUNCATED, f"the file has {end} bytes, {where.offset + length} are needed")
            return _parse(Window(file, where.offset, length), where)
    except OSError as error:
        raise Unfit(Reason.NOT_DICOM, f"cannot be read: {error.strerror or error}") from error


def read_pixels(header: Header) -> bytes:
    """The value of Pixel Data of an instance whose header was read. Raises `Unfit`: NO_PIXELS, TRUNCATED."""
    if header.pixels is None:
        raise Unfit(Reason.NO_PIXELS, "the instance has no pixel data")
    source, span = header.source, header.pixels
    try:
        with source.path.open("rb") as file:
            if header.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
                length = os.fstat(file.fileno()).st_size - source.offset if source.length is None else source.length
                stream = data_set_start(Window(file, source.offset, length))[0]
                stream.seek(span.offset)
                data = stream.read(span.length)
            else:
                file.seek(source.offset + span.offset)
                data = file.read(span.length)
    except OSError as error:
        raise Unfit(Reason.TRUNCATED, f"cannot be read: {error.strerror or error}") from error
    if len(data) != span.length:
        raise Unfit(Reason.TRUNCATED, f"{span.length} bytes of pixel data expected, {len(data)} found")
    return data


def read_data_set(source: SourceSlice) -> Dataset:
    """The data set of a stored instance up to its pixel data. Raises OSError; `Unfit`: TRUNCATED if it is damaged."""
    with source.path.open("rb") as file, parsing():
        length = source.path.stat().st_size - source.offset if source.length is None else source.length
        window = Window(file, source.offset, length)
        return dcmread(cast(BinaryIO, window), stop_before_pixels=True, force=True)


def group(headers: Iterable[Header]) -> list[Series]:
    """Series by Series Instance UID, in order of first appearance; `vet` refuses one of several studies or patients."""
    found: dict[str, list[Header]] = {}
    for header in headers:
        found.setdefault(header.series_instance_uid, []).append(header)
    return [Series(members[0].study_instance_uid, uid, tuple(members)) for uid, members in found.items()]


def scan_folder(folder: Path, progress: Progress | None = None) -> FolderScan:
    """Find every series below a folder; symbolic links to folders are not followed.

    DICOMDIR and files that do not claim to be DICOM (neither `.dcm` nor the DICM prefix) are passed over; whatever
    claims to be DICOM and cannot be used is a problem. Raises NotADirectoryError.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    paths = sorted(_files(folder))
    headers: list[Header] = []
    problems: list[Problem] = []
    for done, path in enumerate(paths, start=1):
        try:
            header = read_header(path)
        except Unfit as unfit:
            if unfit.reason is not Reason.NOT_DICOM or path.suffix.lower() == ".dcm":
                problems.append(Problem(path, unfit.reason, unfit.detail))
        else:
            if header.sop_class_uid != MediaStorageDirectoryStorage:
                headers.append(header)
        if progress is not None:
            progress(done, len(paths))
    return FolderScan(group(headers), problems)


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if name != "DICOMDIR" and path.is_file():
                yield path


def _parse(window: Window, source: SourceSlice) -> Header:
    with parsing():
        stream, syntax = data_set_start(window)
        values = read_until_pixels(stream, syntax, [*_TAGS.values(), *PHASE_ATTRIBUTES.values()])
    end = stream.length
    sop_class = values.text(_TAGS["sop_class"])
    uids = {name: values.text(tag) for name, tag in _UID_TAGS.items()}
    for name, uid in uids.items():
        if not uid and stream.tell() >= end:
            raise Unfit(Reason.TRUNCATED, f"the data set ends without a {name}")
        if sop_class != MediaStorageDirectoryStorage and not is_uid(uid):
            raise Unfit(Reason.BAD_UID, f"{name} is {'not a UID' if uid else 'missing'}")
    if sop_class and not is_uid(sop_class):
        raise Unfit(Reason.BAD_UID, "SOP Class UID is not a UID")
    pixels = pixel_span(stream, end, syntax)
    if pixels is None and sop_class in (CT_IMAGE, *ENHANCED_CT):
        raise Unfit(Reason.NO_PIXELS, "the data set ends without pixel data")

    def word(name: str) -> int:
        return values.word(_TAGS[name]) or 0

    def number(name: str) -> float | None:
        found = values.floats(_TAGS[name], 1)
        return found[0] if found else None

    return Header(
        source=SourceSlice(uids["SOP Instance UID"], source.path, source.offset, source.length),
        transfer_syntax_uid=syntax,
        sop_class_uid=sop_class,
        study_instance_uid=uids["Study Instance UID"],
        series_instance_uid=uids["Series Instance UID"],
        patient=hashlib.sha256(values.raw(_TAGS["patient_id"])).hexdigest(),
        frame_of_reference_uid=values.text(_TAGS["frame_of_reference"]),
        modality=values.text(_TAGS["modality"]),
        image_type=values.texts(_TAGS["image_type"]),
        rows=word("rows"),
        columns=word("columns"),
        frames=int(number("frames") or 1),
        samples=word("samples"),
        bits_allocated=word("bits_allocated"),
        bits_stored=word("bits_stored"),
        high_bit=word("high_bit"),
        signed=word("signed") == 1,
        spacing=values.floats(_TAGS["spacing"], 2),
        orientation=values.floats(_TAGS["orientation"], 6),
        position=values.floats(_TAGS["position"], 3),
        slice_thickness=number("slice_thickness"),
        slope=number("slope"),
        intercept=number("intercept"),
        rescale_type=values.text(_TAGS["rescale_type"]),
        padding=values.word(_TAGS["padding"]),
        padding_limit=values.word(_TAGS["padding_limit"]),
        phase=tuple("\\".join(values.texts(tag)) for tag in PHASE_ATTRIBUTES.values()),
        pixels=pixels,
    )
