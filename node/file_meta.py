"""What the node puts before a data set so that it is a Part 10 stream (DICOM PS3.10 section 7.1)."""

import struct
from dataclasses import dataclass

IMPLEMENTATION_CLASS_UID = "2.25.309543183572962394830889801906695403146"
"""Implementation Class UID of the node (PS3.7 D.3.3.2), a UUID under 2.25."""
IMPLEMENTATION_VERSION = "FVLM_NODE_1"
"""Implementation Version Name, at most 16 characters."""


@dataclass(frozen=True)
class Origin:
    """What a record says about itself beside the data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str


def _file_meta(origin: Origin) -> bytes:
    """File Meta Information (PS3.10 section 7.1), Explicit VR Little Endian, with its group length."""

    def short(element: int, vr: bytes, value: str, pad: bytes) -> bytes:
        encoded = value.encode("ascii")
        encoded += pad * (len(encoded) % 2)
        return struct.pack("<2H2sH", 0x0002, element, vr, len(encoded)) + encoded

    elements = b"".join(
        (
            struct.pack("<2H2s2xI2s", 0x0002, 0x0001, b"OB", 2, b"\0\1"),
            short(0x0002, b"UI", origin.sop_class_uid, b"\0"),
            short(0x0003, b"UI", origin.sop_instance_uid, b"\0"),
            short(0x0010, b"UI", origin.transfer_syntax_uid, b"\0"),
            short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
            short(0x0013, b"SH", IMPLEMENTATION_VERSION, b" "),
            short(0x0016, b"AE", origin.calling_ae, b" "),
        )
    )
    return struct.pack("<2H2sHI", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def part10_header(origin: Origin) -> bytes:
    """Zeroed preamble, DICM and file meta: what precedes the data set in a Part 10 stream (PS3.10 section 7.1)."""
    return bytes(128) + b"DICM" + _file_meta(origin)
