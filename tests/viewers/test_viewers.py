"""What a radiologist sees: OHIF and Orthanc's own viewer, really started, in a real browser."""

import os
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from browser import Colour, Ohif, Picture, as_picture, box_of, browser_page
from highdicom.color import CIELabColor
from ohif_package import fetch
from ohif_site import OhifSite
from peers import Orthanc, until
from pydicom import dcmread
from study import SHAPE, Study, make_study

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(900)]
PICTURES = os.environ.get("FVLM_NODE_PICTURES")
"""A folder that gets the screenshots, such as docs/radiologist/images."""


@dataclass(frozen=True)
class Archive:
    """An Orthanc with the study, and OHIF before it."""

    orthanc: Orthanc
    site: str
    study: Study


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("viewers")
    study = make_study(folder / "ct")
    with (
        Orthanc(folder / "orthanc", plugins=("/usr/share/orthanc/plugins/libOrthancWebViewer.so",)) as orthanc,
        OhifSite(fetch(), orthanc.url) as site,
    ):
        for number, result in enumerate(study.results):
            result.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        for file in (*study.images, *folder.glob("*.dcm")):
            urllib.request.urlopen(urllib.request.Request(f"{orthanc.url}/instances", file.read_bytes())).close()
        yield Archive(orthanc, site.url, study)


def _keep(name: str, png: bytes) -> None:
    if PICTURES:
        (Path(PICTURES) / name).write_bytes(png)


def _colours(study: Study) -> dict[str, Colour]:
    (segmentation,) = (result for result in study.results if result.Modality == "SEG")
    return {
        str(item.SegmentLabel).lower(): tuple(CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue).to_rgb())
        for item in segmentation.SegmentSequence
    }


def test_ohif_draws_each_segment_on_its_organ(archive: Archive) -> None:
    """The liver on the patient's right, the heart left of it, both where the CT below shows them."""
    study = archive.study
    labels, names = study.anatomy_map.labels, study.anatomy_map.names
    masks = {name: labels == names.index(name) + 1 for name in ("liver", "heart")}
    index = int(np.minimum(*(mask.sum((1, 2)) for mask in masks.values())).argmax())
    with browser_page() as page:
        ohif = Ohif(page, archive.site, study.uid)
        listed = " ".join(ohif.series())
        assert all(modality in listed for modality in {result.Modality for result in study.results} | {"CT"})
        ohif.show_segmentation()
        ohif.go_to_image(SHAPE[0] - index, SHAPE[0])
        colours = _colours(study)
        boxes = until(lambda: _boxes(ohif.picture(), colours, masks), 120, "outlines of liver and heart")
        picture = ohif.picture()
        assert page.get_by_text("R", exact=True).first.bounding_box()["x"] < 400  # of 1400: the patient's right
        _keep("ohif-segmentation.png", page.screenshot())
    expected = {name: _box(mask[index]) for name, mask in masks.items()}
    scale_x, left = np.polyfit(
        [v for b in expected.values() for v in b[:2]], [v for b in boxes.values() for v in b[:2]], 1
    )
    scale_y, top = np.polyfit(
        [v for b in expected.values() for v in b[2:]], [v for b in boxes.values() for v in b[2:]], 1
    )
    assert scale_x == pytest.approx(scale_y, rel=0.03)  # and so not mirrored
    for name, box in expected.items():
        fitted = np.concatenate([box[:2] * scale_x + left, box[2:] * scale_y + top])
        assert np.abs(fitted - boxes[name]).max() < 1.5 * scale_x, name
    assert _likeness(picture, study, index, (scale_x, left), (scale_y, top)) > 0.8
    middle = {name: boxes[name][:2].mean() for name in masks}
    assert middle["liver"] < middle["heart"] - 10 * scale_x


def _boxes(picture: Picture, colours: Mapping[str, Colour], names: Iterable[str]) -> dict[str, np.ndarray] | None:
    """Where the outlines are; None until all are drawn."""
    found = {name: box for name in names if (box := box_of(picture, colours[name])) is not None}
    return found if found.keys() == set(names) else None


def _box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), columns.max() + 1, rows.min(), rows.max() + 1], float)


def _likeness(
    picture: Picture, study: Study, index: int, across: tuple[float, float], down: tuple[float, float]
) -> float:
    """Correlation of the picture's greys with the CT slice, laid where the outlines say; segments left out."""
    slices = sorted((dcmread(file) for file in study.images), key=lambda d: float(d.ImagePositionPatient[2]))
    hu = slices[index].pixel_array * float(slices[index].RescaleSlope) + float(slices[index].RescaleIntercept)
    rows, columns = np.indices(hu.shape)
    x = (across[0] * (columns + 0.5) + across[1]).astype(int)
    y = (down[0] * (rows + 0.5) + down[1]).astype(int)
    seen = (
        (x >= 0) & (y >= 0) & (x < picture.shape[1]) & (y < picture.shape[0]) & (study.anatomy_map.labels[index] == 0)
    )
    return float(np.corrcoef(picture[y[seen], x[seen]].mean(-1), np.clip(hu[seen], -160, 240))[0, 1])


def test_ohif_shows_the_report_as_text(archive: Archive) -> None:
    with browser_page() as page:
        ohif = Ohif(page, archive.site, archive.study.uid)
        ohif.open("AI report, text")
        page.get_by_text("Pleural effusion").first.wait_for()
        shown = page.locator("body").inner_text()
        for expected in ("Cardiomegaly", "93", "not verified"):
            assert expected in shown
        _keep("ohif-report.png", page.screenshot())


@pytest.mark.parametrize(("modality", "name"), [("CT", "orthanc-ct.png"), ("OT", "orthanc-summary.png")])
def test_orthancs_own_viewer_shows_the_ct_and_the_summary_page(archive: Archive, modality: str, name: str) -> None:
    """It draws images only: reports and overlays are beyond it, which is what the summary page is for."""
    with browser_page() as page:
        page.goto(f"{archive.orthanc.url}/web-viewer/app/viewer.html?series={archive.orthanc.series_of(modality)}")
        page.locator("canvas").first.wait_for()
        until(lambda: as_picture(page.locator("canvas").first.screenshot()).std() > 20, 120, "an image")
        _keep(name, page.screenshot())
