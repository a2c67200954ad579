"""A vetted series -> `Volume`: every transfer syntax, every way of storing HU, any patient position."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from config import Reason
from ct.part10 import Unfit
from ct.series import Header, Progress, read_pixels, scan_folder
from ct.vetting import Vetted, vet
from ct.volume import Int16Array, Volume

AIR_HU = -1024
TISSUE_HU = (-900, 3071)
"""A Pixel Padding Value inside this range would punch holes into tissue: it is not taken for padding."""
_NATIVE = (
    str(ImplicitVRLittleEndian),
    str(ExplicitVRLittleEndian),
    str(ExplicitVRBigEndian),
    str(DeflatedExplicitVRLittleEndian),
)
_JPEG_SIZE_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Start of frame of JPEG (ISO 10918-1 table B.1) and JPEG-LS (ISO 14495-1)."""
_END_OF_CODE = b"\xff\xd9"
"""Last marker of all of them; decoders fill up what is missing before it without a word."""
_log = logging.getLogger(__name__)


class _WithoutTraceback(logging.Filter):
    """pydicom logs the traceback of each decoder it tries; the `Unfit` that follows says what is wrong."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None


logging.getLogger("pydicom.pixels.decoders.base").addFilter(_WithoutTraceback())


def load_volume(vetted: Vetted, progress: Progress | None = None) -> Volume:
    """Decode all slices into HU, int16 [z, y, x] on `vetted.grid`; values beyond int16 are clipped.

    HU = stored value * slope + intercept of each slice, rounded (PS3.3 C.11.1.1.2); padding becomes AIR_HU.
    Raises `Unfit`: UNDECODABLE, TRUNCATED, OUT_OF_MEMORY.
    """
    headers, grid = vetted.headers, vetted.grid
    first = _words(headers[0])  # before the volume is allocated: a header alone must not claim memory
    try:
        hu = np.empty(grid.shape, np.int16)
    except MemoryError as error:
        raise Unfit(Reason.OUT_OF_MEMORY, f"{2 * np.prod(grid.shape) / 2**30:.1f} GiB for the volume") from error
    stack = grid.source_axes.to_source(hu)
    for index, header in enumerate(headers):
        words = _words(header) if index else first
        stack[index] = hu_table(header)[words]
        if progress is not None:
            progress(index + 1, len(headers))
    return Volume(
        hu,
        grid,
        vetted.study_instance_uid,
        vetted.series_instance_uid,
        tuple(header.source for header in headers),
    )


def load_series(folder: Path | str) -> list[Volume]:
    """Every CT series below a folder that is fit to be read (`vet` with its defaults).

    What is left out is logged as a warning with its reason code. Raises NotADirectoryError, and the last `Unfit`
    if the folder holds nothing that can be read.
    """
    scan = scan_folder(Path(folder))
    refusals = [Unfit(problem.reason, problem.detail) for problem in scan.problems]
    volumes = []
    for series in scan.series:
        try:
            volumes.append(load_volume(vet(series)))
        except Unfit as unfit:
            refusals.append(unfit)
    for refusal in refusals:
        _log.warning("left out: %s", refusal)
    if not volumes and refusals:
        raise refusals[-1]
    return volumes


def hu_table(header: Header) -> Int16Array:
    """int16 [65536]: the HU of every stored 16-bit word of this slice."""
    if header.slope is None or header.intercept is None:
        raise Unfit(Reason.BAD_RESCALE, f"slope {header.slope}, intercept {header.intercept}")
    # decoders of encapsulated data return the stored bits right-aligned; in native data they end at High Bit
    encapsulated = header.pixels is not None and header.pixels.encapsulated
    high_bit = header.bits_stored - 1 if encapsulated else header.high_bit
    return _hu_table(
        header.slope,
        header.intercept,
        header.bits_stored,
        high_bit,
        header.signed,
        header.padding,
        header.padding_limit,
    )


@lru_cache(maxsize=32)
def _hu_table(
    slope: float,
    intercept: float,
    bits_stored: int,
    high_bit: int,
    signed: bool,
    padding: int | None,
    padding_limit: int | None,
) -> Int16Array:
    words = np.arange(65536, dtype=np.uint16)
    sample = np.dtype(np.int16 if signed else np.uint16)
    # shifted up and down again: bits outside the stored ones vanish, the sign is extended
    stored = (words << (15 - high_bit)).view(sample) >> (16 - bits_stored)
    with np.errstate(over="ignore", invalid="ignore"):
        hu = stored.astype(np.float64) * slope + intercept
    if padding is not None:
        ends = np.array([padding, padding if padding_limit is None else padding_limit], np.uint16).view(sample)
        low, high = int(ends.min()), int(ends.max())
        ends_hu = sorted((low * slope + intercept, high * slope + intercept))
        if ends_hu[1] < TISSUE_HU[0] or ends_hu[0] > TISSUE_HU[1]:
            # some senders pad with a word outside the stored bits: compare the whole word as well
            whole = words.view(sample)
            hu[((stored >= low) & (stored <= high)) | ((whole >= low) & (whole <= high))] = AIR_HU
    limits = np.iinfo(np.int16)
    table: Int16Array = np.clip(np.rint(np.nan_to_num(hu)), limits.min, limits.max).astype(np.int16)
    table.flags.writeable = False
    return table


def _words(header: Header) -> npt.NDArray[np.uint16]:
    """[rows, columns]: the pixels as 16-bit words."""
    data = read_pixels(header)
    if header.transfer_syntax_uid in _NATIVE and header.pixels is not None and not header.pixels.encapsulated:
        return _native(data, header)
    return _decoded(data, header)


def _native(data: bytes, header: Header) -> npt.NDArray[np.uint16]:
    shape = (header.rows, header.columns)
    count = header.rows * header.columns
    big = header.transfer_syntax_uid == ExplicitVRBigEndian
    if header.bits_allocated == 16:
        return np.frombuffer(data, ">u2" if big else "<u2", count).reshape(shape)
    samples = np.frombuffer(data, np.uint8)
    if big:  # two 8-bit samples a big-endian OW word (PS3.5 section 7.3 and annex A.3)
        samples = samples.reshape(-1, 2)[:, ::-1].reshape(-1)
    return samples[:count].astype(np.uint16).reshape(shape)


def _decoded(data: bytes, header: Header) -> npt.NDArray[np.uint16]:
    """Decode one frame with the plug-in that survives damaged data.

    Of pydicom's plug-ins gdcm aborts the process, pyjpegls loops without end on a cut image and pylibjpeg's RLE
    decoder panics past `except Exception`; those chosen here raised or decoded all of some thousand mutated images.
    """
    syntax = UID(header.transfer_syntax_uid)
    plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.signed),
        "pixel_keyword": "PixelData",
    }
    try:
        code = get_frame(data, 0, number_of_frames=1)
        declared = _codestream_shape(code)
        if declared is not None and not code.rstrip(b"\0").endswith(_END_OF_CODE):
            raise Unfit(Reason.UNDECODABLE, f"{syntax.name}: the compressed image is cut off")
        if declared not in (None, (header.rows, header.columns, 1)):
            raise Unfit(
                Reason.UNDECODABLE,
                f"compressed image of {declared} (rows, columns, samples), header of {header.rows} x {header.columns}",
            )
        array, _ = get_decoder(syntax).as_array(data, index=0, raw=True, decoding_plugin=plugin, **options)
    except Unfit:
        raise
    except Exception as error:  # the decoding plug-ins raise nearly any type on damaged data; each means the same
        raise Unfit(Reason.UNDECODABLE, f"{syntax.name}: {_one_line(error)}") from error
    if array.shape != (header.rows, header.columns) or array.dtype.itemsize > 2:
        raise Unfit(Reason.UNDECODABLE, f"{syntax.name}: decoded to {array.shape} {array.dtype}")
    return array.astype(np.int16 if header.signed else np.uint16, copy=False).view(np.uint16)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _codestream_shape(code: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None for RLE or unknown.

    A decoder allocates by these, not by the DICOM header.
    """
    start = code.find(b"\xff\x4f\xff\x51", 0, 1024)  # SOC, SIZ (ISO 15444-1 A.5.1); JP2 boxes may come before
    if start >= 0 and len(code) >= start + 42:
        x1, y1, x0, y0 = (int.from_bytes(code[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
        return y1 - y0, x1 - x0, int.from_bytes(code[start + 40 : start + 42], "big")
    if code[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(code):
        if code[at] != 0xFF:
            return None
        if code[at + 1] in _JPEG_SIZE_MARKERS:
            rows, columns = int.from_bytes(code[at + 5 : at + 7], "big"), int.from_bytes(code[at + 7 : at + 9], "big")
            return rows, columns, code[at + 9]
        at += 1 if code[at + 1] == 0xFF else 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    return None
