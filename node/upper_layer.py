"""The DICOM upper layer (PS3.8 section 9) on a socket: whole PDUs within bounds of length and time, and the short ones
to send.

P-DATA is not copied: a PDU is a view into one buffer, which is filled with whatever the socket has.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
"""PDU types."""
COMMAND, LAST = 0x01, 0x02
"""Bits of the message control header of a PDV (PS3.8 annex E.2)."""

LONGEST_PDU = 1048576
"""Bytes, header not counted: no PDU may be longer, whatever its length field says (the largest `max_pdu` of the
settings). Some senders go beyond what they were told; up to here they are let."""
LONGEST_REQUEST = 262144
"""Bytes of an A-ASSOCIATE-RQ: 128 presentation contexts with every transfer syntax fit in."""
_HEAD = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")
_BUFFER = LONGEST_PDU + _HEAD.size


class Abort(IntEnum):
    """Why the provider aborts: Reason/Diag. of A-ABORT (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


class ProtocolError(Exception):
    """The peer does not keep to the protocol. The text is constant: it holds nothing that the peer sent."""

    def __init__(self, reason: Abort, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class PeerGoneError(ConnectionError):
    """The peer has closed the connection."""


def prepare(connection: socket.socket, timeout_s: float) -> None:
    """Set up an accepted socket: no call waits longer than `timeout_s`, and dead peers are noticed. Raises OSError."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(timeout_s * 1000)))
    # The kernel's own time limits: settimeout would cost a poll before each recv. They surface as BlockingIOError.
    connection.settimeout(None)
    limit = struct.pack("@ll", *divmod(max(1, int(timeout_s * 1e6)), 1000000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def read_request(connection: socket.socket, timeout_s: float) -> bytes:
    """The first PDU, which must be an A-ASSOCIATE-RQ, whole within `timeout_s` (the ARTIM timer, PS3.8 section 9.1.5).

    Raises ProtocolError, PeerGoneError, OSError (TimeoutError among them).
    """
    deadline = time.monotonic() + timeout_s
    received = bytearray(_HEAD.size)
    _read_until(connection, received, 0, deadline)
    kind, length = _HEAD.unpack(received)
    if kind != ASSOCIATE_RQ:
        known = ASSOCIATE_RQ <= kind <= ABORT
        reason = Abort.UNEXPECTED_PDU if known else Abort.UNRECOGNIZED_PDU
        raise ProtocolError(reason, "the first PDU is no association request")
    if length > LONGEST_REQUEST:
        raise ProtocolError(Abort.INVALID_PARAMETER, "the association request is too long")
    received += bytes(length)
    _read_until(connection, received, _HEAD.size, deadline)
    return bytes(received)


def _read_until(connection: socket.socket, target: bytearray, at: int, deadline: float) -> None:
    """Fill `target` from `at` on."""
    with memoryview(target) as view:
        while at < len(target):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the association request did not come in time")
            connection.settimeout(left)
            size = connection.recv_into(view[at:])
            if size == 0:
                raise PeerGoneError
            at += size
    connection.settimeout(None)


class PduStream:
    """PDUs from a socket that `prepare` has set up. At most one buffer of `LONGEST_PDU` is held."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        """`timeout_s`: how long the peer may be silent, and how long one PDU may take."""
        self._connection, self._timeout_s = connection, timeout_s
        self._view = memoryview(bytearray(_BUFFER))  # its pages are taken from the system as they are filled
        self._low = self._high = 0
        """What is received and not yet given out."""
        self._started = 0.0
        """When the PDU began to come; 0 before."""

    def read(self, make_room: Callable[[], None]) -> tuple[int, memoryview]:
        """Type and body of the next PDU; the body is a view into the buffer.

        Views stay good until `make_room` is called, which happens when the buffer is full and has to be used again, and
        until `rewind`. Raises ProtocolError, PeerGoneError, OSError (BlockingIOError or TimeoutError: too slow).
        """
        self._started = time.monotonic() if self._high > self._low else 0.0
        self._need(_HEAD.size, make_room)
        kind, length = _HEAD.unpack_from(self._view, self._low)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise ProtocolError(Abort.UNRECOGNIZED_PDU, "unknown type of PDU")
        if length > LONGEST_PDU:
            raise ProtocolError(Abort.INVALID_PARAMETER, "the PDU is too long")
        self._need(_HEAD.size + length, make_room)
        body = self._view[self._low + _HEAD.size : self._low + _HEAD.size + length]
        self._low += _HEAD.size + length
        return kind, body

    @property
    def idle(self) -> bool:
        """Nothing is received that was not given out."""
        return self._low == self._high

    def rewind(self) -> None:
        """No view is in use: if nothing more was received, the buffer is filled from its start again."""
        if self._low == self._high:
            self._low = self._high = 0

    def _need(self, count: int, make_room: Callable[[], None]) -> None:
        """Have `count` bytes from `_low` on in the buffer."""
        if self._low + count > len(self._view):
            make_room()
            rest = self._high - self._low
            self._view[:rest] = self._view[self._low : self._high]
            self._low, self._high = 0, rest
        while (missing := self._low + count - self._high) > 0:
            if count == _HEAD.size:  # whatever there is
                size = self._connection.recv_into(self._view[self._high :])
            else:
                size = self._connection.recv_into(self._view[self._high :], missing, socket.MSG_WAITALL)
            if size == 0:
                raise PeerGoneError
            self._high += size
            if not self._started:
                self._started = time.monotonic()
            elif size < missing and time.monotonic() - self._started > self._timeout_s:
                raise TimeoutError("the PDU did not come in time")


def p_data(context_id: int, content: bytes, longest: int, kind: int = COMMAND) -> bytes:
    """P-DATA-TF PDUs with a command set (or a data set: `kind` 0), none longer than `longest` bytes (0: unlimited)."""
    room = max(1, longest - _PDV.size) if longest else len(content)
    pdus = []
    for at in range(0, len(content), room):
        piece = content[at : at + room]
        flags = kind | (LAST if at + room >= len(content) else 0)
        pdus.append(_HEAD.pack(P_DATA, len(piece) + _PDV.size))
        pdus.append(_PDV.pack(len(piece) + 2, context_id, flags) + piece)
    return b"".join(pdus)


def fragments(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The PDVs of a P-DATA-TF: presentation context id, message control header, content. Raises ProtocolError."""
    at, end = 0, len(body)
    if not end:
        raise ProtocolError(Abort.INVALID_PARAMETER, "P-DATA without a PDV")
    while at < end:
        if end - at < _PDV.size:
            raise ProtocolError(Abort.INVALID_PARAMETER, "a PDV is cut off")
        length, context_id, control = _PDV.unpack_from(body, at)
        if length < 2 or length > end - at - 4:
            raise ProtocolError(Abort.INVALID_PARAMETER, "the length of a PDV is wrong")
        yield context_id, control, body[at + _PDV.size : at + 4 + length]
        at += 4 + length


def reject(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 section 9.3.4, table 9-21)."""
    return _HEAD.pack(ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))


def release_reply() -> bytes:
    """A-RELEASE-RP (PS3.8 section 9.3.7)."""
    return _HEAD.pack(RELEASE_RP, 4) + bytes(4)


def abort(reason: Abort | None) -> bytes:
    """A-ABORT (PS3.8 section 9.3.8): by the provider for a reason, or (None) by the user."""
    return _HEAD.pack(ABORT, 4) + (bytes(4) if reason is None else bytes((0, 0, 2, reason)))


def linger(connection: socket.socket, seconds: float) -> None:
    """Wait for the peer to close, at most `seconds` (state 13 of PS3.8 section 9.2): closing is its part then, and
    with bytes unread our closing would destroy what was sent last.
    """
    deadline = time.monotonic() + seconds
    with suppress(OSError):
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(65536):
                return
