"""Pixels to HU: transfer syntaxes, ways of storing, patient positions, lies and damage."""

import logging
import resource
from collections.abc import Callable
from math import cos, radians, sin
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from tiny_series import (
    COLUMNS,
    DECUBITUS_LEFT,
    DECUBITUS_RIGHT,
    FEET_FIRST_SUPINE,
    HEAD_FIRST_PRONE,
    HEAD_FIRST_SUPINE,
    ROWS,
    SLICES,
    patient_hu,
    store,
    write_series,
)

from config import Reason
from ct import Unfit, Volume, load_series, load_volume, scan_folder, vet

LOSSLESS = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
]
Int16Array = npt.NDArray[np.int16]


def load(folder: Path) -> Volume:
    scan = scan_folder(folder)
    assert not scan.problems
    return load_volume(vet(scan.series[0]))


def refusal(folder: Path) -> Unfit:
    with pytest.raises(Unfit) as caught:
        load(folder)
    return caught.value


def expected(volume: Volume) -> Int16Array:
    """What `patient_hu` says at every voxel centre."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in volume.grid.shape), indexing="ij")
    points = np.stack([z, y, x, np.ones_like(z)], axis=-1) @ volume.grid.affine.T
    return patient_hu(points[..., :3])


def pixels(first: int, dtype: npt.DTypeLike = np.int16) -> npt.NDArray[np.generic]:
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) + first).astype(dtype)


def storing(make: Callable[[Dataset], None]) -> Callable[[int, Dataset], None]:
    return lambda _, data: make(data)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_every_transfer_syntax(tmp_path: Path, syntax: str, kind: type) -> None:
    def change(_: int, data: Dataset) -> None:
        if kind is np.uint16:
            stored = np.frombuffer(data.PixelData, np.int16).reshape(ROWS, COLUMNS).astype(np.int32) + 1024
            store(data, stored.astype(np.uint16), bits_stored=12)
            data.RescaleIntercept = -1024

    volume = load(write_series(tmp_path, change, syntax=syntax))
    assert np.array_equal(volume.hu, expected(volume))


@pytest.mark.parametrize("signed", [True, False])
def test_jpeg_lossless(tmp_path: Path, signed: bool) -> None:
    """ISO 10918-1 process 14, made with liblj92."""

    def change(index: int, data: Dataset) -> None:
        values = pixels(index, np.int16 if signed else np.uint16)
        store(data, values, bits_stored=16)
        frame = imagecodecs.ljpeg_encode(values.view(np.uint16), bitspersample=16)
        data.PixelData = frame

    folder = write_series(tmp_path, change)
    for path in folder.iterdir():
        data = dcmread(path)
        data.PixelData = encapsulate([data.PixelData])
        data["PixelData"].is_undefined_length = True
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.57"
        data.save_as(path, enforce_file_format=True)
    volume = load(folder)
    assert np.array_equal(volume.hu[3], pixels(3))


@pytest.mark.parametrize(
    "orientation",
    [HEAD_FIRST_SUPINE, FEET_FIRST_SUPINE, HEAD_FIRST_PRONE, (1, 0, 0, 0, -1, 0), DECUBITUS_LEFT, DECUBITUS_RIGHT],
)
def test_every_patient_position_gives_lps(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    volume = load(write_series(tmp_path, orientation=orientation))
    assert np.array_equal(volume.hu, expected(volume))
    assert volume.hu.flags.c_contiguous
    grid = volume.grid
    directions = grid.affine[:3, :3] / np.array(grid.spacing)
    assert np.allclose(directions, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    lying = abs(orientation[0]) < 0.5
    assert grid.shape == ((SLICES, COLUMNS, ROWS) if lying else (SLICES, ROWS, COLUMNS))
    assert grid.spacing == pytest.approx((2.5, 0.7, 0.8) if lying else (2.5, 0.8, 0.7))
    assert np.all(np.diff(volume.hu[:, 0, 0]) == 10)
    assert np.all(np.diff(volume.hu[0, :, 0].astype(int)) > 0)
    assert np.all(np.diff(volume.hu[0, 0].astype(int)) > 0)


@pytest.mark.parametrize("orientation", [HEAD_FIRST_SUPINE, FEET_FIRST_SUPINE, HEAD_FIRST_PRONE, DECUBITUS_LEFT])
def test_the_way_back_to_the_source_slices(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    volume = load(write_series(tmp_path, orientation=orientation))
    axes = volume.grid.source_axes
    stack = axes.to_source(volume.hu)
    for source, image in zip(volume.sources, stack, strict=True):
        data = dcmread(source.path)
        assert data.SOPInstanceUID == source.sop_instance_uid
        assert np.array_equal(image, data.pixel_array)
    assert np.array_equal(axes.to_patient(stack), volume.hu)


def test_oblique_affine_is_true(tmp_path: Path) -> None:
    angle, turn = radians(8), radians(5)
    row = np.array([cos(turn), sin(turn), 0])
    column = np.array([-sin(turn) * cos(angle), cos(turn) * cos(angle), sin(angle)])
    volume = load(write_series(tmp_path, orientation=(*row, *column)))
    assert np.allclose(volume.grid.affine[:3, 0] / 2.5, np.cross(row, column))
    assert np.abs(volume.hu.astype(int) - expected(volume)).max() <= 1  # rounding of the positions in the file
    assert volume.grid.spacing == pytest.approx((2.5, 0.8, 0.7))


def test_rescale_of_each_slice(tmp_path: Path) -> None:
    slopes = [round(0.5 + index / 100, 2) for index in range(SLICES)]

    def change(index: int, data: Dataset) -> None:
        store(data, pixels(0))
        data.RescaleSlope, data.RescaleIntercept = slopes[index], -10.25 * index

    volume = load(write_series(tmp_path, change))
    for index in (0, 7, 23):
        assert np.array_equal(volume.hu[index], np.rint(pixels(0) * slopes[index] - 10.25 * index))


def test_negative_slope_and_clipping(tmp_path: Path) -> None:
    def make(data: Dataset) -> None:
        store(data, pixels(0))
        data.RescaleSlope, data.RescaleIntercept = -40, 10

    volume = load(write_series(tmp_path, storing(make)))
    assert np.array_equal(volume.hu[0], np.maximum(pixels(0).astype(int) * -40 + 10, -32768))
    assert volume.hu.min() == -32768


@pytest.mark.parametrize(("kind", "shift"), [(np.uint16, 0), (np.int16, 0), (np.uint16, 4), (np.int16, 4)])
def test_bits_outside_the_stored_ones_do_not_count(tmp_path: Path, kind: type, shift: int) -> None:
    """12 bits stored, right- or left-aligned, with overlays or dirt in the other four."""
    values = pixels(-720 if kind is np.int16 else 0, np.int16)

    def make(data: Dataset) -> None:
        words = (values.astype(np.uint16) & 0x0FFF) << shift
        dirty = words | (0xA000 if shift == 0 else 0x0005)
        store(data, dirty.astype(np.uint16).view(kind), bits_stored=12)
        data.HighBit = 11 + shift

    volume = load(write_series(tmp_path, storing(make)))
    assert np.array_equal(volume.hu[0], values)


def test_eight_bits(tmp_path: Path) -> None:
    values = pixels(0, np.uint8)

    def make(data: Dataset) -> None:
        store(data, values)
        data.RescaleSlope, data.RescaleIntercept = 10, -1000

    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless):
        volume = load(write_series(tmp_path, storing(make), syntax=syntax))
        assert np.array_equal(volume.hu[0], values.astype(int) * 10 - 1000)


PADDING = {
    "below air": (np.int16, -2000, None, 0, True),
    "below air, unsigned": (np.uint16, 0, None, -3000, True),
    "range": (np.int16, -2000, -1500, 0, True),
    "metal": (np.int16, 20000, None, 0, True),
    "tissue": (np.int16, 40, None, 0, False),
}


@pytest.mark.parametrize("name", PADDING)
def test_padding_becomes_air_but_never_tissue(tmp_path: Path, name: str) -> None:
    kind, value, limit, intercept, is_air = PADDING[name]
    values = pixels(100, kind)
    values[0, :10] = value
    values[1, :10] = value if limit is None else (value + limit) // 2

    def make(data: Dataset) -> None:
        store(data, values)
        data.RescaleIntercept = intercept
        for tag, number in ((0x00280120, value), (0x00280121, limit)):
            if number is not None:
                data.add_new(tag, "SS" if kind is np.int16 else "US", number)

    hu = load(write_series(tmp_path, storing(make))).hu[0]
    assert np.all(hu[:2, :10] == (-1024 if is_air else value + intercept))
    assert np.array_equal(hu[2:], values[2:].astype(int) + intercept)


def test_padding_word_outside_the_stored_bits(tmp_path: Path) -> None:
    """Seen in old files: 12 bits stored, background -2000 as a 16-bit word."""
    values = pixels(0, np.uint16)
    values[0] = np.array(-2000, np.int16).view(np.uint16)

    def make(data: Dataset) -> None:
        store(data, values, bits_stored=12)
        data.RescaleIntercept = -1024
        data.add_new(0x00280120, "US", 63536)

    hu = load(write_series(tmp_path, storing(make))).hu[0]
    assert np.all(hu[0] == -1024)
    assert np.array_equal(hu[1:], values[1:].astype(int) - 1024)


def respoil(folder: Path, spoil: Callable[[Dataset], None]) -> None:
    """Changes one file of a written series."""
    path = sorted(folder.iterdir())[3]
    data = dcmread(path)
    spoil(data)
    data.save_as(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
def test_a_cut_image_is_undecodable(tmp_path: Path, syntax: str, caplog: pytest.LogCaptureFixture) -> None:
    def cut(data: Dataset) -> None:
        code = get_frame(data.PixelData, 0, number_of_frames=1)
        data.PixelData = encapsulate([code[: len(code) // 2]])

    folder = write_series(tmp_path, syntax=syntax)
    respoil(folder, cut)
    with caplog.at_level(logging.DEBUG):
        assert refusal(folder).reason is Reason.UNDECODABLE
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
def test_a_codestream_larger_than_the_header_says_is_not_decoded(tmp_path: Path, syntax: str) -> None:
    """JPEG-LS carries 16-bit, JPEG 2000 32-bit sizes: a decoder would allocate them."""

    def lie(data: Dataset) -> None:
        code = bytearray(get_frame(data.PixelData, 0, number_of_frames=1))
        if syntax == JPEGLSLossless:
            at = code.index(b"\xff\xf7") + 5
            code[at : at + 4] = b"\xff\xff\xff\xff"
        else:
            at = code.index(b"\xff\x51") + 6
            code[at : at + 8] = b"\x00\x01\x00\x00\x00\x01\x00\x00"
        data.PixelData = encapsulate([bytes(code)])

    folder = write_series(tmp_path, syntax=syntax)
    respoil(folder, lie)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unfit = refusal(folder)
    assert unfit.reason is Reason.UNDECODABLE
    assert "header of 36 x 40" in unfit.detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize("syntax", [MPEG2MPML, "1.2.840.10008.1.2.4.999"])
def test_unknown_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    folder = write_series(tmp_path, syntax=RLELossless)
    for path in folder.iterdir():
        value = syntax.encode() + b"\0" * (len(syntax) % 2)
        old = b"\x14\x001.2.840.10008.1.2.5\0"  # its length, 20, and the UID
        path.write_bytes(path.read_bytes().replace(old, len(value).to_bytes(2, "little") + value))
    unfit = refusal(folder)
    assert unfit.reason is Reason.UNDECODABLE
    assert "not encapsulated" not in unfit.detail


def test_a_transfer_syntax_that_is_no_uid(tmp_path: Path) -> None:
    folder = write_series(tmp_path, slices=1, syntax=RLELossless)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"PLANTED^NAME".ljust(20, b"\0")))
    (problem,) = scan_folder(folder).problems
    assert problem.reason is Reason.BAD_UID
    assert "PLANTED" not in problem.detail


def test_a_data_set_of_nothing_but_tiny_elements_is_refused_at_once(tmp_path: Path) -> None:
    """32 MiB of zeros are four million elements: the parser alone would take half a minute."""
    folder = write_series(tmp_path, slices=1)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    at = whole.index(b"\xe0\x7f\x10\x00OW")
    path.write_bytes(whole[:at] + bytes(32 * 2**20))
    (problem,) = scan_folder(folder).problems
    assert problem.reason is Reason.UNDECODABLE
    assert "elements" in problem.detail


def test_lossy_jpeg_of_the_wrong_depth(tmp_path: Path) -> None:
    """A baseline JPEG with 8 bits where the header says 16."""
    folder = write_series(tmp_path, syntax=RLELossless)

    def swap(data: Dataset) -> None:
        data.PixelData = encapsulate([imagecodecs.jpeg8_encode(pixels(0, np.uint8))])
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit

    respoil(folder, swap)
    assert refusal(folder).reason is Reason.UNDECODABLE


def test_progress_and_identity(tmp_path: Path) -> None:
    folder = write_series(tmp_path)
    seen: list[tuple[int, int]] = []
    vetted = vet(scan_folder(folder).series[0])
    volume = load_volume(vetted, lambda done, total: seen.append((done, total)))
    assert seen == [(i, SLICES) for i in range(1, SLICES + 1)]
    assert volume.series_instance_uid == vetted.series_instance_uid
    assert volume.study_instance_uid == vetted.study_instance_uid
    assert [source.sop_instance_uid for source in volume.sources] == [h.sop_instance_uid for h in vetted.headers]


def test_load_series_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path / "good")

    def other(index: int, data: Dataset) -> None:
        data.SOPInstanceUID, data.SeriesInstanceUID, data.Modality = f"1.2.{index}", "1.2.3", "MR"

    write_series(tmp_path / "bad", other)
    volumes = load_series(tmp_path)
    assert [volume.hu.shape for volume in volumes] == [(SLICES, ROWS, COLUMNS)]
    assert "left out: NOT_CT: modality is MR" in caplog.text
    with pytest.raises(Unfit, match="NOT_CT"):
        load_series(tmp_path / "bad")
    assert load_series(write_series(tmp_path / "empty", slices=0)) == []
