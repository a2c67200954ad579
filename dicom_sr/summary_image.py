"""The reading of one patient on one page: what is present with its slices, how sure, what was not assessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from ct.volume import Volume
from dicom_sr import identity, patient_line
from dicom_sr.companion import Case
from dicom_sr.groups import percent
from dicom_sr.heat_stack import HeatStack
from dicom_sr.page_canvas import AMBER, GROUND, INK, MUTED, RED, RULE, Canvas, Color
from dicom_sr.page_pictures import Picture, Pictures
from dicom_sr.prior import Change
from fvlm.reading import Finding, Reading, Verdict

WIDTH, HEIGHT = 1024, 1024
_MARGIN = 24
_INNER = WIDTH - 2 * _MARGIN
_LEAST_HIGH = 330.0
_ROW = 26
_BOTTOM = HEIGHT - 16
_VERDICT_COLORS: dict[Verdict, Color] = {
    Verdict.PRESENT: (240, 110, 76),
    Verdict.UNDETERMINED: (224, 188, 92),
    Verdict.NO_OPERATING_POINT: (132, 164, 208),
}
_MOST_LEFT_OUT = 8
"""Anatomies named as not assessed, if there is something else to tell."""


@dataclass(frozen=True)
class Page:
    """The summary page."""

    image: Image.Image
    """RGB, 1536 x 1536 pixels; made to be read at 1024 x 1024."""
    shown: tuple[int, ...]
    """Indices of the source slices that it shows."""


def draw_page(case: Case, volume: Volume, stacks: Mapping[str, HeatStack], slices: Mapping[str, Sequence[int]]) -> Page:
    """The page. `stacks` and `slices`: of each present finding its heat and the source slices to look at.

    Raises ValueError if the volume is not that of the anatomy map.
    """
    if case.anatomy_map.labels.shape != volume.hu.shape:
        raise ValueError(f"anatomy map {case.anatomy_map.labels.shape} and volume {volume.hu.shape} differ in shape")
    return _Sheet(case, Pictures(case, volume, stacks, slices)).draw()


def ranked(reading: Reading) -> list[Finding]:
    """What the page lists: present, then undetermined, then without operating point, each by falling probability."""
    order = list(_VERDICT_COLORS)
    listed = [f for anatomy in reading.anatomies for f in anatomy.findings if f.verdict in _VERDICT_COLORS]
    return sorted(listed, key=lambda finding: (order.index(finding.verdict), -finding.probability))


class _Sheet:
    def __init__(self, case: Case, pictures: Pictures) -> None:
        self._case, self._reading, self._pictures = case, case.reading, pictures
        self._canvas = Canvas(WIDTH, HEIGHT, GROUND)
        self._every = [finding for anatomy in case.reading.anatomies for finding in anatomy.findings]

    def draw(self) -> Page:
        self._head()
        left_out = self._lines_of_left_out()
        bottom = _BOTTOM - 34 - len(left_out) * 24 - 12
        top = self._draw_pictures(self._conclusion(), bottom - 34 - _ROW * max(1, len(ranked(self._reading))))
        self._findings(top, bottom)
        self._not_assessed(left_out)
        return Page(self._canvas.image, self._pictures.shown)

    def _head(self) -> None:
        canvas, header, reading = self._canvas, self._case.headers[0], self._reading
        told = patient_line.identity_line(header)
        room = min(Canvas.width_of(told, 17), _INNER / 2)
        canvas.text((WIDTH - _MARGIN, 20), told, 17, INK, width=room + 1, anchor="ra")
        name = patient_line.patient_name(header)
        canvas.text((_MARGIN, 14), name, 24, INK, bold=True, width=_INNER - room - 24)
        canvas.text((_MARGIN, 50), patient_line.study_line(header), 14, MUTED, width=_INNER)
        dated = self._case.moment.strftime("%Y-%m-%d %H:%M %z")
        canvas.text(
            (_MARGIN, 72),
            f"{reading.model.name} {reading.model.version}, weights {reading.model.digest[:12]}  |  anatomy by "
            f"{reading.segmenter.name} {reading.segmenter.version}  |  images of {dated}",
            14,
            MUTED,
            width=_INNER,
        )
        middle = WIDTH // 2 if reading.test_only else WIDTH
        canvas.banner((0, 98, middle, 130), "AI, not verified", AMBER, (20, 20, 20))
        if reading.test_only:
            canvas.banner((middle, 98, WIDTH, 130), identity.TEST_MARKER, RED, (255, 255, 255))

    def _conclusion(self) -> float:
        """What the reading comes to; where the next thing begins."""
        present = self._reading.positives
        told = self._closing_line()
        if not present:
            lines = Canvas.wrapped(told, 19, _INNER, bold=True, most=2)
            for number, line in enumerate(lines):
                self._canvas.text((_MARGIN, 142 + 25 * number), line, 19, INK, bold=True, width=_INNER)
            return self._since(154.0 + 25 * len(lines))
        names = ", ".join(self._case.title(finding) for finding in present)
        color = _VERDICT_COLORS[Verdict.PRESENT]
        self._canvas.text((_MARGIN, 139), f"Present: {names}", 19, color, bold=True, width=_INNER)
        self._canvas.text((_MARGIN, 166), told, 15, MUTED, width=_INNER)
        return self._since(196.0)

    def _closing_line(self) -> str:
        judged = [finding for finding in self._every if finding.verdict is not Verdict.NO_OPERATING_POINT]
        anatomies = len({finding.anatomy for finding in judged})
        if not self._every:
            return "Nothing was assessed: nothing is said about this series."
        if not judged:
            return f"{len(self._every)} findings asked; none has an operating point, nothing is concluded."
        nothing = "Nothing else" if self._reading.positives else "Nothing"
        unsure = sum(finding.verdict is Verdict.UNDETERMINED for finding in judged)
        told = f", {unsure} undetermined" if unsure else ""
        return f"{nothing} present among {len(judged)} judged findings in {anatomies} assessed anatomies{told}."

    def _since(self, top: float) -> float:
        """With what it is compared, and what is gone since: that is in no row. Where the next thing begins."""
        prior = self._case.context.prior
        if prior is None:
            return top
        gone = [self._case.title(f) for f in self._every if prior.change(f) is Change.RESOLVED]
        resolved = f" Resolved since then: {', '.join(gone)}." if gone else ""
        told = f"Compared with the AI reading of {prior.studied_on.isoformat()}.{resolved}"
        self._canvas.text((_MARGIN, top - 8), told, 15, MUTED, width=_INNER)
        return top + 20

    def _draw_pictures(self, top: float, bottom: float) -> float:
        """The pictures side by side, to `bottom` if they need the room; where the next thing begins."""
        pictures = self._pictures.chosen()
        gap = 16
        aspects = [self._pictures.aspect(picture.plane) for picture in pictures]
        shares = [1.0 / aspect for aspect in aspects] if len(pictures) == 2 else [1.0] * len(pictures)  # two: as high
        widths = [(_INNER - gap * (len(pictures) - 1)) * share / sum(shares) for share in shares]
        room = max(_LEAST_HIGH, bottom - top - 84)
        high = min(room, max(wide * aspect for wide, aspect in zip(widths, aspects, strict=True)))
        left = float(_MARGIN)
        for picture, wide in zip(pictures, widths, strict=True):
            self._picture(picture, (left, top), wide, high)
            left += wide + gap
        top += 46 + high + 8
        named = self._pictures.legend()
        if any(picture.heat for picture in pictures):
            self._canvas.text((_MARGIN, top), self._heat_note(), 14, MUTED, width=_INNER)
            top += 22
        elif named:
            left = float(_MARGIN)
            for title, color in named:
                if left + 20 + Canvas.width_of(title, 14) > WIDTH - _MARGIN:
                    break
                self._canvas.box((left, top + 3, left + 12, top + 15), color)
                left += 18 + self._canvas.text((left + 17, top), title, 14, MUTED) + 18
            top += 22
        return top + 8

    @staticmethod
    def _heat_note() -> str:
        return (
            "Red to yellow: what the model looked at, inside the outlined anatomy. It is no outline of a lesion. "
            "L, R: the patient's side."
        )

    def _picture(self, picture: Picture, at: tuple[float, float], wide: float, high: float) -> None:
        canvas, (left, top) = self._canvas, at
        canvas.text((left, top), picture.title, 16, INK, bold=True, width=wide)
        canvas.text((left, top + 22), picture.caption, 14, MUTED, width=wide)
        top += 46
        right, bottom = left + wide, top + high
        canvas.box((left, top, right, bottom), (0, 0, 0))
        drawn_wide, drawn_high, letters = self._pictures.paste(picture, canvas, (left, top, right, bottom))
        middle, half = left + wide / 2, top + high / 2
        inset_x, inset_y = (wide - drawn_wide) / 2, (high - drawn_high) / 2
        for where, letter, anchor in (
            ((left + max(6.0, inset_x - 26), half), letters[0], "lm"),
            ((right - max(6.0, inset_x - 26), half), letters[1], "rm"),
            ((middle, top + max(4.0, inset_y - 26)), letters[2], "ma"),
            ((middle, bottom - max(4.0, inset_y - 26)), letters[3], "md"),
        ):
            canvas.text(where, letter, 18, (255, 216, 92), bold=True, anchor=anchor, outlined=True)

    def _findings(self, top: float, bottom: float) -> None:
        listed = ranked(self._reading)
        note = f"probability, {self._reading.calibration}" if self._every else "none"
        self._title(top, f"Findings: {note}")
        if any(finding.threshold is not None for finding in listed):
            self._canvas.text((WIDTH - _MARGIN, top + 2), "| operating points", 14, MUTED, anchor="ra")
        top += 34
        room = max(1, int((bottom - top) // _ROW))
        shown = listed if len(listed) <= room else listed[: room - 1]
        for finding in shown:
            self._finding_row(finding, top)
            top += _ROW
        if len(listed) > len(shown):
            text = f"and {len(listed) - len(shown)} more in the report"
            self._canvas.text((_MARGIN, top + 3), text, 15, MUTED)
        elif not listed:
            text = "Every finding asked is absent." if self._every else "No finding was asked."
            self._canvas.text((_MARGIN, top + 3), text, 16, INK)

    def _finding_row(self, finding: Finding, top: float) -> None:
        canvas, color = self._canvas, _VERDICT_COLORS[finding.verdict]
        present = finding.verdict is Verdict.PRESENT
        used = canvas.text((_MARGIN, top + 2), self._case.title(finding), 17, INK, bold=present, width=330)
        canvas.text((_MARGIN + used + 12, top + 4), self._case.site(finding), 15, MUTED, width=max(0.0, 470 - used))
        left, right = 530, 740
        canvas.box((left, top + 5, right, top + 20), RULE)
        canvas.box((left, top + 5, left + (right - left) * finding.probability, top + 20), color)
        for point in (finding.threshold, finding.absent_below):
            if point is not None:
                tick = left + (right - left) * point
                canvas.box((tick - 1, top + 2, tick + 1, top + 23), INK)
        canvas.text((right + 76, top + 2), f"{percent(finding.probability):.1f} %", 17, INK, present, anchor="ra")
        prior = self._case.context.prior
        change = prior.change(finding) if prior else None
        told = finding.verdict.value if change in (None, Change.UNCHANGED) else f"{finding.verdict.value}, {change}"
        canvas.text((right + 92, top + 4), told, 15, color, bold=present, width=WIDTH - _MARGIN - right - 92)

    def _lines_of_left_out(self) -> list[list[str]]:
        """What was not assessed, in rows of two: `Kidney: cut off by the border of the scan`."""
        entries = [
            f"{self._case.vocabulary.anatomy(entry.anatomy).title}: {entry.reason.meaning}"
            for entry in self._reading.not_assessed
        ]
        most = 2 * _MOST_LEFT_OUT if not ranked(self._reading) else _MOST_LEFT_OUT
        if len(entries) > most:
            names = [self._case.vocabulary.anatomy(e.anatomy).title for e in self._reading.not_assessed[most - 1 :]]
            entries = [*entries[: most - 1], f"and {len(names)} more: {', '.join(names)}"]
        if not entries:
            return [["Every anatomy that the model knows was assessed."]]
        return [entries[at : at + 2] for at in range(0, len(entries), 2)]

    def _not_assessed(self, rows: list[list[str]]) -> None:
        top = _BOTTOM - 34 - len(rows) * 24
        self._title(top, f"Not assessed ({len(self._reading.not_assessed)})")
        wide = (_INNER - 24) / 2
        for number, row in enumerate(rows):
            for column, text in enumerate(row):
                at = (_MARGIN + column * (wide + 24), top + 34 + 24 * number)
                self._canvas.text(at, text, 15, MUTED, width=wide if len(rows) > 1 or len(row) > 1 else _INNER)

    def _title(self, top: float, text: str) -> None:
        self._canvas.text((_MARGIN, top), text, 17, INK, bold=True)
        self._canvas.box((_MARGIN, top + 26, WIDTH - _MARGIN, top + 27), RULE)
