"""The journal: what is appended is found again, byte for byte, whatever happened to the end of the file."""

import errno
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from spool_data import ROOT, ct_slice, encode

from node import segment_writer
from node.file_meta import Origin
from node.segment_writer import SegmentWriter
from node.spool import (
    HEADER_LENGTH,
    Damage,
    Record,
    SegmentBusyError,
    SegmentReader,
    SpoolError,
    has_writer,
    remove,
    scan,
    segments,
)


def _origin(number: int = 1, syntax: str = ExplicitVRLittleEndian) -> Origin:
    return Origin("1.2.840.10008.5.1.4.1.1.2", f"{ROOT}.1.{number}", syntax, "STORESCU", "FVLM")


def _segment(folder: Path, *data_sets: bytes) -> tuple[Path, list[Record]]:
    with SegmentWriter(folder) as writer:
        records = [writer.append(_origin(number), data) for number, data in enumerate(data_sets, 1)]
    return writer.path, records


def _data(path: Path, record: Record) -> bytes:
    with SegmentReader(path) as reader:
        return bytes(reader.data_set(record))


def test_a_record_says_everything_and_is_a_part_10_stream_in_place(tmp_path: Path) -> None:
    dataset = ct_slice(number=5)
    path, (written,) = _segment(tmp_path, encode(dataset))
    (found,) = scan(path)
    assert (found.origin, found.offset, found.length) == (_origin(), written.offset, written.length)
    assert abs((found.received_at - written.received_at).total_seconds()) < 1e-3
    with path.open("rb") as file:
        file.seek(found.offset)
        assert file.read(132) == bytes(128) + b"DICM"
        file.seek(found.offset)
        read = dcmread(file)
    assert read == dataset
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read.file_meta.SourceApplicationEntityTitle == "STORESCU"
    assert read.file_meta.MediaStorageSOPInstanceUID == f"{ROOT}.1.1"
    assert path.stat().st_size == found.end


def test_the_format_is_the_documented_one(tmp_path: Path) -> None:
    data = b"the data set" * 5
    path, (record,) = _segment(tmp_path, data)
    raw = path.read_bytes()
    version, header, start = struct.unpack_from("<HHI", raw, 8)
    checksum, length, received, data_length = struct.unpack_from("<I4xQQQ", raw, 16)
    assert (raw[:8], version, header, length) == (b"FVLMSEG\n", 1, 288, len(raw) - 288)
    assert raw[288 + start : 288 + start + data_length] == data
    assert abs(received / 1e9 - record.received_at.timestamp()) < 1e-5
    assert checksum == zlib.crc32(raw[288:])
    places = ((48, 64), (112, 64), (176, 64), (240, 16), (256, 16))
    texts = [raw[at : at + size].rstrip(b"\0").decode() for at, size in places]
    assert Origin(*texts) == record.origin
    assert raw[20:24] + raw[272:284] == bytes(16)
    assert struct.unpack_from("<I", raw, 284)[0] == zlib.crc32(raw[:284])


def test_names_come_from_the_node_not_from_a_uid(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path) as writer:
        origin = Origin("1.2.3", "1.2.9999", "1.2.840.10008.1.2", "../../EVIL", "FVLM")
        writer.append(origin, b"x" * 10)
    assert "9999" not in writer.path.name
    assert writer.path.parent == tmp_path
    assert next(scan(writer.path)).origin == origin


def test_data_in_many_buffers_is_one_data_set(tmp_path: Path) -> None:
    pieces = [bytes([number % 251]) * (number % 7) for number in range(1500)]
    with SegmentWriter(tmp_path) as writer:
        record = writer.append(_origin(), *pieces)
    assert _data(writer.path, record) == b"".join(pieces)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_records_that_come_in_pieces_are_whole_and_dropped_ones_leave_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    plan = data.draw(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 3000), max_size=4)), max_size=8))
    kept = []
    with SegmentWriter(tmp_path_factory.mktemp("spool")) as writer:
        for number, (finished, sizes) in enumerate(plan):
            pieces = [bytes([number + 65]) * size for size in sizes]
            writer.begin(_origin(number))
            for piece in pieces:
                writer.write(piece)
                assert len(list(scan(writer.path))) == len(kept), "a record that is not finished was found"
            if finished:
                record = writer.commit(b"end")
                kept.append((record.offset, f"{ROOT}.1.{number}", b"".join(pieces) + b"end"))
            damages: list[Damage] = []
            found = [(r.offset, r.origin.sop_instance_uid, _data(writer.path, r)) for r in scan(writer.path)]
            assert found == kept
            assert list(scan(writer.path, on_damage=damages.append))[len(kept) :] == []
            assert damages == [], "what was dropped looks like a damaged record"
    if kept:
        assert writer.path.stat().st_size == next(reversed(list(scan(writer.path)))).end
    else:
        assert not writer.path.exists()


