"""A vetted series -> `Volume`: every transfer syntax, every way of storing HU, any patient position."""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from config import Reason
from ct.decoding import decode_frames
from ct.frame_decoder import Frame
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
_log = logging.getLogger(__name__)


def load_volume(vetted: Vetted, progress: Progress | None = None) -> Volume:
    """Decode all slices into HU, int16 [z, y, x] on `vetted.grid`; values beyond int16 are clipped.

    HU = stored value * slope + intercept of each slice, rounded (PS3.3 C.11.1.1.2); padding becomes AIR_HU.
    Raises `Unfit`: UNDECODABLE, TRUNCATED, OUT_OF_MEMORY, INTERNAL (`ct.decoding`).
    """
    headers, grid = vetted.headers, vetted.grid
    with closing(_words(headers)) as images:
        first = next(images)  # before the volume is allocated: a header alone must not claim memory
        try:
            hu = np.empty(grid.shape, np.int16)
        except MemoryError as error:
            raise Unfit(Reason.OUT_OF_MEMORY, f"{2 * np.prod(grid.shape) / 2**30:.1f} GiB for the volume") from error
        stack = grid.source_axes.to_source(hu)
        for index, header in enumerate(headers):
            words = next(images) if index else first
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


def _words(headers: Sequence[Header]) -> Generator[npt.NDArray[np.uint16]]:
    """[rows, columns] of each slice in turn: the pixels as 16-bit words."""
    frames = {index: _frame(header) for index, header in enumerate(headers) if _compressed(header)}
    decoded = decode_frames(list(frames.values()))
    with closing(decoded):
        for index, header in enumerate(headers):
            yield next(decoded) if index in frames else _native(read_pixels(header), header)


def _compressed(header: Header) -> bool:
    return header.pixels is not None and (header.pixels.encapsulated or header.transfer_syntax_uid not in _NATIVE)


def _frame(header: Header) -> Frame:
    """Where and how the one frame of a compressed slice is stored."""
    assert header.pixels is not None
    if header.transfer_syntax_uid in _NATIVE:
        raise Unfit(Reason.UNDECODABLE, "pixel data is encapsulated, but the transfer syntax is not compressed")
    return Frame(
        str(header.source.path),
        header.source.offset + header.pixels.offset,
        header.pixels.length,
        header.transfer_syntax_uid,
        header.rows,
        header.columns,
        header.bits_allocated,
        header.bits_stored,
        header.signed,
    )


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
