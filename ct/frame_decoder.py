"""Compressed frames -> 16-bit words, in a process with limits: the decoders are C code that is fed by strangers.

`python frame_decoder.py` reads one order (JSON) from its input and answers with one frame after another on its output;
`ct.decoding` starts it. Nothing of the node is imported here, so that it starts fast and holds no data but its own.
"""

import json
import os
import resource
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, RLELossless

READY = b"\x06"
"""First byte of the output: everything is imported, the limits hold."""
ANSWER = struct.Struct("<BI")
"""Before each frame: 1 and the length of its words, or 0 and the length of a line that says what is wrong; bytes."""
LONGEST_ERROR = 300
"""Bytes of such a line."""
_JPEG_SIZE_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Start of frame of JPEG (ISO 10918-1 table B.1) and JPEG-LS (ISO 14495-1)."""
_END_OF_CODE = b"\xff\xd9"
"""Last marker of all of them; decoders fill up what is missing before it without a word."""


class UndecodableError(ValueError):
    """The frame cannot be decoded, and why."""


@dataclass(frozen=True)
class Frame:
    """One encapsulated image of one frame, one sample a pixel: where it lies and what its header says."""

    path: str
    offset: int
    """Start of the value of Pixel Data in the file, bytes."""
    length: int
    """Bytes, item tags and delimiter included."""
    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool


@dataclass(frozen=True)
class Limits:
    """What a decoding process may use."""

    memory_bytes: int
    """Address space beyond what the started interpreter has."""
    cpu_s: int
    """Seconds of processor time for the whole order, the start included."""


def decode(data: bytes, frame: Frame) -> npt.NDArray[np.uint16]:
    """[rows, columns]: the pixels as 16-bit words. Raises UndecodableError; a decoder may also end the process.

    Of pydicom's plug-ins gdcm aborts the process, pyjpegls loops without end on a cut image and pylibjpeg's RLE
    decoder panics past `except Exception`; those chosen here raised or decoded all of some thousand mutated images.
    """
    syntax = UID(frame.transfer_syntax_uid)
    plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
    options: dict[str, Any] = {
        "rows": frame.rows,
        "columns": frame.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": frame.bits_allocated,
        "bits_stored": frame.bits_stored,
        "pixel_representation": int(frame.signed),
        "pixel_keyword": "PixelData",
    }
    try:
        code = get_frame(data, 0, number_of_frames=1)
        declared = _codestream_shape(code)
        if declared is not None and not code.rstrip(b"\0").endswith(_END_OF_CODE):
            raise UndecodableError(f"{syntax.name}: the compressed image is cut off")
        if declared not in (None, (frame.rows, frame.columns, 1)):
            raise UndecodableError(
                f"compressed image of {declared} (rows, columns, samples), header of {frame.rows} x {frame.columns}"
            )
        array, _ = get_decoder(syntax).as_array(data, index=0, raw=True, decoding_plugin=plugin, **options)
    except UndecodableError:
        raise
    except Exception as error:  # the decoding plug-ins raise nearly any type on damaged data; each means the same
        raise UndecodableError(f"{syntax.name}: {_one_line(error)}") from error
    if array.shape != (frame.rows, frame.columns) or array.dtype.itemsize > 2:
        raise UndecodableError(f"{syntax.name}: decoded to {array.shape} {array.dtype}")
    words: npt.NDArray[np.uint16] = array.astype(np.int16 if frame.signed else np.uint16, copy=False).view(np.uint16)
    return words


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


def encode_order(limits: Limits, frames: list[Frame]) -> bytes:
    """What the process reads."""
    return json.dumps({"limits": vars(limits), "frames": [vars(frame) for frame in frames]}).encode("ascii")


def run(order: BinaryIO, answers: BinaryIO) -> None:
    """Decode the frames of an order until one fails. Raises BrokenPipeError: nobody listens any more."""
    told = json.load(order)
    _limit(Limits(**told["limits"]))
    answers.write(READY)
    answers.flush()
    for frame in (Frame(**fields) for fields in told["frames"]):
        try:
            with Path(frame.path).open("rb") as file:
                file.seek(frame.offset)
                data = file.read(frame.length)
            words = np.ascontiguousarray(decode(data, frame))
        except (UndecodableError, MemoryError, OSError) as error:
            line = (str(error) or type(error).__name__).encode("ascii", "replace")[:LONGEST_ERROR]
            answers.write(ANSWER.pack(0, len(line)) + line)
            answers.flush()
            return
        answers.write(ANSWER.pack(1, words.nbytes))
        answers.write(words.data)
        answers.flush()


def _limit(limits: Limits) -> None:
    """No more memory, processor time or files than told, and no core dump: it would hold pixels (setrlimit(2))."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for kind, limit in (
        (resource.RLIMIT_AS, used + limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, highest = resource.getrlimit(kind)
        allowed = limit if highest == resource.RLIM_INFINITY else min(limit, highest)
        resource.setrlimit(kind, (allowed, highest if kind == resource.RLIMIT_CPU else allowed))


def main() -> None:
    """Serve one order on the standard streams."""
    try:
        run(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(1)  # no second attempt to flush


if __name__ == "__main__":
    main()
