"""Headers, grouping and folder scans, on whole files, spool byte ranges and damaged bytes."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
)
from tiny_series import COLUMNS, FRAME, ROWS, SERIES, STUDY, make_slice, write, write_series

from config import Reason
from ct import SourceSlice, Unfit, load_volume, read_header, scan_folder, vet
from ct.series import group, read_data_set, read_pixels

SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
]


def reason_of(path: Path | SourceSlice) -> Reason:
    with pytest.raises(Unfit) as caught:
        read_header(path)
    return caught.value.reason


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_header_tells_what_the_file_says(tmp_path: Path, syntax: str) -> None:
    data = make_slice(3)
    data.PixelPaddingValue = -2000
    data["PixelPaddingValue"].VR = "SS"
    data.AcquisitionNumber = 7
    header = read_header(write(data, tmp_path / "a", syntax))
    assert (header.study_instance_uid, header.series_instance_uid) == (STUDY, SERIES)
    assert (header.sop_instance_uid, header.frame_of_reference_uid) == (data.SOPInstanceUID, FRAME)
    assert (header.rows, header.columns, header.samples, header.frames) == (ROWS, COLUMNS, 1, 1)
    assert (header.bits_allocated, header.bits_stored, header.high_bit, header.signed) == (16, 16, 15, True)
    assert header.spacing == (0.8, 0.7)
    assert header.orientation == (1, 0, 0, 0, 1, 0)
    assert header.position == (-5, -7, 37.5)
    assert (header.slope, header.intercept, header.padding) == (1, 0, 63536)
    assert header.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert header.phase[0] == "7"
    assert header.transfer_syntax_uid == syntax
    assert header.pixels is not None
    assert header.pixels.encapsulated == syntax.is_encapsulated


def test_no_patient_data_is_kept(tmp_path: Path) -> None:
    header = read_header(write(make_slice(0), tmp_path / "a"))
    assert "Planted" not in repr(header)
    assert "PLANTED" not in repr(header)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_instances_inside_a_spool_segment(tmp_path: Path, syntax: str) -> None:
    segment, slices = tmp_path / "segment", []
    blob = b"RECORD--" * 3
    for index in range(24):
        stream = write(make_slice(index), tmp_path / "one", syntax).read_bytes()
        slices.append(SourceSlice("", segment, len(blob), len(stream)))
        blob += stream + b"\0" * 40 + b"RECORD--"
    segment.write_bytes(blob)
    from_segment = [read_header(source) for source in reversed(slices)]
    assert {header.source.offset for header in from_segment} == {source.offset for source in slices}
    volume = load_volume(vet(group(from_segment)[0]))
    whole = write_series(tmp_path / "whole")
    assert np.array_equal(volume.hu, load_volume(vet(scan_folder(whole).series[0])).hu)
    assert [source.offset for source in volume.sources] == [source.offset for source in slices]


def test_a_record_cut_short_is_not_completed_from_the_next_one(tmp_path: Path) -> None:
    stream = write(make_slice(0), tmp_path / "one").read_bytes()
    segment = tmp_path / "segment"
    segment.write_bytes(stream + stream)
    assert read_header(SourceSlice("", segment, 0, len(stream))).rows == ROWS
    assert reason_of(SourceSlice("", segment, 0, len(stream) - 100)) is Reason.TRUNCATED
    assert reason_of(SourceSlice("", segment, len(stream), len(stream) + 1)) is Reason.TRUNCATED


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda uid: uid.name)
def test_files_without_preamble_are_read(tmp_path: Path, syntax: str) -> None:
    whole = write(make_slice(0), tmp_path / "whole", syntax).read_bytes()
    (tmp_path / "meta_only").write_bytes(whole[132:])
    assert read_header(tmp_path / "meta_only").rows == ROWS
    meta_length = 12 + int.from_bytes(whole[140:144], "little")
    (tmp_path / "bare").write_bytes(whole[132 + meta_length :])
    bare = read_header(tmp_path / "bare")
    assert bare.transfer_syntax_uid == syntax
    assert read_pixels(bare) == read_pixels(read_header(tmp_path / "whole"))


def test_scan_finds_series_and_passes_over_junk(tmp_path: Path) -> None:
    write_series(tmp_path / "deep" / "er", slices=3)
    other = make_slice(0)
    other.SeriesInstanceUID, other.SOPClassUID, other.Modality = "1.2.3", MRImageStorage, "MR"
    write(other, tmp_path / "mr")
    (tmp_path / "README.txt").write_text("bring the films")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    seen: list[tuple[int, int]] = []
    scan = scan_folder(tmp_path, lambda done, total: seen.append((done, total)))
    assert [(series.series_instance_uid, len(series.headers)) for series in scan.series] == [(SERIES, 3), ("1.2.3", 1)]
    assert scan.problems == []
    assert seen[-1] == (len(seen), len(seen)) == (6, 6)


def test_scan_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        scan_folder(tmp_path / "file")


def test_files_that_claim_to_be_dicom_are_problems(tmp_path: Path) -> None:
    good = write(make_slice(0), tmp_path / "source").read_bytes()
    (tmp_path / "source").unlink()
    (tmp_path / "text.dcm").write_text("not an image")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "cut_in_pixels").write_bytes(good[:-10])
    (tmp_path / "cut_in_header").write_bytes(good[:600])
    (tmp_path / "magic_only").write_bytes(b"\0" * 128 + b"DICM")
    scan = scan_folder(tmp_path)
    assert scan.series == []
    assert {problem.path.name: problem.reason for problem in scan.problems} == {
        "text.dcm": Reason.NOT_DICOM,
        "empty.dcm": Reason.NOT_DICOM,
        "cut_in_pixels": Reason.TRUNCATED,
        "cut_in_header": Reason.TRUNCATED,
        "magic_only": Reason.TRUNCATED,
    }


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1" * 65, "1.2.\x003", "1..2", ""])
@pytest.mark.parametrize("tag", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_bad_uids(tmp_path: Path, tag: str, uid: str) -> None:
    path = write(make_slice(0), tmp_path / "a")
    data = dcmread(path)
    data[tag]._value = uid
    FileDataset.save_as(data, path, enforce_file_format=False)
    assert reason_of(path) is Reason.BAD_UID


def test_ct_without_pixels(tmp_path: Path) -> None:
    data = make_slice(0)
    del data.PixelData
    assert reason_of(write(data, tmp_path / "a")) is Reason.NO_PIXELS


def test_lost_fragments(tmp_path: Path) -> None:
    path = write(make_slice(0), tmp_path / "a", RLELossless)
    path.write_bytes(path.read_bytes()[:-30])
    assert reason_of(path) is Reason.TRUNCATED


def test_native_pixels_in_an_encapsulated_syntax(tmp_path: Path) -> None:
    path = write(make_slice(0), tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    assert reason_of(path) is Reason.UNDECODABLE


def test_a_deflate_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_slice(0)
    data.add_new(0x00090010, "LO", "BOMB")
    data.add_new(0x00091001, "OB", bytes(2**20))
    path = write(data, tmp_path / "a", DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 2**14
    assert read_header(path).rows == ROWS
    monkeypatch.setattr("ct.part10.MAX_INFLATED_BYTES", 2**19)
    assert reason_of(path) is Reason.UNDECODABLE


def test_pixels_that_vanish_after_the_scan(tmp_path: Path) -> None:
    path = write(make_slice(0), tmp_path / "a")
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Unfit, match="TRUNCATED"):
        read_pixels(header)
    path.unlink()
    with pytest.raises(Unfit, match="TRUNCATED"):
        read_pixels(header)
    with pytest.raises(Unfit, match="NO_PIXELS"):
        read_pixels(replace(header, pixels=None))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_damaged_bytes_end_in_a_reason_or_a_volume(tmp_path: Path, syntax: str) -> None:
    """50 seeded mutations a syntax: cuts, flipped bytes, doubled and zeroed stretches: only `Unfit` comes out."""
    chance = random.Random(str(syntax))
    folder = write_series(tmp_path / "series", slices=4, syntax=syntax)
    victim = sorted(folder.iterdir())[1]
    good = victim.read_bytes()
    outcomes = set()
    for _ in range(50):
        bad = bytearray(good)
        at = chance.randrange(128, len(good))
        kind = chance.choice(["cut", "flip", "double", "zero", "length"])
        if kind == "cut":
            del bad[at:]
        elif kind == "flip":
            for _ in range(chance.randrange(1, 30)):
                bad[chance.randrange(128, len(bad))] = chance.randrange(256)
        elif kind == "double":
            bad[at:at] = bad[at : at + chance.randrange(1, 200)]
        elif kind == "zero":
            bad[at : at + 20] = bytes(len(bad[at : at + 20]))
        else:
            bad[at : at + 4] = b"\xff\xff\xff\x7f"
        victim.write_bytes(bad)
        scan = scan_folder(folder)
        outcomes.update(problem.reason for problem in scan.problems)
        for series in scan.series:
            try:
                volume = load_volume(vet(series, min_slices=3))
            except Unfit as unfit:
                outcomes.add(unfit.reason)
            else:
                assert volume.hu.shape == volume.grid.shape
    assert Reason.TRUNCATED in outcomes


def test_a_data_set_that_only_its_header_parser_can_read_is_refused(tmp_path: Path) -> None:
    """The VR of the transfer syntax is none: the header is read all the same, pydicom's reader gives up."""
    file = write(make_slice(0), tmp_path / "slice.dcm")
    data = file.read_bytes()
    at = data.index(b"\x02\x00\x10\x00UI")
    file.write_bytes(data[: at + 4] + b"U\0" + data[at + 6 :])
    with pytest.raises(Unfit) as refused:
        read_data_set(SourceSlice("1.2", file))
    assert refused.value.reason is Reason.TRUNCATED
