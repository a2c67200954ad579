"""Seeded damage to what a peer sends: association request, P-DATA, command sets."""

import random
import struct

import raw_pdu
from mutate_dicom import LENGTHS, NASTY_UIDS
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from raw_pdu import ABORT, COMMAND, LAST, RELEASE, context, data, item, pdu, pdv

VERIFICATION = "1.2.840.10008.1.1"
STRANGERS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00" * 64,
    b"\xff" * 64,
    b"",
)


def conversation(data_set: bytes, rng: random.Random) -> list[bytes]:
    """PDUs of a sound association: one to three instances, perhaps an echo, and mostly a release."""
    pdus = [raw_pdu.request(
        context(1, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless),
        context(3, VERIFICATION, ImplicitVRLittleEndian),
    )]  # fmt: skip
    for number in range(rng.choice([1, 1, 2, 3])):
        uid = b"1.2.3.%d" % number
        pdus.append(data(COMMAND | LAST, raw_pdu.command(uid)))
        size = rng.choice([64, 1000, 100_000])
        pieces = [data_set[at : at + size] for at in range(0, len(data_set), size)]
        pdus += [data(LAST * (n == len(pieces)), piece) for n, piece in enumerate(pieces, 1)]
    if rng.random() < 0.3:
        echo = raw_pdu.command(b"", VERIFICATION.encode(), 0x0101, 0x0030)
        pdus.insert(rng.randrange(1, len(pdus) + 1), data(COMMAND | LAST, echo, 3))
    return [*pdus, rng.choice([RELEASE, RELEASE, RELEASE, ABORT, b""])]


def _request(rng: random.Random) -> bytes:
    """An association request that is odd as a whole."""
    kind = rng.randrange(6)
    if kind == 0:
        return raw_pdu.request(*(context(n % 256, CTImageStorage, *[ExplicitVRLittleEndian] * 3) for n in range(200)))
    if kind == 1:
        name = rng.choice(NASTY_UIDS)
        return raw_pdu.request(
            item(0x20, struct.pack(">B3x", 1) + item(0x30, name) + item(0x40, rng.choice(NASTY_UIDS)))
        )
    if kind == 2:
        return raw_pdu.request(calling=rng.choice(["", "\x00\x00", "A\\B", "é" * 8, "\x1b[31m", " " * 16, "x" * 16]))
    if kind == 3:
        return raw_pdu.request(longest=rng.choice([0, 1, 5, 6, 7, 2**32 - 1]), version=rng.choice([0, 1, 2, 65535]))
    user = item(
        rng.choice([0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x99]), rng.randbytes(rng.randrange(40))
    )
    head = struct.pack(">H2x16s16s32x", 1, b"FVLM".ljust(16), b"STORESCU".ljust(16))
    parts = [item(0x10, b"1.2.840.10008.3.1.1.1"), context(1), item(0x50, item(0x51, struct.pack(">I", 16384)) + user)]
    rng.shuffle(parts)
    return pdu(1, head + b"".join(parts[: rng.choice([0, 1, 2, 3, 3, 3])]) + rng.choice([b"", user]))


def _command(rng: random.Random) -> bytes:
    """A command set that lies."""
    uid, cls = rng.choice(NASTY_UIDS), rng.choice([CTImageStorage.encode(), *NASTY_UIDS])
    field = rng.choice([0x0001, 0x0001, 0x0030, 0x0FFF, 0x8001, 0x0020, 0x0130, 0xFFFF, 0])
    encoded = bytearray(raw_pdu.command(uid, cls, rng.choice([0, 1, 0x0101, 0xFFFF]), field))
    if rng.random() < 0.6:
        at = rng.randrange(max(1, len(encoded) - 4))
        encoded[at : at + 4] = rng.choice(LENGTHS).to_bytes(4, "little")
    if rng.random() < 0.2:
        encoded = encoded[: rng.randrange(len(encoded) + 1)]
    return data(
        rng.choice([COMMAND | LAST, COMMAND | LAST, COMMAND, LAST, 0, 0xFF]),
        bytes(encoded),
        rng.choice([1, 1, 1, 3, 5, 0, 255]),
    )


def mutate(data_set: bytes, rng: random.Random) -> bytes:
    """What one peer sends from its first byte to the last."""
    pdus = conversation(data_set, rng)
    kind = rng.choice(["request", "command", "bytes", "length", "pdv", "order", "cut", "stranger", "kind", "many"])
    at = rng.randrange(len(pdus))
    if kind == "request":
        pdus[0] = _request(rng)
    elif kind == "command":
        pdus.insert(rng.randrange(1, len(pdus)), _command(rng))
    elif kind == "length" and len(pdus[at]) >= 6:
        pdus[at] = (
            pdus[at][:2]
            + rng.choice([*LENGTHS, len(pdus[at]) - 7, len(pdus[at]) - 5]).to_bytes(4, "big")
            + pdus[at][6:]
        )
    elif kind == "pdv":
        body = b"".join(
            pdv(rng.randrange(4), rng.randbytes(rng.randrange(30)), rng.choice([1, 3, 9]))
            for _ in range(rng.randrange(8))
        )
        spoiled = bytearray(pdu(4, body))
        if len(spoiled) > 10:
            spoiled[6:10] = rng.choice([*LENGTHS, 1, 2]).to_bytes(4, "big")
        pdus.insert(rng.randrange(1, len(pdus)), bytes(spoiled))
    elif kind == "order":
        rng.shuffle(pdus)
    elif kind == "kind" and pdus[at]:
        pdus[at] = bytes([rng.randrange(256)]) + pdus[at][1:]
    elif kind == "many":
        pdus[1:1] = [data(rng.choice([0, LAST]), b"")] * rng.choice([1, 600])
    elif kind == "stranger":
        pdus.insert(rng.choice([0, at]), rng.choice(STRANGERS))
    sent = bytearray(b"".join(pdus))
    if kind == "cut" and sent:
        del sent[rng.randrange(len(sent)) :]
    elif kind == "bytes" and sent:
        for _ in range(rng.choice([1, 2, 8, 64])):
            sent[rng.randrange(min(len(sent), rng.choice([80, 300, len(sent)])))] = rng.randrange(256)
    return bytes(sent)
