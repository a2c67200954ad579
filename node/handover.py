"""What the listening process and the receiving processes tell each other, over a socket pair (SOCK_SEQPACKET).

A note is one letter and what belongs to it; an accepted socket travels with it (SCM_RIGHTS).
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from config import Reason

SERVE, REJECT, END = b"S", b"R", b"E"
"""From the listener: serve this socket; reject its request, for want of a place; end (followed by seconds)."""
OVER_TLS = b"t"
"""Behind SERVE or REJECT: the peer is to speak TLS."""
READY, STORED, RELEASED, CLOSED, REJECTED = b"y", b"s", b"r", b"c", b"n"
"""To the listener: sockets may come; something was stored (followed by the segment, by nothing if it is a storage
commitment request or an announcement); an association has ended (followed by its last segment); a socket is closed; a
request was rejected (followed by a `Caller`)."""
LONGEST_NOTE = 131072
"""Bytes; the longest is the `Setup`."""


@dataclass(frozen=True)
class Setup:
    """What a receiving process has to know."""

    number: int
    listener_pid: int
    spool_dir: str
    min_free_bytes: int
    dicom: dict[str, Any]

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        return cls(**json.loads(encoded))


@dataclass(frozen=True)
class Caller:
    """Who was refused, and why."""

    calling_ae: str
    called_ae: str
    host: str
    reason: Reason

    @classmethod
    def of(cls, calling_ae: str, called_ae: str, host: str, reason: Reason) -> Self:
        """What is too long is cut, what is not printable replaced."""
        return cls(_plain(calling_ae), _plain(called_ae), host[:64], reason)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        read = json.loads(encoded)
        return cls(read["calling_ae"], read["called_ae"], read["host"], Reason(read["reason"]))


def _plain(title: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in title[:16])
