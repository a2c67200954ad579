"""The summary page: the right way round, everything named, in any script."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sr_synthetic import (
    NAMES,
    SHAPE,
    anatomy_map,
    as_test_model,
    empty_map,
    grid,
    nothing_assessed,
    nothing_present,
    reading,
    volume,
)

import dicom_sr
from config import Reason, load_vocabulary
from ct.volume import Volume
from dicom_sr import lettering, slice_view
from dicom_sr.slice_view import SOFT_TISSUE, Field, Plane
from dicom_sr.summary_image import ranked
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict

WHOLE = Field((0, SHAPE[1]), (0, SHAPE[2]))


def brightest(plane: Plane, at: tuple[int, int, int]) -> tuple[float, float]:
    """Where (row, column, each 0..1) a metal ball at voxel `at` is seen."""
    hu = np.full(SHAPE, -1000, np.int16)
    z, y, x = at
    hu[z - 1 : z + 2, y - 2 : y + 3, x - 2 : x + 3] = 3000
    view = slice_view.render(Volume(hu, grid()), empty_map(), plane, at[plane.axis], (400, 400), SOFT_TISSUE, {}, WHOLE)
    rows, columns = np.nonzero(np.asarray(view)[:, :, 0] > 200)
    return rows.mean() / view.height, columns.mean() / view.width


def test_patient_left_is_on_the_right_and_the_head_up() -> None:
    superior_anterior_left = (20, 10, 54)
    row, column = brightest(Plane.AXIAL, superior_anterior_left)
    assert row < 0.3
    assert column > 0.7
    assert Plane.AXIAL.letters == ("R", "L", "A", "P")
    row, column = brightest(Plane.CORONAL, superior_anterior_left)
    assert row < 0.3
    assert column > 0.7
    assert Plane.CORONAL.letters == ("R", "L", "H", "F")
    row, column = brightest(Plane.SAGITTAL, superior_anterior_left)
    assert row < 0.3
    assert column < 0.3
    assert Plane.SAGITTAL.letters == ("A", "P", "H", "F")


@pytest.mark.parametrize("plane", list(Plane))
def test_aspect_is_true(plane: Plane) -> None:
    view = slice_view.render(volume(), anatomy_map(), plane, 10, (500, 500), SOFT_TISSUE, {}, WHOLE)
    rows, columns = plane.cut(volume().hu, 10).shape
    row_mm, column_mm = plane.pixel_mm(volume().spacing)
    assert view.height / view.width == pytest.approx(rows * row_mm / (columns * column_mm), rel=0.02)
    assert max(view.size) == 500


def test_contours_lie_on_the_anatomy() -> None:
    red = (255, 0, 0)
    plain = slice_view.render(volume(), anatomy_map(), Plane.AXIAL, 14, (640, 640), SOFT_TISSUE, {}, WHOLE)
    drawn = slice_view.render(volume(), anatomy_map(), Plane.AXIAL, 14, (640, 640), SOFT_TISSUE, {"heart": red}, WHOLE)
    rows, columns = np.nonzero((np.asarray(plain) != np.asarray(drawn)).any(axis=2))
    scale_y, scale_x = drawn.height / SHAPE[1], drawn.width / SHAPE[2]
    assert rows.min() / scale_y == pytest.approx(20, abs=1)
    assert (rows.max() + 1) / scale_y == pytest.approx(33, abs=1)
    assert columns.min() / scale_x == pytest.approx(26, abs=1)
    assert (columns.max() + 1) / scale_x == pytest.approx(39, abs=1)


def test_slices_go_through_the_anatomy_even_outside_the_field() -> None:
    mask = anatomy_map().labels == 2
    assert mask[slice_view.widest(mask)[0]].any()
    assert slice_view.widest(np.zeros(SHAPE, bool)) == (12, 32, 32)
    narrow = Field((0, 10), (0, 10))
    view = slice_view.render(volume(), anatomy_map(), Plane.CORONAL, 60, (100, 100), SOFT_TISSUE, {}, narrow)
    assert view.width > 0


def test_body_field_leaves_out_the_air() -> None:
    field = slice_view.body_field(volume(), margin_mm=0)
    assert field.y[0] >= 4
    assert field.x[0] >= 2
    assert field.of(volume().hu).shape[1] <= 56
    air = Volume(np.full(SHAPE, -1000, np.int16), grid())
    assert slice_view.body_field(air).of(air.hu).size > 0


def crowded() -> Reading:
    """Every finding of the vocabulary without operating point, many anatomies not assessed."""
    vocabulary = load_vocabulary()
    anatomies = tuple(
        AnatomyReading(
            a.name,
            1.0,
            1.0,
            tuple(Finding(f.key, 0.5, Verdict.NO_OPERATING_POINT) for f in vocabulary.findings if f.anatomy == a.name),
        )
        for a in vocabulary.anatomies
    )
    missing = tuple(NotAssessed(a.name, Reason.ANATOMY_IMPLAUSIBLE_HU, "x" * 500) for a in vocabulary.anatomies)
    return replace(reading(), anatomies=anatomies, not_assessed=missing)


NAMES_OF_PATIENTS = [
    "Müller, Jörg  *1950-02-20",
    "山田 太郎",
    "محمد علي *1950-02-20 M",
    "Иванов Иван",
    "김철수",
    "🂡 \x00\n\t\ufffd \U0010fffe",
    "",
    "W" * 5000,
]


@pytest.mark.parametrize("patient", NAMES_OF_PATIENTS, ids=range(len(NAMES_OF_PATIENTS)))
def test_names_in_any_script(patient: str) -> None:
    page = dicom_sr.summary_page(reading(), anatomy_map(), volume(), patient)
    assert page.size == (1400, 1000)


@pytest.mark.parametrize(
    "of",
    [nothing_present(), nothing_assessed(), crowded(), as_test_model(reading())],
    ids=["negative", "nothing", "crowded", "test"],
)
def test_every_kind_of_reading_has_a_page(of: Reading, tmp_path: Path) -> None:
    source = empty_map() if not of.anatomies else anatomy_map()
    dicom_sr.write_summary_page(tmp_path / "page.png", of, source, volume(), "Patient")
    with Image.open(tmp_path / "page.png") as page:
        assert page.format == "PNG"
        red, green, _ = page.convert("RGB").getpixel((1390, 107))
        assert (red > 180 and green < 80) == of.test_only


def test_maps_and_volumes_must_fit() -> None:
    small = Volume(np.zeros((2, 3, 4), np.int16), replace(grid(), shape=(2, 3, 4)))
    with pytest.raises(ValueError, match="shape"):
        dicom_sr.summary_page(reading(), anatomy_map(), small, "")


def test_list_starts_with_what_is_present() -> None:
    assert [f.key for f in ranked(reading())] == [
        "lung.nodule",
        "heart.cardiomegaly",
        "lung.peribronchial_thickening",
        "liver.tumor",
    ]
    assert ranked(nothing_present()) == []


def test_a_date_beside_an_arabic_name_keeps_its_order() -> None:
    assert lettering.runs("محمد علي *1950-02-20 M") == ["محمد علي", " *1950-02-20 M"]
    assert lettering.runs("Doe John") == ["Doe John"]
    assert "".join(lettering.runs("a\nb 山田 x")) == "a b 山田 x"


def test_text_is_cut_to_its_space() -> None:
    cut = lettering.fitted("A long line of text", 16, 60)
    assert cut.endswith("…")
    assert lettering.width_of(cut, 16) <= 60
    assert lettering.fitted("short", 16, 600) == "short"


def test_legend_names_what_is_seen() -> None:
    seen = slice_view.visible(anatomy_map(), (14, 25, 30), list(NAMES))
    assert "heart" in seen
    assert "spleen" not in slice_view.visible(anatomy_map(), (14, 5, 30), list(NAMES))
