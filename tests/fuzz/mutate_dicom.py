"""Seeded damage to a DICOM file: where its elements lie, and what an enemy or a bad disk does to them."""

import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

DEFLATED = b"1.2.840.10008.1.2.1.99"
SYNTAXES = (
    b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2", DEFLATED, b"1.2.840.10008.1.2.5",
    b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.57", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.80",
    b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.201", b"1.2.840.10008.1.2.4.100", b"1.2.3", b"",
)  # fmt: skip
NASTY_UIDS = (
    b"",
    b"../../../etc/passwd",
    b"1.2.3/../../x",
    b"1.2.3\x00.4",
    b"\x00",
    b"1" * 64,
    b"1" * 65,
    b"1." * 32 + b"1",
    b"1..2",
    b".1",
    b"1.",
    b"-1.2",
    b"1.2.x",
    b" 1.2",
    b"1.2\\1.3",
    b"\xff\xfe1.2",
    b"1.2.3\n",
    b"1.2;drop table series",
    b"%s%n%x",
    b"0",
    "１.２".encode(),
    b"1.2.840.10008.1.3.10",
    b"1.2.840.10008.5.1.4.1.1.2.1",
)
NASTY_TEXTS = (
    b"",
    b"NaN",
    b"inf",
    b"-inf",
    b"1e400",
    b"1e-400",
    b"-0",
    b"9" * 1024,
    b"1\\2\\3\\4\\5\\6\\7",
    b"\\\\\\",
    b"abc",
    b"2147483647",
    b"-2147483648",
    b"99999999999",
    b"1E9",
    b"\x1b$B\x1b(J",
    b"\xff" * 16,
    b"=^=^=",
    b"20261399",
    b"1_000",
    b"<script>alert(1)</script>",
    b"\x00" * 8,
    b"0",
    b"-1",
    b"0.0",
    b"1e308\\1e308",
    b"1.0000001\\0\\0\\0\\1\\0",
)
CHARACTER_SETS = (
    b"ISO_IR 100",
    b"ISO 2022 IR 13",
    b"ISO 2022 IR 87",
    b"\\ISO 2022 IR 149",
    b"ISO_IR 192",
    b"GB18030",
    b"utf-7",
    b"ISO 2022 IR 6\\ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 149",
    b"rot13",
    b"\\\\\\",
    b"\xff\xff",
    b"A" * 300,
    b"zlib",
)
LENGTHS = (0, 1, 2, 3, 7, 0x7F, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF)
WORDS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 31, 32, 64, 255, 256, 4095, 4096, 4097, 32767, 32768, 60000, 65535)
VRS = (b"OB", b"OW", b"UN", b"SQ", b"UI", b"DS", b"IS", b"US", b"SS", b"UL", b"AT", b"PN", b"FD", b"UT", b"OL", b"SV",
       b"??", b"\0\0", b"\xff\xff", b"ZZ", b"sq")  # fmt: skip
LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})
UNDEFINED = 0xFFFFFFFF
Order = Literal["little", "big"]


@dataclass(frozen=True)
class Element:
    """Where an element, item or fragment of a file lies. All positions in bytes."""

    tag: int
    at: int
    vr: bytes
    """Empty in Implicit VR and for items."""
    length_at: int
    length_size: int
    value: int
    end: int
    """Behind the value; of what has undefined length: behind its head."""


@dataclass(frozen=True)
class Layout:
    """A file in its parts."""

    elements: tuple[Element, ...]
    data_set: int
    """Where the data set starts."""
    order: Order
    explicit: bool


@dataclass(frozen=True)
class Meta:
    """The meta information of a file, and what it says of the rest."""

    elements: tuple[Element, ...]
    data_set: int
    syntax: bytes


def meta(data: bytes) -> Meta:
    """The elements of group 0002; Explicit VR Little Endian if they do not say otherwise."""
    elements: list[Element] = []
    at, syntax = 132 if data[128:132] == b"DICM" else 0, b"1.2.840.10008.1.2.1"
    while at + 8 <= len(data) and data[at : at + 2] == b"\x02\0":
        element = _head(data, at, "little", True)
        elements.append(element)
        if element.tag == 0x00020010:
            syntax = data[element.value : element.end].rstrip(b"\0 ")
        at = element.end
    return Meta(tuple(elements), at, syntax)


