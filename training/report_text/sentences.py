"""A report cut up: its sections, their paragraphs, the sentences in them."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from training.report_text.words import load_words

SectionName = Literal["findings", "impression"]
SECTIONS: tuple[SectionName, ...] = ("findings", "impression")
_ITEM = re.compile(r"(?:^[ \t]*|(?<=[.!?;:])(?P<inline>[ \t]+))(?:[-*•·–]|\(?\d{1,2}[.)])[ \t]+(?=\S)", re.MULTILINE)
"""The mark of a list's item, at the start of a line or after the end of the item before."""
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"\b(?:dr|mr|mrs|ms|prof|st|vs|approx|ca|cf|e\.g|i\.e|incl|resp|max|seg|fig|im|ser)\.$", re.I
)
_LABEL = re.compile(r"(?P<label>[A-Za-z][A-Za-z ,/&()-]{1,60}?)\s*:(?:\s+|$)")
_LABEL_WORDS = 6
_LONGEST = 2000
"""Characters; a longer sentence is none, and is cut."""
_WRAPPED = 60
"""A line shorter than this, in characters, ends its paragraph if the next one begins with a capital."""


@dataclass(frozen=True)
class Sentence:
    """One sentence."""

    text: str
    """As it stands, with its final stop if it has one."""
    label: str
    """`Liver` where the paragraph, or the list, begins with "Liver:"; "" else."""


def sections_of(report: str) -> dict[SectionName, str]:
    """The text of Findings and Impression; several of a kind are joined, whatever else there is is left out.

    Text before the first heading, or all of it where there is none, counts as findings.
    """
    parts: dict[str, list[str]] = {name: [] for name in SECTIONS}
    headings = list(_headings().finditer(report))
    kinds = ["findings", *(_kind(heading["line"] or heading["inline"]) for heading in headings)]
    starts = [0, *(heading.end() for heading in headings)]
    ends = [*(heading.start() for heading in headings), len(report)]
    for kind, start, end in zip(kinds, starts, ends, strict=True):
        body = report[start:end].strip()
        if body and kind in parts:
            parts[kind].append(body)
    return {name: "\n\n".join(parts[name]) for name in SECTIONS}


@cache
def _headings() -> re.Pattern[str]:
    """A heading at the start of a line, alone or before a colon or dash; or before a colon after a sentence's end."""
    known = sorted(load_words().sections, key=len, reverse=True)
    titles = "|".join(r"[ \t,/&]+".join(map(re.escape, title.split())) for title in known)
    return re.compile(
        rf"^[ \t*#_]*(?P<line>{titles})[ \t*_]*(?:[:：][ \t*_]*|[-–][ \t]+|$)"
        rf"|(?<=[.!?])[ \t]+(?P<inline>{titles})[ \t]*:[ \t]*",
        re.IGNORECASE | re.MULTILINE,
    )


def _kind(title: str) -> str:
    return load_words().sections[" ".join(re.split(r"[ \t,/&]+", title.lower()))]


def sentences_of(section: str) -> Iterator[Sentence]:
    """The sentences of a section, in order, without the marks of lists."""
    for block in re.split(r"\n[ \t]*\n", _ITEM.sub(lambda mark: "\n" if mark["inline"] else "", section)):
        of_list = ""
        for paragraph in _paragraphs(block):
            found = _LABEL.match(paragraph)
            label = found["label"] if found and len(found["label"].split()) <= _LABEL_WORDS else ""
            if label and found and found.end() == len(paragraph):
                of_list = label
                continue
            for text in _split(paragraph):
                yield Sentence(text, label or of_list)


def _paragraphs(block: str) -> list[str]:
    """Lines that were wrapped are joined again."""
    paragraphs: list[str] = []
    last = ""
    for line in filter(None, map(str.strip, block.split("\n"))):
        wrapped = last and last[-1] not in ".:;!?" and (len(last) >= _WRAPPED or not line[0].isupper())
        if wrapped or (last and len(last) >= _WRAPPED and last[-1] in ".!?" and not _LABEL.match(line)):
            paragraphs[-1] += f" {line}"
        else:
            paragraphs.append(line)
        last = line
    return paragraphs


def _split(paragraph: str) -> list[str]:
    pieces: list[str] = []
    for piece in _END.split(paragraph):
        if pieces and _ABBREVIATION.search(pieces[-1]):
            pieces[-1] += f" {piece}"
        else:
            pieces.append(piece)
    return [part for piece in pieces for part in textwrap.wrap(piece, _LONGEST, break_on_hyphens=False)]
