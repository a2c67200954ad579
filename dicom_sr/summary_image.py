"""The reading of one patient on one page: slices with contours, what is present, what was not assessed."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from config import Vocabulary, load_vocabulary
from ct.anatomy import AnatomyMap
from ct.volume import Volume
from dicom_sr import identity, lettering, slice_view
from dicom_sr.groups import percent
from dicom_sr.segmentation import segmented_anatomies
from dicom_sr.slice_view import BONE, LUNG, SOFT_TISSUE, Color, Plane, Window
from fvlm.reading import Finding, Reading, Verdict

WIDTH, HEIGHT = 1400, 1000
_MARGIN = 24
_PANEL_TOP, _PANEL_HEIGHT = 152, 452
_PANEL_WIDTHS = {Plane.AXIAL: 584, Plane.CORONAL: 408, Plane.SAGITTAL: 312}
_LEGEND_TOP = 616
_TABLE_TOP = 668
_ROW = 27
_ROWS = 10
_RIGHT_COLUMN = 846

_GROUND: Color = (16, 18, 22)
_INK: Color = (235, 238, 242)
_MUTED: Color = (150, 158, 168)
_LETTER: Color = (255, 214, 84)
_RULE: Color = (58, 64, 72)
_AMBER: Color = (214, 150, 32)
_RED: Color = (196, 44, 44)
_VERDICT_COLORS: dict[Verdict, Color] = {
    Verdict.PRESENT: (236, 112, 78),
    Verdict.UNDETERMINED: (222, 186, 90),
    Verdict.NO_OPERATING_POINT: (128, 160, 205),
}


def summary_page(reading: Reading, anatomy_map: AnatomyMap, volume: Volume, patient_line: str) -> Image.Image:
    """The page, RGB 1400 x 1000 pixels. `patient_line` is printed as it is, in any script.

    The slices go through the anatomy of the most probable positive finding, else through the largest anatomy; the
    window is the one for that anatomy.
    """
    if anatomy_map.labels.shape != volume.hu.shape:
        raise ValueError(f"anatomy map {anatomy_map.labels.shape} and volume {volume.hu.shape} differ in shape")
    return _Page(reading, anatomy_map, volume, load_vocabulary()).draw(patient_line)


def write_summary_page(
    path: Path, reading: Reading, anatomy_map: AnatomyMap, volume: Volume, patient_line: str
) -> None:
    """Write the page as a PNG file."""
    summary_page(reading, anatomy_map, volume, patient_line).save(path, format="PNG")


def ranked(reading: Reading) -> list[Finding]:
    """What the page lists: present, then undetermined, then without operating point, each by falling probability."""
    order = list(_VERDICT_COLORS)
    listed = [f for anatomy in reading.anatomies for f in anatomy.findings if f.verdict in _VERDICT_COLORS]
    return sorted(listed, key=lambda finding: (order.index(finding.verdict), -finding.probability))


class _Page:
    def __init__(self, reading: Reading, anatomy_map: AnatomyMap, volume: Volume, vocabulary: Vocabulary) -> None:
        self._reading = reading
        self._map = anatomy_map
        self._volume = volume
        self._vocabulary = vocabulary
        self._image = Image.new("RGB", (WIDTH, HEIGHT), _GROUND)
        self._pen = ImageDraw.Draw(self._image)

    def draw(self, patient_line: str) -> Image.Image:
        self._header(patient_line)
        self._banner()
        self._slices()
        self._findings()
        self._not_assessed()
        return self._image

    def _text(
        self,
        at: tuple[float, float],
        text: str,
        size: int = 16,
        color: Color = _INK,
        bold: bool = False,
        width: float = WIDTH,
        anchor: str = "la",
    ) -> float:
        """Draw a line, cut to `width`; returns its width in pixels."""
        line = lettering.fitted(text, size, width, bold)
        return lettering.draw(self._pen, at, line, size, color, bold, anchor)

    def _header(self, patient_line: str) -> None:
        reading = self._reading
        self._text((_MARGIN, 18), patient_line, 24, bold=True, width=WIDTH - 2 * _MARGIN)
        made = reading.analysed_at.strftime("%Y-%m-%d %H:%M %z")
        self._text(
            (_MARGIN, 56),
            f"{reading.model.name} {reading.model.version}, anatomy by {reading.segmenter.name} "
            f"{reading.segmenter.version}   |   dated {made}   |   weights {reading.model.digest[:12]}",
            15,
            _MUTED,
            width=WIDTH - 2 * _MARGIN,
        )

    def _banner(self) -> None:
        middle = WIDTH // 2 if self._reading.test_only else WIDTH
        self._pen.rectangle((0, 88, middle, 126), fill=_AMBER)
        self._text((middle / 2, 107), "AI, not verified", 19, (20, 20, 20), bold=True, anchor="mm")
        if self._reading.test_only:
            self._pen.rectangle((middle, 88, WIDTH, 126), fill=_RED)
            self._text((middle * 1.5, 107), identity.TEST_MARKER, 19, (255, 255, 255), bold=True, anchor="mm")

    def _target(self) -> str:
        """The anatomy to show: of the top positive finding that has a mask, else the largest; empty without masks."""
        shown = segmented_anatomies(self._reading, self._map)
        for finding in self._reading.positives:
            if finding.anatomy in shown:
                return finding.anatomy
        return max(shown, key=lambda name: self._map.measures[name].volume_ml, default="")

    def _window(self, target: str) -> Window:
        if target == "lung":
            return LUNG
        if target and self._vocabulary.anatomy(target).category == "bone":
            return BONE
        return SOFT_TISSUE

    def _slices(self) -> None:
        target = self._target()
        mask = self._map.labels == self._map.label(target) if target else np.zeros(self._map.grid.shape, bool)
        centre = slice_view.widest(mask)
        window = self._window(target)
        names = segmented_anatomies(self._reading, self._map)
        colors = {name: self._vocabulary.anatomy(name).color for name in names}
        field = slice_view.body_field(self._volume)
        left = _MARGIN
        for plane, width in _PANEL_WIDTHS.items():
            box = (width, _PANEL_HEIGHT)
            view = slice_view.render(
                self._volume, self._map, plane, centre[plane.axis], box, window, colors, field, target
            )
            self._panel(view, plane, left, width, centre)
            left += width + _MARGIN
        self._legend(target, colors, slice_view.visible(self._map, centre, names), window)

    def _panel(self, view: Image.Image, plane: Plane, left: int, width: int, centre: tuple[int, int, int]) -> None:
        self._pen.rectangle((left, _PANEL_TOP, left + width, _PANEL_TOP + _PANEL_HEIGHT), fill=(0, 0, 0))
        at = (left + (width - view.width) // 2, _PANEL_TOP + (_PANEL_HEIGHT - view.height) // 2)
        self._image.paste(view, at)
        right, bottom = left + width, _PANEL_TOP + _PANEL_HEIGHT
        middle, half = left + width // 2, _PANEL_TOP + _PANEL_HEIGHT // 2
        west, east, north, south = plane.letters
        for where, letter, anchor in (
            ((left + 6, half), west, "lm"),
            ((right - 6, half), east, "rm"),
            ((middle, _PANEL_TOP + 5), north, "ma"),
            ((middle, bottom - 5), south, "md"),
        ):
            lettering.draw(self._pen, where, letter, 18, _LETTER, bold=True, anchor=anchor, outlined=True)
        count = self._volume.hu.shape[plane.axis]
        self._text(
            (left, _PANEL_TOP - 20), f"{plane.name.capitalize()}, slice {centre[plane.axis] + 1} of {count}", 14, _MUTED
        )

    def _legend(self, target: str, colors: dict[str, Color], names: list[str], window: Window) -> None:
        left: float = _MARGIN
        caption = f"{window.name} window {window.center:.0f}/{window.width:.0f}"
        space = WIDTH - _MARGIN - lettering.width_of(caption, 14) - 20
        self._text((WIDTH - _MARGIN, _LEGEND_TOP), caption, 14, _MUTED, anchor="ra")
        top = _LEGEND_TOP
        for name in names:
            title = self._vocabulary.anatomy(name).title
            needed = 22 + lettering.width_of(title, 14, name == target) + 18
            if left + needed > space:
                left, top = _MARGIN, top + 20
            self._pen.rectangle((left, top + 2, left + 14, top + 14), fill=colors[name])
            self._text((left + 20, top), title, 14, _INK if name == target else _MUTED, bold=name == target)
            left += needed

    def _findings(self) -> None:
        listed = ranked(self._reading)
        shown = listed[:_ROWS] if len(listed) <= _ROWS else listed[: _ROWS - 1]
        every = [finding for anatomy in self._reading.anatomies for finding in anatomy.findings]
        note = f": probability, {self._reading.calibration}" if every else ""
        self._title(_MARGIN, f"Findings{note}", _RIGHT_COLUMN - 2 * _MARGIN)
        top = _TABLE_TOP + 34
        for finding in shown:
            self._finding_row(finding, top)
            top += _ROW
        if len(listed) > len(shown):
            rest = len(listed) - len(shown)
            self._text((_MARGIN, top + 3), f"and {rest} more in the structured report", 15, _MUTED)
            top += _ROW
        self._text(
            (_MARGIN, min(top + 6, HEIGHT - 28)),
            self._closing_line(every),
            16,
            bold=not listed,
            width=_RIGHT_COLUMN - 60,
        )

    def _closing_line(self, every: list[Finding]) -> str:
        judged = [finding for finding in every if finding.verdict is not Verdict.NO_OPERATING_POINT]
        anatomies = len({finding.anatomy for finding in judged})
        if not every:
            return "Nothing was assessed: nothing is said about this series."
        if not judged:
            return f"{len(every)} findings asked; none has an operating point, nothing is concluded."
        nothing = "Nothing else" if self._reading.positives else "Nothing"
        unsure = sum(finding.verdict is Verdict.UNDETERMINED for finding in judged)
        told = f", {unsure} undetermined" if unsure else ""
        return f"{nothing} present among {len(judged)} judged findings in {anatomies} assessed anatomies{told}."

    def _finding_row(self, finding: Finding, top: float) -> None:
        color = _VERDICT_COLORS[finding.verdict]
        title = self._vocabulary.finding(finding.key).title
        anatomy = self._vocabulary.anatomy(finding.anatomy).title
        present = finding.verdict is Verdict.PRESENT
        used = self._text((_MARGIN, top + 3), title, 16, bold=present, width=290)
        self._text((_MARGIN + used + 10, top + 4), anatomy, 14, _MUTED, width=max(0.0, 355 - used))
        left, right = 400, 590
        self._pen.rectangle((left, top + 6, right, top + 19), fill=_RULE)
        self._pen.rectangle((left, top + 6, left + (right - left) * finding.probability, top + 19), fill=color)
        for point in (finding.threshold, finding.absent_below):
            if point is not None:
                tick = left + (right - left) * point
                self._pen.line((tick, top + 3, tick, top + 22), fill=_INK, width=2)
        self._text((right + 78, top + 3), f"{percent(finding.probability):.1f} %", 16, bold=present, anchor="ra")
        self._text((right + 90, top + 4), finding.verdict.value, 14, color)

    def _not_assessed(self) -> None:
        left, width = _RIGHT_COLUMN, WIDTH - _RIGHT_COLUMN - _MARGIN
        entries = self._reading.not_assessed
        self._title(left, f"Not assessed ({len(entries)})", width)
        top = _TABLE_TOP + 34
        shown = entries if len(entries) <= _ROWS else entries[: _ROWS - 1]
        for entry in shown:
            self._text((left, top + 3), self._vocabulary.anatomy(entry.anatomy).title, 15, width=125)
            self._text((left + 130, top + 4), entry.reason.meaning, 14, _MUTED, width=width - 130)
            top += _ROW
        if len(entries) > len(shown):
            names = ", ".join(self._vocabulary.anatomy(entry.anatomy).title for entry in entries[len(shown) :])
            self._text((left, top + 3), f"and {names}", 14, _MUTED, width=width)
        if not entries:
            self._text((left, top + 3), "Every anatomy the model knows was assessed.", 15, _MUTED)

    def _title(self, left: float, text: str, width: float) -> None:
        self._text((left, _TABLE_TOP), text, 17, bold=True)
        self._pen.line((left, _TABLE_TOP + 26, left + width, _TABLE_TOP + 26), fill=_RULE, width=1)
