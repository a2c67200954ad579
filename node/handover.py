"""What the listening process and the receiving processes tell each other, over a socket pair (SOCK_SEQPACKET).

A note is one letter and what belongs to it; an accepted socket travels with it (SCM_RIGHTS).
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

SERVE, REJECT, END = b"S", b"R", b"E"
"""From the listener: serve this socket; reject its request, for want of a place; end (followed by seconds)."""
READY, STORED, RELEASED, CLOSED = b"y", b"s", b"r", b"c"
"""To the listener: sockets may come; something was stored (followed by the segment, or by nothing if
it is a storage commitment request); an association has ended (followed
by its last segment); a socket is closed."""
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
