"""A page to draw on, in units of 1024 to the width; the picture is finer, so that it stays sharp when enlarged."""

from PIL import Image, ImageDraw

from dicom_sr import lettering

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

SCALE = 1.5
"""Pixels a unit."""
GROUND: Color = (14, 16, 20)
INK: Color = (238, 241, 245)
MUTED: Color = (166, 174, 184)
RULE: Color = (60, 66, 75)
AMBER: Color = (222, 158, 38)
RED: Color = (200, 44, 44)


class Canvas:
    """Lines of text, boxes and pictures at places given in units."""

    def __init__(self, width: float, height: float, ground: Color) -> None:
        self.width, self.height = width, height
        self.image = Image.new("RGB", (round(width * SCALE), round(height * SCALE)), ground)
        self._pen = ImageDraw.Draw(self.image)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        size: int,
        color: Color,
        bold: bool = False,
        width: float | None = None,
        anchor: str = "la",
        outlined: bool = False,
    ) -> float:
        """Draw a line, cut to `width` with an ellipsis; returns its width. `anchor` as Pillow's."""
        pixels = round(size * SCALE)
        line = lettering.fitted(text, pixels, (self.width if width is None else width) * SCALE, bold)
        where = (at[0] * SCALE, at[1] * SCALE)
        return lettering.draw(self._pen, where, line, pixels, color, bold, anchor, outlined) / SCALE

    def box(self, box: Box, color: Color) -> None:
        """Fill a rectangle."""
        left, top, right, bottom = (round(side * SCALE) for side in box)
        if right > left and bottom > top:
            self._pen.rectangle((left, top, right - 1, bottom - 1), fill=color)

    def banner(self, box: Box, text: str, color: Color, ink: Color) -> None:
        """A filled box with a line in its middle."""
        self.box(box, color)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        self.text(middle, text, 18, ink, bold=True, width=box[2] - box[0], anchor="mm")

    def paste(self, picture: Image.Image, at: tuple[float, float]) -> None:
        """Put a picture, in pixels as it is, with its left upper corner there."""
        self.image.paste(picture, (round(at[0] * SCALE), round(at[1] * SCALE)))

    @staticmethod
    def width_of(text: str, size: int, bold: bool = False) -> float:
        """Width of a line, units."""
        return lettering.width_of(text, round(size * SCALE), bold) / SCALE

    @staticmethod
    def wrapped(text: str, size: int, width: float, bold: bool = False, most: int | None = None) -> list[str]:
        """`text` in lines of at most `width` units, broken between words; the `most`-th line takes all the rest."""
        lines: list[str] = []
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            last = most is not None and len(lines) == most - 1
            if line and not last and Canvas.width_of(longer, size, bold) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        return [*lines, line] if line else lines
