"""Text on images in any script: for every run of letters a font that has them, each run in its own direction."""

import unicodedata
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont, features

Color = tuple[int, int, int]

_OWN = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_LEFT_TO_RIGHT = frozenset({"L", "EN"})
_STACKED = ("DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "THAI", "KHMER", "MYANMAR", "SINHALA", "TIBETAN", "GUJARATI")
"""Scripts, as their letters are named, whose letters are not simply put one beside the other."""


@cache
def _letters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()  # a font file that FreeType cannot read


def _own_font(bold: bool) -> str:
    """DejaVu Sans, which comes with matplotlib."""
    return str(_OWN / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"))


@cache
def _font_file(needed: frozenset[int], bold: bool) -> str:
    """The project's own font, or the installed font that misses the fewest of the letters."""
    best = _own_font(bold)
    missing = len(needed - _letters(best))
    if missing:
        for path in [_own_font(False), *_installed(bold)]:
            misses = len(needed - _letters(path))
            if misses < missing:
                best, missing = path, misses
    return best


@cache
def _installed(bold: bool) -> list[str]:
    """Fonts of the system: sans serif before others, of the weight wanted before others."""
    found = [(Path(path).stem.lower(), path) for path in font_manager.findSystemFonts()]
    return [path for name, path in sorted(found, key=lambda f: ("sans" not in f[0], ("bold" in f[0]) != bold, f[1]))]


@cache
def _font(run: str, size: int, bold: bool) -> ImageFont.FreeTypeFont:
    needed = frozenset(ord(character) for character in run if not character.isspace())
    return ImageFont.truetype(_font_file(needed, bold), size)


def can_draw(text: str) -> bool:
    """Whether every letter can be drawn as its script wants it.

    An installed font has them all; letters that run from right to left, or are joined or stacked, also need Pillow's
    complex text layout (libfribidi of the system).
    """
    return legible(text) == _printable(text)


def legible(text: str) -> str:
    """`text` without the letters that cannot be drawn: there are never boxes in their place."""
    return "".join(letter for letter in _printable(text) if letter.isspace() or _drawable(letter))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


@cache
def _drawable(letter: str) -> bool:
    shaped = unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT or any(
        unicodedata.name(letter, "").startswith(script) for script in _STACKED
    )
    if shaped and not features.check("raqm"):
        return False
    return ord(letter) in _letters(_font_file(frozenset({ord(letter)}), False))


def runs(text: str) -> list[str]:
    """`text` in pieces of one direction and one source of letters, control characters replaced by spaces, letters that
    cannot be drawn left out.

    Drawn one after the other from left to right, a date beside an Arabic name keeps its order of digits. Neutral
    characters belong to a right-to-left run only between two of its letters.
    """
    line = legible(text)
    kinds: list[tuple[bool, str]] = []
    for position, character in enumerate(line):
        direction = unicodedata.bidirectional(character)
        right_to_left = direction in _RIGHT_TO_LEFT
        if not right_to_left and direction not in _LEFT_TO_RIGHT and kinds and kinds[-1][0]:
            right_to_left = _next_strong(line, position) in _RIGHT_TO_LEFT
        font = _font_file(frozenset({ord(character)}), False) if not character.isspace() else ""
        kinds.append((right_to_left, font or (kinds[-1][1] if kinds else _own_font(False))))
    pieces = groupby(zip(line, kinds, strict=True), key=lambda pair: pair[1])
    return ["".join(character for character, _ in piece) for _, piece in pieces]


def _next_strong(line: str, position: int) -> str:
    for character in line[position:]:
        direction = unicodedata.bidirectional(character)
        if direction in _RIGHT_TO_LEFT or direction in _LEFT_TO_RIGHT:
            return direction
    return ""


def width_of(text: str, size: int, bold: bool = False) -> float:
    """Width of the text in pixels."""
    return sum(_font(run, size, bold).getlength(run) for run in runs(text))


def fitted(text: str, size: int, width: float, bold: bool = False) -> str:
    """`text`, cut with an ellipsis if it is wider than `width` pixels."""
    if width_of(text, size, bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if width_of(text[:middle] + "…", size, bold) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…"


def draw(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    color: Color,
    bold: bool = False,
    anchor: str = "la",
    outlined: bool = False,
) -> float:
    """Draw one line; `anchor` is Pillow's (l, m, r and a, m, d). Returns its width in pixels.

    Letters that cannot be drawn are left out.
    """
    width = width_of(text, size, bold)
    left = at[0] - {"l": 0.0, "m": width / 2, "r": width}[anchor[0]]
    ascent, descent = ImageFont.truetype(_own_font(bold), size).getmetrics()
    line = at[1] + {"a": ascent, "m": (ascent - descent) / 2, "d": -descent}[anchor[1]]  # one for all fonts
    for run in runs(text):
        font = _font(run, size, bold)
        outline = 2 if outlined else 0
        pen.text((left, line), run, font=font, fill=color, anchor="ls", stroke_width=outline, stroke_fill=0)
        left += font.getlength(run)
    return width
