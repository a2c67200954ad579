"""The summary page: the right way round, everything named, in any script."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import features
from pydicom import Dataset
from sr_synthetic import (
    FEET_FIRST,
    MOMENT,
    NAMES,
    SHAPE,
    anatomy_map,
    as_test_model,
    ct_headers,
    empty_map,
    feet_first_headers,
    grid,
    nothing_assessed,
    nothing_present,
    oblique_headers,
    reading,
    volume,
    with_heat,
)

from config import Reason, load_vocabulary
from ct.anatomy import AnatomyMap
from ct.volume import Volume
from dicom_sr import lettering, patient_line, slice_view
from dicom_sr.companion import Case
from dicom_sr.companions import looked_at
from dicom_sr.identity import Names, WriteContext
from dicom_sr.slice_view import SOFT_TISSUE, Field, Glow, Plane
from dicom_sr.sources import working_copies
from dicom_sr.summary_image import Page, draw_page, ranked
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict

WHOLE = Field((0, SHAPE[1]), (0, SHAPE[2]))


def case_of(of: Reading, source: AnatomyMap, headers: list[Dataset]) -> Case:
    names = Names.of(of, [str(header.SOPInstanceUID) for header in headers], "2.25.1", MOMENT)
    return Case(of, source, working_copies(headers, source), names, WriteContext(), MOMENT, load_vocabulary())


def page_of(of: Reading, source: AnatomyMap, ct: Volume, **header: str) -> Page:
    case = case_of(of, source, ct_headers(**header))
    stacks, slices = looked_at(case)
    return draw_page(case, ct, stacks, slices)


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
    assert Plane.AXIAL.letters(grid()) == ("R", "L", "A", "P")
    row, column = brightest(Plane.CORONAL, superior_anterior_left)
    assert row < 0.3
    assert column > 0.7
    assert Plane.CORONAL.letters(grid()) == ("R", "L", "H", "F")
    row, column = brightest(Plane.SAGITTAL, superior_anterior_left)
    assert row < 0.3
    assert column < 0.3
    assert Plane.SAGITTAL.letters(grid()) == ("A", "P", "H", "F")


def test_letters_of_oblique_slices_tell_how_they_lean() -> None:
    turned = grid()
    angle = np.radians(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    leaning = replace(turned, affine=turn @ turned.affine)
    assert Plane.AXIAL.letters(leaning) == ("R", "L", "AF", "PH")
    assert Plane.CORONAL.letters(leaning) == ("R", "L", "HA", "FP")


def test_heat_lies_where_the_tokens_are_and_only_on_the_anatomy() -> None:
    nodule = with_heat(reading()).positives[0]
    assert nodule.heat is not None
    plain, glowing = (
        slice_view.render(
            volume(), anatomy_map(), Plane.AXIAL, 18, (640, 640), SOFT_TISSUE, {}, WHOLE, "lung", glow=glow
        )
        for glow in (None, Glow(nodule.heat, "lung", 1.5))
    )
    rows, columns = np.nonzero((np.asarray(plain) != np.asarray(glowing)).any(axis=2))
    assert rows.mean() / plain.height * SHAPE[1] == pytest.approx(19.5, abs=2)
    assert columns.min() / plain.width * SHAPE[2] >= 38  # the left lung begins at 40, pictures are smooth
    assert columns.mean() / plain.width * SHAPE[2] == pytest.approx(43.5, abs=3)


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
    "Müller^Jörg",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "محمد^علي",
    "Иванов^Иван",
    "김^철수",
    "\ud83c\udca1\ufffd".encode("utf-16", "surrogatepass").decode("utf-16"),
    "",
    "W" * 64 + "^" + "M" * 64,
]


@pytest.mark.parametrize("patient", NAMES_OF_PATIENTS, ids=range(len(NAMES_OF_PATIENTS)))
def test_names_in_any_script(patient: str) -> None:
    header = case_of(reading(), anatomy_map(), ct_headers(SpecificCharacterSet="ISO_IR 192", PatientName=patient))
    told = patient_line.patient_name(header.headers[0])
    assert told
    assert lettering.can_draw(told)
    assert "^" not in told
    assert "=" not in told


@pytest.fixture
def fonts(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No fonts but the project's own, whatever is installed here."""
    monkeypatch.setattr("dicom_sr.lettering._installed", lambda _: [])
    for cached in (lettering._font_file, lettering._font, lettering._drawable):
        cached.cache_clear()
    return monkeypatch


def _name(text: str) -> str:
    header = Dataset()
    header.SpecificCharacterSet, header.PatientName = "ISO_IR 192", text
    return patient_line.patient_name(header)


