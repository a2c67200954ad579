"""A Part 10 stream (PS3.10 section 7): where its data set starts, where its pixel data lies, its raw values.

Written for hostile bytes: nothing is read beyond the window, no declared length is believed, every loop is bounded.
"""

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from typing import BinaryIO, Literal, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from config import Reason

MAX_INFLATED_BYTES = 256 * 2**20
"""A deflated data set may not inflate beyond this (a classic CT slice has 0.5 to 8 MB)."""
MAX_FRAGMENTS = 100_000
MAX_READS = 400_000
"""Reads of a parser from one stream: some 200,000 elements, which takes a second (a classic CT slice has 100 to 500;
a megabyte of zeros would be 131,072)."""
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_FIRST_VRS = (b"UL", b"UI", b"CS", b"DA", b"TM", b"SH", b"OB")


_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(text: str) -> bool:
    """Digits and dots, 1 to 64 characters. Leading zeros of a component are let pass: they exist in archives."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


class Unfit(Exception):  # noqa: N818 - reads as what it is: raise Unfit(Reason.TILT, ...)
    """An instance or a series that cannot be used, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class PixelSpan:
    """Where the value of Pixel Data (7FE0,0010) lies in the Part 10 stream (deflated: in the inflated data set)."""

    offset: int
    length: int
    encapsulated: bool


class Window:
    """Read-only view of [start, start + length) of a file; reads never ask for more than is there."""

    def __init__(self, file: BinaryIO, start: int, length: int, most_reads: int = MAX_READS) -> None:
        """`most_reads`: how often it may be read from; the parser reads once or twice an element."""
        self._file, self._start, self.length, self._at = file, start, length, 0
        self._reads = most_reads

    def read(self, size: int = -1) -> bytes:
        """Raises `Unfit`: UNDECODABLE, if it was read from too often."""
        self._reads -= 1
        if self._reads < 0:
            raise Unfit(Reason.UNDECODABLE, "the data set has more elements than any image")
        left = max(0, self.length - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.length}[whence])
        return self._at

    def tell(self) -> int:
        return self._at


@contextmanager
def parsing() -> Iterator[None]:
    """Whatever goes wrong in pydicom's parser within is raised as Unfit: TRUNCATED."""
    try:
        yield
    except Unfit:
        raise
    except Exception as error:  # the parser raises nearly any type on damaged bytes; each means the same
        raise Unfit(Reason.TRUNCATED, f"the data set cannot be parsed ({type(error).__name__})") from error


def data_set_start(window: Window) -> tuple[Window, str]:
    """Stream positioned at the data set (inflated if deflated) and the transfer syntax UID (PS3.10 section 7)."""
    head = window.read(132)
    if head[128:] == b"DICM":
        start = 132
    elif _looks_like_data_set(head):
        start = 0
    else:
        raise Unfit(Reason.NOT_DICOM, "no DICM prefix, and not a bare data set" if head else "the file is empty")
    window.seek(start)
    meta = Values(read_dataset(cast(BinaryIO, window), False, True, stop_when=lambda tag, *_: tag >> 16 != 2))
    syntax = "".join(meta.texts(0x00020010)[:1])
    if not syntax:
        syntax = _guess_syntax(window)
    if not is_uid(syntax):
        raise Unfit(Reason.BAD_UID, "Transfer Syntax UID is not a UID")
    if syntax != DeflatedExplicitVRLittleEndian:
        return window, syntax
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflate.decompress(window.read(), MAX_INFLATED_BYTES)
    if inflate.unconsumed_tail:
        raise Unfit(Reason.UNDECODABLE, f"the deflated data set is larger than {MAX_INFLATED_BYTES} bytes")
    if not inflate.eof:
        raise Unfit(Reason.TRUNCATED, "the deflated data set is cut off")
    return Window(BytesIO(data), 0, len(data)), syntax


def _looks_like_data_set(head: bytes) -> bool:
    """A first element of group 0002 or 0008 with a known VR or a short implicit length: DICOM without preamble."""
    group_number, element = int.from_bytes(head[0:2], "little"), int.from_bytes(head[2:4], "little")
    explicit = head[4:6] in _FIRST_VRS
    implicit = int.from_bytes(head[4:8], "little") <= 64
    return len(head) >= 8 and group_number in (0x0002, 0x0008) and element <= 0x0018 and (explicit or implicit)


