"""The spool: a journal of append-only segment files, one an association, that holds every image the node answered for.

A record is a fixed header (names, lengths, two CRC-32) and a whole DICOM Part 10 stream. Here is the format and how it
is read; `node.segment_writer` writes it. `docs/operations/spool.md` gives the format.
"""

import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from node.file_meta import Origin

SUFFIX = ".seg"
MAGIC = b"FVLMSEG\n"
VERSION = 1
_HEADER = struct.Struct("<8s2H2I4x3Q64s64s64s16s16s12xI")
"""magic, version, header length, data set offset, CRC of the payload, reserved, payload length, received (ns), data set
length, SOP class, SOP instance, transfer syntax, calling AE, called AE, reserved, CRC of everything before it."""
HEADER_LENGTH = _HEADER.size
_END_MAGIC = b"FVLMEND\n"
_END_MARK = struct.Struct("<8s2H4xQ4xI")
"""magic, version, how (1 released, 2 broken off), reserved, when (ns), reserved, CRC of everything before it."""
END_MARK_LENGTH = _END_MARK.size

Buffer = bytes | bytearray | memoryview


class SpoolError(OSError):
    """The record could not be made durable; nothing may be answered with success. The segment is abandoned."""


class SegmentBusyError(RuntimeError):
    """The segment still has a writer (or somebody else holds it)."""


@dataclass(frozen=True)
class Record:
    """One record of a segment. All positions in bytes from the start of the segment."""

    segment: str
    """File name of the segment."""
    start: int
    """Where the record's header starts."""
    offset: int
    """Where the Part 10 stream starts."""
    length: int
    """Length of the Part 10 stream."""
    data_set_offset: int
    """Where the data set, as it was sent, starts."""
    received_at: datetime
    origin: Origin

    @property
    def end(self) -> int:
        """Where the next record starts."""
        return self.offset + self.length


@dataclass(frozen=True)
class Damage:
    """Bytes of a segment that are not a good record."""

    segment: str
    start: int
    length: int
    sop_instance_uid: str
    """From the header if that is good, else empty."""
    last: bool
    """True: no good record follows; usually a write that a crash cut short, never acknowledged. False: the disk lost
    what it had confirmed, and the scan goes on behind it."""


class Ending(StrEnum):
    """How the association ended that wrote a segment."""

    RELEASED = "released"
    """In order: the sender asked for its release (PS3.8 section 7.2)."""
    BROKEN_OFF = "broken_off"
    """Aborted by either side, or the connection was lost."""


_ENDINGS = {Ending.RELEASED: 1, Ending.BROKEN_OFF: 2}


@dataclass(frozen=True)
class EndMark:
    """The last thing in a segment: its association has ended. A segment without one was cut off by a crash."""

    ending: Ending
    at: datetime


