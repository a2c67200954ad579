"""PDUs by hand: what no toolkit sends."""

import socket
import struct
from dataclasses import dataclass

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from spool_data import Receiver

COMMAND, LAST = 0x01, 0x02


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(content)) + content


def context(number: int, cls: str = CTImageStorage, *syntaxes: str) -> bytes:
    """A proposed presentation context (PS3.8 section 9.3.2.2)."""
    names = b"".join(item(0x40, syntax.encode()) for syntax in syntaxes or (ExplicitVRLittleEndian,))
    return item(0x20, struct.pack(">B3x", number) + item(0x30, cls.encode()) + names)


def request(*contexts: bytes, longest: int = 16384, calling: str = "STORESCU", version: int = 1) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""
    user = item(0x51, struct.pack(">I", longest)) + item(0x52, b"1.2.3")
    return pdu(
        0x01,
        struct.pack(">H2x16s16s32x", version, b"FVLM".ljust(16), calling.encode().ljust(16))
        + item(0x10, b"1.2.840.10008.3.1.1.1")
        + b"".join(contexts or (context(1),))
        + item(0x50, user),
    )


def command(uid: bytes, cls: bytes = CTImageStorage.encode(), data_set: int = 0, field: int = 0x0001) -> bytes:
    """Command set of a request (PS3.7 section 9.3), Implicit VR Little Endian; C-STORE-RQ unless told."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    elements = b"".join((
        element(0x0002, cls), element(0x0100, struct.pack("<H", field)), element(0x0110, struct.pack("<H", 7)),
        element(0x0700, struct.pack("<H", 0)), element(0x0800, struct.pack("<H", data_set)), element(0x1000, uid),
    ))  # fmt: skip
    return element(0x0000, struct.pack("<I", len(elements))) + elements


def pdv(flags: int, content: bytes, number: int = 1) -> bytes:
    return struct.pack(">IBB", len(content) + 2, number, flags) + content


def data(flags: int, content: bytes, number: int = 1) -> bytes:
    """One P-DATA-TF with one fragment (PS3.8 section 9.3.5)."""
    return pdu(0x04, pdv(flags, content, number))


def store(uid: str, data_set: bytes, number: int = 1, cls: str = CTImageStorage) -> bytes:
    """A C-STORE request, fragments of at most 100,000 bytes."""
    pieces = [data_set[at : at + 100_000] for at in range(0, len(data_set), 100_000)]
    body = b"".join(data(LAST * (n == len(pieces)), piece, number) for n, piece in enumerate(pieces, 1))
    return data(COMMAND | LAST, command(uid.encode(), cls.encode()), number) + body


RELEASE = pdu(0x05, bytes(4))
ABORT = pdu(0x07, bytes(4))


@dataclass(frozen=True)
class Pdu:
    kind: int
    body: bytes


def read_pdu(connection: socket.socket) -> Pdu | None:
    """The next PDU; None if the peer closed."""
    try:
        head = connection.recv(6, socket.MSG_WAITALL)
        if len(head) < 6:
            return None
        return Pdu(head[0], connection.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL))
    except ConnectionResetError:
        return None


def dial(running: Receiver) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=60)


def connect(running: Receiver, *contexts: bytes, longest: int = 16384) -> socket.socket:
    """An accepted association."""
    connection = dial(running)
    connection.sendall(request(*contexts, longest=longest))
    answer = read_pdu(connection)
    assert answer is not None
    assert answer.kind == 0x02, "the association was not accepted"
    return connection


def status_in(response: bytes) -> int:
    """Status of an encoded response."""
    at = response.index(struct.pack("<HHI", 0, 0x0900, 2))
    return int(struct.unpack_from("<H", response, at + 8)[0])


def answer(connection: socket.socket) -> int | None:
    """Status of the response; None if the peer aborted or closed."""
    got = read_pdu(connection)
    return status_in(got.body) if got is not None and got.kind == 0x04 else None


def abort_reason(connection: socket.socket) -> tuple[int, int] | None:
    """Source and reason of the A-ABORT that comes next; None if something else comes, or nothing."""
    got = read_pdu(connection)
    return (got.body[2], got.body[3]) if got is not None and got.kind == 0x07 else None