def test_append_syncs_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("pwritev", "fdatasync", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real: (calls.append(_n), _r(*a))[1])
    with SegmentWriter(tmp_path) as writer:
        assert calls == ["fsync"]  # the folder
        writer.append(_origin(), b"data")
        assert calls[-2:] == ["pwritev", "fdatasync"]
        writer.append(_origin(2), b"data")
        assert calls[-2:] == ["pwritev", "fdatasync"]
        writer.begin(_origin(3))
        writer.write(b"data")
        assert calls[-2:] == ["fdatasync", "pwritev"]
        writer.commit(b"data")
        assert calls[-4:] == ["pwritev", "pwritev", "pwritev", "fdatasync"]  # data, data, header


@pytest.mark.parametrize("failing", ["fdatasync", "posix_fallocate", "pwritev"])
def test_after_a_disk_error_the_segment_takes_no_more_and_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    monkeypatch.setattr(segment_writer, "_PREALLOCATE", 4096)
    with SegmentWriter(tmp_path) as writer:
        writer.append(_origin(1), b"one" * 100)

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(os, failing, fail)
            with pytest.raises(SpoolError) as error:
                writer.append(_origin(2), b"two" * 2000)
        assert error.value.errno == errno.ENOSPC
        with pytest.raises(SpoolError):
            writer.append(_origin(3), b"three")
    uids = [record.origin.sop_instance_uid for record in scan(writer.path)]
    assert uids[0] == f"{ROOT}.1.1"
    assert f"{ROOT}.1.3" not in uids


def test_a_segment_without_a_record_disappears(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path) as writer:
        assert segments(tmp_path) == [writer.path]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 3 * 700), zeros=st.sampled_from([0, 1, 5000]))
def test_whatever_is_cut_off_the_records_before_are_found(
    tmp_path_factory: pytest.TempPathFactory, cut: int, zeros: int
) -> None:
    path, records = _segment(tmp_path_factory.mktemp("spool"), *(bytes([n]) * 100 for n in (1, 2, 3)))
    size = path.stat().st_size
    end = max(0, size - cut)
    os.truncate(path, end)
    os.truncate(path, end + zeros)
    damages: list[Damage] = []
    found = list(scan(path, on_damage=damages.append))
    assert [r.offset for r in found] == [r.offset for r in records if r.end <= end]
    good_end = max([r.end for r in found], default=0)
    torn = any(path.read_bytes()[good_end : good_end + HEADER_LENGTH])
    assert [(d.start, d.last) for d in damages] == ([(good_end, True)] if torn else [])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_never_yields_wrong_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    contents = [bytes([n]) * 150 for n in (1, 2, 3)]
    path, records = _segment(tmp_path_factory.mktemp("spool"), *contents)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    hit = next(index for index, record in enumerate(records) if at < record.end)
    damages: list[Damage] = []
    found = list(scan(path, on_damage=damages.append))
    in_header = at < records[hit].offset
    expected = [0, 1, 2][:hit] if in_header else [n for n in (0, 1, 2) if n != hit]
    assert [(r.offset, _data(path, r)) for r in found] == [(records[n].offset, contents[n]) for n in expected]
    assert [d.start for d in damages] == [records[hit].start]
    assert damages[0].last == (in_header or hit == 2)


def test_a_reader_follows_a_segment_that_grows(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path) as writer, SegmentReader(writer.path) as reader:
        assert reader.record_at(0) is None
        first = writer.append(_origin(1), b"first")
        found = reader.record_at(0)
        assert isinstance(found, Record)
        kept = reader.data_set(found)
        big = writer.append(_origin(2, JPEGLSLossless), os.urandom(40 * 2**20))
        found = reader.record_at(first.end)
        assert isinstance(found, Record)
        assert found.length == big.length
        assert bytes(kept) == b"first"


def test_only_a_finished_segment_can_be_removed(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path) as writer:
        writer.append(_origin(), b"data")
        assert has_writer(writer.path)
        with pytest.raises(SegmentBusyError):
            remove(writer.path)
    assert not has_writer(writer.path)
    remove(writer.path)
    remove(writer.path)
    assert segments(tmp_path) == []