def _guess_syntax(window: Window) -> str:
    """Native syntax of a data set without file meta information."""
    at = window.tell()
    head = window.read(6)
    window.seek(at)
    if not (head[4:6].isalpha() and head[4:6].isupper()):
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if int.from_bytes(head[:2], "little") < 1024 else ExplicitVRBigEndian)


def read_until_pixels(stream: Window, syntax: str, tags: list[int]) -> "Values":
    """The values of `tags`; the stream stops at the pixel data or at its end."""
    data_set = read_dataset(
        cast(BinaryIO, stream),
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=lambda tag, *_: tag in _PIXEL_TAGS,
        specific_tags=tags,
    )
    return Values(data_set)


def pixel_span(stream: Window, end: int, syntax: str) -> PixelSpan | None:
    """Locate the pixel data at which reading stopped; None if there is none. Raises `Unfit`: TRUNCATED, UNDECODABLE."""
    start = stream.tell()
    if start > end:
        raise Unfit(Reason.TRUNCATED, f"the data set has {end} bytes and ends inside an element")
    order: Literal["big", "little"] = "big" if syntax == ExplicitVRBigEndian else "little"
    head = stream.read(12)
    tag = int.from_bytes(head[0:2], order) << 16 | int.from_bytes(head[2:4], order)
    if tag != 0x7FE00010:
        return None
    explicit = head[4:6] in (b"OB", b"OW", b"UN")  # read as an implicit length these would be odd, which is illegal
    length = int.from_bytes(head[8:12] if explicit else head[4:8], order)
    value = start + (12 if explicit else 8)
    if length == 0xFFFFFFFF:
        return PixelSpan(value, _fragments_end(stream, value, end) - value, True)
    if value + length > end:
        raise Unfit(Reason.TRUNCATED, f"{length} bytes of pixel data declared, {max(0, end - value)} are there")
    if UID(syntax).is_transfer_syntax and UID(syntax).is_encapsulated:
        raise Unfit(Reason.UNDECODABLE, f"pixel data is not encapsulated, but the transfer syntax is {syntax}")
    return PixelSpan(value, length, False)


def _fragments_end(stream: Window, at: int, end: int) -> int:
    """End of the last fragment (PS3.5 A.4)."""
    for _ in range(MAX_FRAGMENTS):
        if at == end:  # the sequence delimiter is missing, the fragments are complete
            return at
        stream.seek(at)
        item = stream.read(8)
        if item[:4] == b"\xfe\xff\xdd\xe0":
            return at + 8
        if item[:4] != b"\xfe\xff\x00\xe0" or len(item) < 8:
            break
        at += 8 + int.from_bytes(item[4:8], "little")
        if at > end:
            break
    raise Unfit(Reason.TRUNCATED, "the fragments of the pixel data are cut off or damaged")


class Values:
    """Raw element values as texts and numbers; what cannot be read as such is missing."""

    def __init__(self, data_set: Dataset) -> None:
        self._data_set = data_set

    def _raw(self, tag: int) -> RawDataElement | None:
        # keep_deferred: an empty value would be converted, which fails for a VR that does not exist
        element = self._data_set.get_item(tag, keep_deferred=True) if tag in self._data_set else None
        return element if isinstance(element, RawDataElement) and element.value else None

    def raw(self, tag: int) -> bytes:
        """The bytes of the value without padding, in whatever character set."""
        found = self._raw(tag)
        return (found.value or b"").strip(b" \0") if found is not None else b""

    def texts(self, tag: int) -> tuple[str, ...]:
        raw = self._raw(tag)
        if raw is None or raw.value is None:
            return ()
        return tuple(part.strip(" \0") for part in raw.value.decode("ascii", "replace").split("\\"))

    def text(self, tag: int) -> str:
        return "".join(self.texts(tag)[:1])

    def floats(self, tag: int, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(part) for part in self.texts(tag))
        except ValueError:
            return None
        return values if len(values) == count and all(isfinite(value) for value in values) else None

    def word(self, tag: int, default: int | None = None) -> int | None:
        raw = self._raw(tag)
        if raw is None or raw.value is None or len(raw.value) < 2:
            return default
        return int.from_bytes(raw.value[:2], "little" if raw.is_little_endian else "big")
