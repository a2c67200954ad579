"""A headless Chromium, and OHIF as a radiologist clicks through it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Page, sync_playwright

_FLAGS = (
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
"""WebGL without a graphics card, and nothing that looks for the internet."""
PATIENCE_MS = 180_000
_VIEWPORT = ".cornerstone-viewport-element"

Picture = npt.NDArray[np.float64]
"""[row, column, rgb] 0..255."""
Colour = tuple[int, ...]


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of its own browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


class Ohif:
    """One study in OHIF."""

    def __init__(self, page: Page, site: str, study: str) -> None:
        self.page = page
        page.goto(f"{site}/viewer?StudyInstanceUIDs={study}")
        page.locator('[data-cy="study-browser-thumbnail"]').first.wait_for()
        page.add_style_tag(
            content=".shepherd-element, .shepherd-modal-overlay-container { display: none !important }"
        )  # a tour covers all

    def series(self) -> list[str]:
        """What the study browser lists: modality and description."""
        return [
            text.replace("\n", " ")
            for text in self.page.locator('[data-cy^="study-browser-thumbnail"]').all_inner_texts()
        ]

    def open(self, text: str) -> None:
        """Double click on a series without thumbnail."""
        self.page.locator('[data-cy="study-browser-thumbnail-no-image"]', has_text=text).first.dblclick()

    def show_segmentation(self) -> None:
        self.open("SEG")
        self.page.get_by_role("button", name="Yes").click()

    def go_to_image(self, number: int, count: int) -> None:
        """Turn the wheel until an image is shown; 1 is the uppermost of the patient."""
        self.page.locator(_VIEWPORT).first.hover()
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while (shown := self._image(count)) != number:
            assert time.monotonic() < deadline, f"image {shown} is shown, not {number}"
            self.page.mouse.wheel(0, 100 if shown < number else -100)
            self.page.wait_for_timeout(100)

    def _image(self, count: int) -> int:
        return int(self.page.get_by_text(f"/{count})").first.inner_text().split(":")[-1].split("(")[0])

    def picture(self) -> Picture:
        """What the viewport shows."""
        return as_picture(self.page.locator(_VIEWPORT).first.screenshot())


def as_picture(png: bytes) -> Picture:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"), float)


def box_of(picture: Picture, colour: Colour) -> npt.NDArray[np.float64] | None:
    """First and last column and row with a colour, [x0, x1, y0, y1]; None if there is hardly any."""
    rows, columns = np.nonzero(np.abs(picture - np.array(colour)).max(-1) < 12)
    if len(rows) < 50:
        return None
    return np.array([columns.min(), columns.max(), rows.min(), rows.max()], float)