@lru_cache(maxsize=128)
def layout(data: bytes) -> Layout:
    """The elements of a sound file, nested ones and fragments too; of a deflated one, its meta information."""
    head = meta(data)
    elements, at, syntax = list(head.elements), head.data_set, head.syntax
    order: Order = "big" if syntax == b"1.2.840.10008.1.2.2" else "little"
    explicit = syntax != b"1.2.840.10008.1.2"
    while at + 8 <= len(data) and syntax != DEFLATED and len(elements) < 5000:
        element = _head(data, at, order, explicit)
        elements.append(element)
        nested = element.vr == b"SQ" or element.tag >> 16 == 0xFFFE
        at = element.value if nested else element.end
        if element.end > len(data):
            break
    return Layout(tuple(elements), head.data_set, order, explicit)


def _head(data: bytes, at: int, order: Order, explicit: bool) -> Element:
    tag = int.from_bytes(data[at : at + 2], order) << 16 | int.from_bytes(data[at + 2 : at + 4], order)
    vr = data[at + 4 : at + 6]
    if tag >> 16 == 0xFFFE or not explicit:
        vr, length_at, size = b"", at + 4, 4
    elif vr in LONG_VRS:
        length_at, size = at + 8, 4
    else:
        length_at, size = at + 6, 2
    length = int.from_bytes(data[length_at : length_at + size], order)
    value = length_at + size
    end = value if length == UNDEFINED and size == 4 else value + length
    return Element(tag, at, vr, length_at, size, value, end)


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """300 MiB in 0.3 MB."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()


class Mutator:
    """Damages one file; every choice comes from `rng`."""

    def __init__(self, data: bytes, where: Layout, rng: random.Random) -> None:
        self.data, self.where, self.rng = data, where, rng
        self.elements = where.elements or (Element(0, 0, b"", 0, 4, 0, len(data)),)

    def _put(self, at: int, until: int, new: bytes) -> bytes:
        return self.data[:at] + new + self.data[until:]

    def _any(self, *tags: int) -> Element:
        found = [element for element in self.elements if element.tag in tags] if tags else []
        return self.rng.choice(found or self.elements)

    def _int(self, value: int, size: int) -> bytes:
        return (value & (1 << 8 * size) - 1).to_bytes(size, self.where.order)

    def _valued(self, element: Element, value: bytes) -> bytes:
        """The element with another value, its length made true."""
        value += b" " * (len(value) % 2)
        if element.length_size == 2 and len(value) > 0xFFFF:
            value = value[:0xFFFE]
        return self._put(element.length_at, element.end, self._int(len(value), element.length_size) + value)

    def _encoded(self, tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
        """An element for this data set."""
        head = self._int(tag >> 16, 2) + self._int(tag & 0xFFFF, 2)
        size = len(value) if length is None else length
        if not self.where.explicit:
            return head + self._int(size, 4) + value
        if vr in LONG_VRS:
            return head + vr + b"\0\0" + self._int(size, 4) + value
        return head + vr + self._int(size, 2) + value

    def truncate(self) -> bytes:
        element = self._any()
        places = (
            element.at,
            element.at + 2,
            element.at + 5,
            element.length_at + 1,
            element.value,
            element.end - 1,
            (element.value + element.end) // 2,
            self.rng.randrange(len(self.data) + 1),
            len(self.data) - 1,
            131,
            8,
            0,
        )
        return self.data[: self.rng.choice(places)]

    def lie_about_a_length(self) -> bytes:
        element = self._any(
            *self.rng.choice([(), (0xFFFEE000,), (0x7FE00010,), (0x00020000, 0x00080000), (0xFFFEE0DD,)])
        )
        true = element.end - element.value
        left = len(self.data) - element.value
        length = self.rng.choice([*LENGTHS, true - 1, true + 1, true + 2, left, left + 1, self.rng.getrandbits(32)])
        return self._put(element.length_at, element.value, self._int(length, element.length_size))

    def wrong_vr(self) -> bytes:
        element = self._any()
        return self._put(element.at + 4, element.at + 6, self.rng.choice(VRS))

    def huge_image(self) -> bytes:
        number = self.rng.random() < 0.8
        if number:
            tags = (0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280002, 0x00280103)
            element = self._any(*(tags if self.rng.random() < 0.5 else (self.rng.choice(tags),)))
            return self._put(element.value, element.value + 2, self._int(self.rng.choice(WORDS), 2))
        frames = self._encoded(0x00280008, b"IS", self.rng.choice((*NASTY_TEXTS[:13], b"2147483647")).ljust(2))
        at = self._any(0x00280010).at
        return self._put(at, at, frames)

    def nasty_uid(self) -> bytes:
        tags = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200052, 0x00020002, 0x00020003)
        return self._valued(self._any(self.rng.choice(tags)), self.rng.choice(NASTY_UIDS))

    def nasty_value(self) -> bytes:
        return self._valued(self._any(), self.rng.choice(NASTY_TEXTS))

    def nasty_geometry(self) -> bytes:
        tags = (0x00200032, 0x00200037, 0x00280030, 0x00281052, 0x00281053, 0x00180050, 0x00280120)
        return self._valued(self._any(*tags), self.rng.choice(NASTY_TEXTS))

    def character_set(self) -> bytes:
        element = self._encoded(0x00080005, b"CS", self.rng.choice(CHARACTER_SETS))
        first = next((e for e in self.elements if e.tag >> 16 >= 8), self.elements[0])
        old = first.end if first.tag == 0x00080005 else first.at
        return self._put(first.at, old, element)

    def duplicate(self) -> bytes:
        element = self._any()
        at = self.rng.choice([element.at, self._any().at])
        return self._put(at, at, self.data[element.at : element.end])

    def remove(self) -> bytes:
        element = self._any()
        return self._put(element.at, element.end, b"")

    def swap(self) -> bytes:
        one, other = sorted((self._any(), self._any()), key=lambda e: e.at)
        if one.end > other.at:
            return self.remove()
        middle = self.data[one.end : other.at]
        return self._put(one.at, other.end, self.data[other.at : other.end] + middle + self.data[one.at : one.end])

    def deep_nesting(self) -> bytes:
        """Sequences in sequences, open or closed; private, where a parser knows no VR."""
        depth = self.rng.choice([3, 30, 300, 900, 1100, 3000, 20000])
        tag = self.rng.choice([0x0040A730, 0x00081140, 0x00091010, 0x00400260, 0x00420001])
        head = self._encoded(tag, self.rng.choice([b"SQ", b"UN"]), b"", UNDEFINED)
        item = self._int(0xFFFE, 2) + self._int(0xE000, 2) + self._int(UNDEFINED, 4)
        ends = b"".join(self._int(0xFFFE, 2) + self._int(e, 2) + self._int(0, 4) for e in (0xE00D, 0xE0DD))
        at = self._any().at
        return self._put(at, at, (head + item) * depth + ends * self.rng.choice([0, depth, depth - 1]))

    def many_elements(self) -> bytes:
        """Private junk: a thousand small elements, or items, or values."""
        kind, at = self.rng.randrange(3), self._any().at
        if kind == 0:
            junk = b"".join(self._encoded(0x00110000 | 0x1000 + n, b"LO", b"AB") for n in range(1000))
        elif kind == 1:
            items = (self._int(0xFFFE, 2) + self._int(0xE000, 2) + self._int(0, 4)) * 3000
            junk = self._encoded(0x00081140, b"SQ", items)
        else:
            junk = self._encoded(0x00200037, b"DS", b"1\\" * 10000)
        return self._put(at, at, junk)

    def preamble(self) -> bytes:
        start = 132 if self.data[128:132] == b"DICM" else 0
        head = self.rng.choice(
            [b"MZ", b"\x7fELF\x02\x01\x01", b"\x89PNG\r\n", b"II*\0", b"#!/bin/sh\n", b"%PDF-1.7\n", b"PK\3\4"]
        )
        return self.rng.choice([
            head.ljust(128, b"\xcc") + b"DICM" + self.data[start:], self.data[start:], head + self.data,
            bytes(128) + b"DICN" + self.data[start:], bytes(132) + self.data, self.data[self.where.data_set :],
        ])  # fmt: skip

    def other_syntax(self) -> bytes:
        return self._valued(self._any(0x00020010), self.rng.choice(SYNTAXES))

    def flip(self) -> bytes:
        spoiled = bytearray(self.data)
        for _ in range(self.rng.choice([1, 1, 2, 4, 16])):
            spoiled[self.rng.randrange(len(spoiled))] = self.rng.choice([0, 0xFF, 0x80, self.rng.randrange(256)])
        return bytes(spoiled)

    def block(self) -> bytes:
        at, size = self.rng.randrange(len(self.data)), self.rng.choice([1, 2, 3, 8, 100, 1000])
        new = self.rng.choice(
            [b"", bytes(size), b"\xff" * size, self.data[at : at + size] * 2, self.rng.randbytes(size)]
        )
        return self._put(at, at + size, new)

    def pixels(self) -> bytes:
        """Inside the pixel data: fragments, segment tables, codestreams."""
        element = self._any(0x7FE00010)
        start = element.value
        if start >= len(self.data):
            return self.flip()
        code = bytearray(self.data)
        markers = [(b"\xff\x51", 6, 4), (b"\xff\xf7", 5, 2), (b"\xff\xc3", 5, 2), (b"\xff\xc0", 5, 2)]
        found = [(at + add, size) for mark, add, size in markers if (at := self.data.find(mark, start)) >= 0]
        choice = self.rng.random()
        if found and choice < 0.4:  # 60000 x 60000
            at, size = self.rng.choice(found)
            huge = self.rng.choice([60000, 65535, 0, 1, 2**31 - 1, 2**32 - 1]) & (1 << 8 * size) - 1
            code[at : at + 2 * size] = huge.to_bytes(size, "big") * 2
        elif choice < 0.7:  # the item heads, the RLE segment table (64 bytes), the first marker segments
            for _ in range(self.rng.choice([1, 2, 4])):
                at = min(len(code) - 4, start + self.rng.randrange(120))
                code[at : at + 4] = self.rng.choice((*LENGTHS, 15, 16, 64)).to_bytes(
                    4, self.rng.choice(["little", "big"])
                )
        else:
            for _ in range(self.rng.choice([1, 2, 8, 32])):
                code[self.rng.randrange(start, len(code))] = self.rng.randrange(256)
        return bytes(code)

    def fragments(self) -> bytes:
        """Thousands of empty fragments, or items without end."""
        element = self._any(0x7FE00010)
        item = b"\xfe\xff\x00\xe0" + self._int(self.rng.choice([0, 2]), 4)
        return self._put(element.value, element.value, item * self.rng.choice([1, 100, 5000]))


MUTATIONS: dict[str, float] = {
    "truncate": 3, "lie_about_a_length": 4, "wrong_vr": 3, "huge_image": 2, "nasty_uid": 2, "nasty_value": 2,
    "nasty_geometry": 2, "character_set": 1, "duplicate": 1, "remove": 1, "swap": 1, "deep_nesting": 0.3,
    "many_elements": 0.2, "preamble": 0.5, "other_syntax": 1, "flip": 3, "block": 2, "pixels": 3, "fragments": 0.2,
}  # fmt: skip
"""Names of the methods and how often each is taken."""


def mutate(
    seed: bytes, rng: random.Random, mutations: Mapping[str, float] = MUTATIONS, spared: frozenset[int] = frozenset()
) -> bytes:
    """One to three mutations, one after the other; a deflated data set is inflated for it, or damaged as it is.

    `spared`: groups whose elements are not chosen.
    """
    where = layout(seed)
    if spared:
        where = replace(where, elements=tuple(e for e in where.elements if e.tag >> 16 not in spared))
    inflated = _inflated(seed)
    if inflated is not None and rng.random() < 0.7:
        if rng.random() < 0.003:
            return seed[: where.data_set] + _bomb()
        start = layout(inflated).data_set
        spoiled = mutate(inflated, rng, mutations, spared)[start:]
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        return seed[: where.data_set] + packer.compress(spoiled) + packer.flush()
    data = seed
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        (name,) = rng.choices(list(mutations), weights=list(mutations.values()))
        method: Callable[[], bytes] = getattr(Mutator(data, where, rng), name)
        data = method()
        if not data:
            break
        if len(data) != len(seed):  # the positions are no longer true: what follows is blind
            where = Layout((), min(where.data_set, len(data)), where.order, where.explicit)
    return data


@lru_cache(maxsize=16)
def _inflated(seed: bytes) -> bytes | None:
    """A deflated file as one that is not; None if it is none."""
    start = layout(seed).data_set
    if DEFLATED not in seed[:start]:
        return None
    head = seed[:start].replace(DEFLATED, b"1.2.840.10008.1.2.1\0\0\0")
    return head + zlib.decompress(seed[start:], -15)
