"""Writes segments of the spool: a data set is written as it comes, and is a record when it is whole and synced.

The record's header is written last. So what was begun and dropped, or cut off by a crash, leaves no header and is no
record; the next one is written over it.
"""

import fcntl
import os
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from node.file_meta import Origin, part10_header
from node.spool import (
    HEADER_LENGTH,
    SUFFIX,
    Buffer,
    Ending,
    Record,
    SpoolError,
    encode_end,
    encode_header,
    sync_folder,
)

_PREALLOCATE = 16 * 1024 * 1024
"""Segments grow in steps of this many bytes: an fdatasync that need not change the file's size is cheaper."""
_MAX_BUFFERS = 512
"""Buffers a writev (IOV_MAX is 1024 on Linux)."""


@dataclass
class _Draft:
    """A record that is being written."""

    origin: Origin
    head: bytes
    """Part 10 header: the payload's part before the data set."""
    checksum: int
    """CRC-32 of the payload so far."""
    data_length: int = 0
    """Bytes of the data set so far."""
    head_written: bool = False


class SegmentWriter:
    """Appends records to a new segment. It holds an exclusive lock on the file until `close`; one thread at a time.

    `begin`, any number of `write`, then `commit`. After a SpoolError the writer has `failed` and takes no more: Linux
    may have dropped the pages of a failed fsync, a repeat proves nothing.
    """

    def __init__(self, folder: Path) -> None:
        """Create the segment durably in `folder`. Raises SpoolError."""
        name = f"{time.time_ns():020d}-{secrets.token_hex(6)}{SUFFIX}"
        self.path = folder / name
        unready = folder / f".{name}.new"
        self._descriptor = -1
        try:
            self._descriptor = os.open(unready, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            # Locked before it gets its name: whoever sees a segment without a lock may take it for finished.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unready.rename(self.path)
            sync_folder(folder)
        except OSError as error:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            raise SpoolError(error.errno, f"cannot create a spool segment: {error.strerror}") from error
        self._draft: _Draft | None = None
        self._end = 0
        """End of the last good record."""
        self._headed = 0
        """End of the last record whose header was written, good or not."""
        self._soiled = 0
        """Up to here there may be something else than zeros."""
        self._allocated = 0
        self.failed = False

    def append(self, origin: Origin, *data_set: Buffer) -> Record:
        """Write one record and wait for the disk: `begin` and `commit`. Raises SpoolError."""
        self.begin(origin)
        return self.commit(*data_set)

    def begin(self, origin: Origin) -> None:
        """Start a record; one that was started and not committed is dropped. Raises SpoolError if the writer failed."""
        if self.failed:
            raise SpoolError(f"segment {self.path.name} was abandoned after an error")
        head = part10_header(origin)
        self._draft = _Draft(origin, head, zlib.crc32(head))

    def write(self, *data_set: Buffer) -> None:
        """Write the next piece of the encoded data set, without waiting for the disk. Raises SpoolError."""
        draft = self._the_draft()
        position = self._position()
        with self._errors():
            self._write(position, self._pieces(draft, data_set))

    def commit(self, *data_set: Buffer) -> Record:
        """Write the last piece and the header, and wait for the disk. Raises SpoolError."""
        draft = self._the_draft()
        position = self._position()
        pieces = self._pieces(draft, data_set)
        start, length = self._end, len(draft.head) + draft.data_length
        received = time.time_ns()
        header = encode_header(draft.origin, draft.checksum, length, len(draft.head), received)
        end = start + HEADER_LENGTH + length
        if self._soiled > end:  # a dropped record was longer: what follows must not look like a header
            pieces.append(bytes(min(HEADER_LENGTH, self._soiled - end)))
        with self._errors():
            if position == start + HEADER_LENGTH:
                self._headed = end
                self._write(start, [header, *pieces])
            else:
                self._write(position, pieces)
                self._headed = end
                self._write(start, [header])
            os.fdatasync(self._descriptor)
        self._draft = None
        self._end = end
        return Record(
            segment=self.path.name,
            start=start,
            offset=start + HEADER_LENGTH,
            length=length,
            data_set_offset=start + HEADER_LENGTH + len(draft.head),
            received_at=datetime.fromtimestamp(received / 1e9, UTC),
            origin=draft.origin,
        )

    def _the_draft(self) -> _Draft:
        if self._draft is None:
            raise SpoolError(f"segment {self.path.name}: no record was begun")
        return self._draft

    def _position(self) -> int:
        """Where the next piece of the payload goes."""
        payload = self._end + HEADER_LENGTH
        draft = self._draft
        return payload + len(draft.head) + draft.data_length if draft is not None and draft.head_written else payload

    @staticmethod
    def _pieces(draft: _Draft, data_set: tuple[Buffer, ...]) -> list[Buffer]:
        """What has to be written now; the draft counts it as written."""
        for buffer in data_set:
            draft.checksum = zlib.crc32(buffer, draft.checksum)
            draft.data_length += memoryview(buffer).nbytes
        pieces = [*data_set] if draft.head_written else [draft.head, *data_set]
        draft.head_written = True
        return pieces

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = True
            self._draft = None
            raise SpoolError(error.errno, f"segment {self.path.name}: {error.strerror}") from error

    def _reserve(self, end: int) -> None:
        if end <= self._allocated:
            return
        upto = -(-end // _PREALLOCATE) * _PREALLOCATE
        os.posix_fallocate(self._descriptor, self._allocated, upto - self._allocated)
        os.fsync(self._descriptor)
        self._allocated = upto

    def _write(self, position: int, buffers: list[Buffer]) -> None:
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        end = position + sum(view.nbytes for view in views)
        self._reserve(end)
        self._soiled = max(self._soiled, end)
        while views:
            written = os.pwritev(self._descriptor, views[:_MAX_BUFFERS], position)
            position += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def close(self, ending: Ending | None = None) -> None:
        """Cut off what was preallocated and release the segment; a segment without a record is removed.

        `ending` is marked at its end if it is known. That the mark is lost costs time, no more: the series that came
        are closed by their quiet time.
        """
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        end = max(self._end, self._headed)
        with suppress(OSError):
            if ending is not None and self._end and not self.failed:
                end += os.pwrite(descriptor, encode_end(ending, time.time_ns()), self._end)
        with suppress(OSError):  # nothing acknowledged depends on it: a scan ends at the zeros as well
            # Never cut into a record, not even one whose sync failed: a reader may have it mapped.
            os.ftruncate(descriptor, min(end, os.fstat(descriptor).st_size))
            if self._end == 0:
                self.path.unlink()
            else:
                os.fsync(descriptor)
        os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
