"""Text on images in any script: for every run of letters a font that has them, each run in its own direction."""

import unicodedata
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

Color = tuple[int, int, int]

_OWN = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_LEFT_TO_RIGHT = frozenset({"L", "EN"})


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
        for path in sorted(font_manager.findSystemFonts()):
            misses = len(needed - _letters(path))
            if misses < missing:
                best, missing = path, misses
    return best


@cache
def _font(run: str, size: int, bold: bool) -> ImageFont.FreeTypeFont:
    needed = frozenset(ord(character) for character in run if not character.isspace())
    return ImageFont.truetype(_font_file(needed, bold), size)


def runs(text: str) -> list[str]:
    """`text` in pieces of one direction and one source of letters, control characters replaced by spaces.

    Drawn one after the other from left to right, a date beside an Arabic name keeps its order of digits. Neutral
    characters belong to a right-to-left run only between two of its letters.
    """
    line = "".join(character if character.isprintable() else " " for character in text)
    known = _letters(_own_font(False))
    kinds: list[tuple[bool, bool]] = []
    for position, character in enumerate(line):
        direction = unicodedata.bidirectional(character)
        right_to_left = direction in _RIGHT_TO_LEFT
        if not right_to_left and direction not in _LEFT_TO_RIGHT and kinds and kinds[-1][0]:
            right_to_left = _next_strong(line, position) in _RIGHT_TO_LEFT
        plain = ord(character) in known if not character.isspace() else kinds[-1][1] if kinds else True
        kinds.append((right_to_left, plain))
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

    Letters that no installed font has are drawn as boxes.
    """
    width = width_of(text, size, bold)
    left = at[0] - {"l": 0.0, "m": width / 2, "r": width}[anchor[0]]
    for run in runs(text):
        font = _font(run, size, bold)
        outline = 2 if outlined else 0
        pen.text((left, at[1]), run, font=font, fill=color, anchor=f"l{anchor[1]}", stroke_width=outline, stroke_fill=0)
        left += font.getlength(run)
    return width