@pytest.mark.usefixtures("fonts")
def test_a_name_is_told_in_letters_that_can_be_drawn() -> None:
    assert _name("Yamada^Tarou=山田^太郎=やまだ^たろう") == "Yamada Tarou"
    assert _name("=山田^太郎") == "(name in letters that cannot be drawn here)"
    assert _name("Ivanov^Ivan=Иванов^Иван") == "Иванов Иван (Ivanov Ivan)"
    assert _name("^^^") == _name("") == "(no name)"
    assert lettering.legible("a 山 b") == "a  b"


def test_letters_that_are_joined_need_the_library_that_joins_them(fonts: pytest.MonkeyPatch) -> None:
    assert features.check("raqm") == lettering.can_draw("محمد")
    fonts.setattr(lettering.features, "check", lambda _: False)
    lettering._drawable.cache_clear()
    assert not lettering.can_draw("محمد علي")
    assert _name("محمد^علي") == "(name in letters that cannot be drawn here)"
    assert _name("Mohammed^Ali=محمد^علي") == "Mohammed Ali"
    assert lettering.can_draw("Müller Иванов Ελένη")
    lettering._drawable.cache_clear()


@pytest.mark.skipif(not features.check("raqm"), reason="libfribidi is not installed")
def test_arabic_letters_are_joined() -> None:
    ligature = lettering.width_of("لا", 60)
    assert ligature < 0.9 * (lettering.width_of("ل", 60) + lettering.width_of("ا", 60))


@pytest.mark.parametrize(
    ("of", "red"),
    [
        (nothing_present(), False),
        (nothing_assessed(), False),
        (crowded(), False),
        (with_heat(as_test_model(reading())), True),
    ],
    ids=["negative", "nothing", "crowded", "test"],
)
def test_every_kind_of_reading_has_a_page(of: Reading, red: bool) -> None:
    page = page_of(of, anatomy_map() if of.anatomies else empty_map(), volume())
    assert page.image.size == (1536, 1536)
    level, green, _ = page.image.getpixel((1526, 170))
    assert (level > 180 and green < 80) == red


def test_the_page_shows_the_slices_with_the_heat() -> None:
    page = page_of(with_heat(reading()), anatomy_map(), volume())
    assert 17 <= page.shown[0] <= 20
    assert 13 <= page.shown[1] <= 15
    headers = feet_first_headers()
    source = anatomy_map(source_axes=FEET_FIRST)
    case = case_of(with_heat(reading()), source, headers)
    turned = draw_page(case, volume(FEET_FIRST), *looked_at(case))
    # two slices share a token: which of them is first depends on how they are stored
    assert [SHAPE[0] - 1 - index for index in turned.shown] == pytest.approx(list(page.shown), abs=1)
    assert np.array_equal(  # the same patient, however the slices are stored; what is above names images and series
        np.asarray(page.image)[370:790], np.asarray(turned.image)[370:790]
    )


@pytest.mark.parametrize("plane", list(Plane))
def test_heat_stays_in_place_however_the_picture_is_cropped(plane: Plane) -> None:
    nodule = with_heat(reading()).positives[0]
    assert nodule.heat is not None
    glow = Glow(nodule.heat, "lung", 1.5)
    narrow, index = Field((13, 30), (41, 60)), (18, 19, 44)[plane.axis]
    views = [
        slice_view.render(volume(), anatomy_map(), plane, index, (400, 400), SOFT_TISSUE, {}, narrow, glow=g)
        for g in (glow, None)
    ]
    assert (np.asarray(views[0]) != np.asarray(views[1])).any()


def test_oblique_slices_have_a_page() -> None:
    case = case_of(with_heat(reading()), anatomy_map(), oblique_headers())
    assert draw_page(case, volume(), *looked_at(case)).shown


def test_maps_and_volumes_must_fit() -> None:
    small = Volume(np.zeros((2, 3, 4), np.int16), replace(grid(), shape=(2, 3, 4)))
    with pytest.raises(ValueError, match="shape"):
        page_of(reading(), anatomy_map(), small)


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
    assert "".join(lettering.runs("a\nb Иван x")) == "a b Иван x"


def test_text_is_cut_to_its_space() -> None:
    cut = lettering.fitted("A long line of text", 16, 60)
    assert cut.endswith("…")
    assert lettering.width_of(cut, 16) <= 60
    assert lettering.fitted("short", 16, 600) == "short"


def test_legend_names_what_is_seen() -> None:
    assert "heart" in slice_view.visible(anatomy_map(), Plane.AXIAL, 14, list(NAMES))
    assert "heart" not in slice_view.visible(anatomy_map(), Plane.AXIAL, 5, list(NAMES))
