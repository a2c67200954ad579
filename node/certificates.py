"""Until when certificates are good: the Validity of each X.509 certificate (RFC 5280 section 4.1.2.5) in a PEM file.

Python's ssl module tells that only of a peer, so the few bytes are read here.
"""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
"""DER tags."""


def expiries(file: Path) -> list[datetime]:
    """When each certificate in the file ends. Raises OSError; ValueError if there is none, or one cannot be read."""
    try:
        found = [_not_after(ssl.PEM_cert_to_DER_cert(text)) for text in _PEM.findall(file.read_text("ascii"))]
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error
    if not found:
        raise ValueError("no certificate")
    return found


def _not_after(certificate: bytes) -> datetime:
    (_, outer), *_ = _elements(certificate)
    (_, signed), *_ = _elements(outer)
    parts = [part for part in _elements(signed) if part[0] != _VERSION]
    _, validity = parts[3]  # after serial number, signature algorithm and issuer
    tag, text = list(_elements(validity))[1]
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("not a time")
    digits = text.decode("ascii").rstrip("Z")
    if tag == _UTC_TIME:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each DER element. Raises IndexError if it is cut off."""
    at = 0
    while at < len(encoded):
        tag, length, at = encoded[at], encoded[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(encoded[at : at + count], "big"), at + count
        if at + length > len(encoded):
            raise IndexError
        yield tag, encoded[at : at + length]
        at += length