def free_bytes(folder: Path) -> int:
    """Bytes that the node may still write on the disk of `folder`. Raises OSError."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def sync_folder(folder: Path) -> None:
    """Make creations, renames and removals in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def segments(folder: Path) -> list[Path]:
    """The segments of a spool, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def encode_header(origin: Origin, checksum: int, length: int, head_length: int, received: int) -> bytes:
    """The header of a record (see `_HEADER`). `length`, `head_length`: bytes of the payload and of its part before the
    data set; `received`: ns since 1970. Raises ValueError for a text that is too long or not ASCII.
    """
    fields = [
        text.encode("ascii")
        for text in (
            origin.sop_class_uid,
            origin.sop_instance_uid,
            origin.transfer_syntax_uid,
            origin.calling_ae,
            origin.called_ae,
        )
    ]
    for field, limit in zip(fields, (64, 64, 64, 16, 16), strict=True):
        if len(field) > limit:
            raise ValueError(f"a UID or AE title is longer than {limit} bytes")
    header = _HEADER.pack(
        MAGIC, VERSION, HEADER_LENGTH, head_length, checksum, length, received, length - head_length, *fields, 0
    )
    return header[:-4] + struct.pack("<I", zlib.crc32(header[:-4]))


def encode_end(ending: Ending, at: int) -> bytes:
    """The mark that ends a segment (see `_END_MARK`). `at`: ns since 1970."""
    mark = _END_MARK.pack(_END_MAGIC, VERSION, _ENDINGS[ending], at, 0)
    return mark[:-4] + struct.pack("<I", zlib.crc32(mark[:-4]))


def _decode_end(header: Buffer) -> EndMark | None:
    """The end mark at the beginning of `header`; None if there is none, or not a good one."""
    if len(header) < END_MARK_LENGTH:
        return None
    magic, version, how, at, own = _END_MARK.unpack_from(header)
    if magic != _END_MAGIC or version != VERSION or own != zlib.crc32(header[: END_MARK_LENGTH - 4]):
        return None
    ending = next((ending for ending, number in _ENDINGS.items() if number == how), None)
    return None if ending is None else EndMark(ending, datetime.fromtimestamp(at / 1e9, UTC))


def _decode_header(segment: str, start: int, header: Buffer) -> tuple[Record, int] | None:
    """The record that a header announces and the CRC of its payload; None if the header is not good."""
    if len(header) < HEADER_LENGTH:
        return None
    magic, version, size, head_length, checksum, length, received, data_length, *texts, own = _HEADER.unpack(header)
    if magic != MAGIC or version != VERSION or size != HEADER_LENGTH or own != zlib.crc32(header[:-4]):
        return None
    if head_length + data_length != length:
        return None
    record = Record(
        segment=segment,
        start=start,
        offset=start + HEADER_LENGTH,
        length=length,
        data_set_offset=start + HEADER_LENGTH + head_length,
        received_at=datetime.fromtimestamp(received / 1e9, UTC),
        origin=Origin(*(text.rstrip(b"\0").decode("ascii") for text in texts)),
    )
    return record, checksum


class SegmentReader:
    """A segment mapped into memory; grows with it."""

    def __init__(self, path: Path) -> None:
        """Map the segment. Raises OSError."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._map: mmap.mmap | None = None
        self.refresh()

    def refresh(self) -> None:
        """Map the file in its present size. Views taken before stay usable. Raises OSError."""
        size = os.fstat(self._descriptor).st_size
        if size != (len(self._map) if self._map else 0):
            self._unmap()
            with suppress(ValueError):  # it is empty
                # Not `size`: the writer may cut off its preallocated tail between the two calls.
                self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def view(self, offset: int, length: int) -> memoryview:
        """Bytes of a good record without a copy."""
        return memoryview(self._map)[offset : offset + length] if self._map else memoryview(b"")

    def data_set(self, record: Record) -> memoryview:
        """The data set of a record as it was sent, without a copy."""
        return self.view(record.data_set_offset, record.end - record.data_set_offset)

    def record_at(self, start: int) -> Record | Damage | EndMark | None:
        """The record that starts at `start`, or what is wrong with it; at the end the mark of the association's end,
        or None (the file ends, or zeros follow).
        """
        size = os.fstat(self._descriptor).st_size
        # Not through the map: the writer cuts off its preallocated tail when it closes.
        header = os.pread(self._descriptor, HEADER_LENGTH, start)
        decoded = _decode_header(self.path.name, start, header)
        if decoded is None and (end := _decode_end(header)) is not None:
            return end
        if decoded is None:
            return Damage(self.path.name, start, size - start, "", last=True) if any(header) else None
        record, checksum = decoded
        uid = record.origin.sop_instance_uid
        if record.end > size:
            return Damage(self.path.name, start, size - start, uid, last=True)
        self.refresh()
        with self.view(record.offset, record.length) as payload:
            if zlib.crc32(payload) == checksum:
                return record
        following = os.pread(self._descriptor, HEADER_LENGTH, record.end)
        last = _decode_header(self.path.name, record.end, following) is None
        return Damage(self.path.name, start, record.end - start, uid, last)

    def close(self) -> None:
        """Release the file; views already taken stay usable."""
        self._unmap()
        os.close(self._descriptor)

    def _unmap(self) -> None:
        if self._map is not None:
            with suppress(BufferError):  # a view is still in use: the map goes with it
                self._map.close()
            self._map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scan(segment: Path, start: int = 0, on_damage: Callable[[Damage], None] = lambda _: None) -> Iterator[Record]:
    """Every good record of a segment from `start` on, in order; `on_damage` hears of what is not good.

    A record that is damaged while good ones follow is stepped over; anything else that is not a record ends the scan.
    Raises OSError if the file cannot be read.
    """
    with SegmentReader(segment) as reader:
        while (found := reader.record_at(start)) is not None and not isinstance(found, EndMark):
            if isinstance(found, Record):
                yield found
                start = found.end
                continue
            on_damage(found)
            if found.last:
                return
            start = found.start + found.length


def has_writer(segment: Path) -> bool:
    """True while a process appends to the segment. Raises OSError if it is gone."""
    descriptor = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove(segment: Path) -> None:
    """Delete a segment for good. The caller knows that nothing in it is needed.

    Raises SegmentBusyError while it has a writer, OSError.
    """
    try:
        if has_writer(segment):
            raise SegmentBusyError(segment.name)
        segment.unlink()
    except FileNotFoundError:
        return
    sync_folder(segment.parent)
