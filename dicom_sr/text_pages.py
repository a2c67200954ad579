"""The text report as pictures of pages, for the PDF."""

from collections.abc import Mapping, Sequence

from PIL import Image

from dicom_sr import identity
from dicom_sr.companion import Case
from dicom_sr.page_canvas import AMBER, GROUND, INK, MUTED, RED, RULE, Canvas
from dicom_sr.patient_line import patient_line
from dicom_sr.text_report import sections_of

_WIDTH, _HEIGHT, _MARGIN, _LINE = 1024, 1024, 40, 24


def text_pages(case: Case, slices: Mapping[str, Sequence[int]]) -> list[Image.Image]:
    """As many pages as it takes, each with the patient's line and the marks."""
    pages: list[Image.Image] = []
    canvas, top = None, _HEIGHT
    for title, _, lines in sections_of(case, slices):
        rows: list[tuple[str, bool]] = [("", False), (title.meaning, True)]
        for text, _ in lines:
            rows += [(row, False) for row in Canvas.wrapped(text, 16, _WIDTH - 2 * _MARGIN - 20)]
            rows.append(("", False))
        for row, heading in rows[:-1]:
            if canvas is None or top > _HEIGHT - _MARGIN - _LINE - (2 * _LINE if heading else 0):
                canvas = _sheet(case, len(pages) + 2)
                pages.append(canvas.image)
                top = 110
            if heading:
                canvas.text((_MARGIN, top), row, 19, INK, bold=True)
                canvas.box((_MARGIN, top + 27, _WIDTH - _MARGIN, top + 28), RULE)
                top += 36
            else:
                canvas.text((_MARGIN, top), row, 16, INK)
                top += _LINE if row else _LINE // 3
    return pages


def _sheet(case: Case, number: int) -> Canvas:
    """An empty page with its head."""
    canvas = Canvas(_WIDTH, _HEIGHT, GROUND)
    canvas.text((_MARGIN, 20), patient_line(case.headers[0]), 19, INK, bold=True, width=_WIDTH - 2 * _MARGIN - 90)
    canvas.text((_WIDTH - _MARGIN, 22), f"page {number}", 16, MUTED, anchor="ra")
    middle = _WIDTH // 2 if case.reading.test_only else _WIDTH
    canvas.banner((0, 56, middle, 86), "AI, not verified", AMBER, (20, 20, 20))
    if case.reading.test_only:
        canvas.banner((middle, 56, _WIDTH, 86), identity.TEST_MARKER, RED, (255, 255, 255))
    return canvas
