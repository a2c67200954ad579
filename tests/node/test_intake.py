"""The door: what is Stored is on the disk, everything else is refused with a status and a reason."""

import errno
import os
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from spool_data import ROOT, ct_slice, encode, store

from config import Reason
from node.intake import Intake, Refused, Stored
from node.spool import scan, segments

_SYNTAX = str(ExplicitVRLittleEndian)


def test_each_session_has_a_segment_of_its_own_and_tells_what_is_fresh(tmp_path: Path) -> None:
    fresh: list[str] = []
    intake = Intake(tmp_path / "spool", 0, fresh.append)
    with intake.open("ONE", "FVLM") as one, intake.open("TWO", "FVLM") as two, intake.open("SILENT", "FVLM"):
        store(one, ct_slice(number=1))
        store(two, ct_slice(number=2))
        store(one, ct_slice(number=3))
    found = [[(r.origin.calling_ae, r.origin.sop_instance_uid) for r in scan(p)] for p in segments(tmp_path / "spool")]
    assert sorted(found) == [
        [("ONE", f"{ROOT}.1.1"), ("ONE", f"{ROOT}.1.3")],
        [("TWO", f"{ROOT}.1.2")],
    ]
    assert len(fresh) == 3
    assert set(fresh) == {path.name for path in segments(tmp_path / "spool")}


@pytest.mark.parametrize(
    "uid",
    ["", "../../etc/passwd", "1.2/3", "1." * 40 + "1", "1..2", ".1", "1.2.", "1.2\0.3", "1.2\n", "１.２", "abc", "1 2"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_uid_is_refused(tmp_path: Path, uid: str, place: int) -> None:
    uids = [str(CTImageStorage), "1.2.3", _SYNTAX]
    uids[place] = uid
    with Intake(tmp_path, 0).open("STORESCU", "FVLM") as session:
        answer = session.store(*uids, b"data")
    assert isinstance(answer, Refused)
    assert (answer.status, answer.reason) == (0xC000, Reason.BAD_UID)
    assert len(answer.comment) <= 64
    assert segments(tmp_path) == []


def test_padding_of_a_uid_is_no_part_of_it(tmp_path: Path) -> None:
    with Intake(tmp_path, 0).open("STORESCU", "FVLM") as session:
        answer = session.store(CTImageStorage + " ", "1.2.3\0", _SYNTAX, b"data")
    assert isinstance(answer, Stored)
    assert answer.record.origin.sop_instance_uid == "1.2.3"


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with Intake(tmp_path, 0).open("STORESCU", "FVLM") as session:
        answer = session.store(CTImageStorage, "1.2.3", _SYNTAX, b"")
    assert isinstance(answer, Refused)
    assert (answer.status, answer.reason) == (0xC000, Reason.NOT_DICOM)


def test_below_the_low_water_mark_nothing_is_taken(tmp_path: Path) -> None:
    with Intake(tmp_path, 2**60).open("STORESCU", "FVLM") as session:
        answer = session.store(CTImageStorage, "1.2.3", _SYNTAX, b"data")
    assert isinstance(answer, Refused)
    assert (answer.status, answer.reason) == (0xA700, Reason.DISK_FULL)
    assert segments(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, Reason.DISK_FULL), (errno.EDQUOT, Reason.DISK_FULL), (errno.EIO, Reason.SPOOL_FAILED)],
)
def test_after_a_disk_error_the_next_instance_goes_to_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with Intake(tmp_path, 0).open("STORESCU", "FVLM") as session:
        store(session, ct_slice(number=1))
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", fail)
            answer = session.store(CTImageStorage, f"{ROOT}.1.2", _SYNTAX, encode(ct_slice(number=2)))
        assert isinstance(answer, Refused)
        assert (answer.status, answer.reason) == (0xA700, reason)
        last = store(session, ct_slice(number=3))
    first, second = segments(tmp_path)
    assert next(scan(first)).origin.sop_instance_uid == f"{ROOT}.1.1"
    assert [r.origin.sop_instance_uid for r in scan(second)] == [f"{ROOT}.1.3"]
    assert last.record.segment == second.name


def test_a_folder_that_cannot_be_written_is_a_refusal_not_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = Intake(tmp_path, 0)
    monkeypatch.setattr(intake, "spool_dir", tmp_path / "gone")
    with intake.open("STORESCU", "FVLM") as session:
        answer = session.store(CTImageStorage, "1.2.3", _SYNTAX, b"data")
    assert isinstance(answer, Refused)
    assert (answer.status, answer.reason) == (0xA700, Reason.SPOOL_FAILED)


def test_a_closed_session_takes_nothing(tmp_path: Path) -> None:
    session = Intake(tmp_path, 0).open("STORESCU", "FVLM")
    session.close()
    assert isinstance(session.store(CTImageStorage, "1.2.3", _SYNTAX, b"data"), Refused)
    assert segments(tmp_path) == []


@pytest.mark.parametrize("title", ["", "A" * 17, "A\\B", "A\nB", "Ä"])
def test_what_is_no_ae_title_opens_no_session(tmp_path: Path, title: str) -> None:
    with pytest.raises(ValueError, match="AE title"):
        Intake(tmp_path, 0).open(title, "FVLM")


def test_an_instance_in_pieces_is_stored_whole_and_one_that_is_not_finished_is_no_record(tmp_path: Path) -> None:
    with Intake(tmp_path, 0).open("STORESCU", "FVLM") as session:
        session.begin(CTImageStorage, "1.2.3", _SYNTAX).write(b"x" * 5000)
        incoming = session.begin(CTImageStorage, "1.2.4", _SYNTAX)
        incoming.write(b"one", b"two")
        incoming.write()
        answer = incoming.finish(b"three")
        session.begin(CTImageStorage, "1.2.5", _SYNTAX).write(b"y" * 5000)
    assert isinstance(answer, Stored)
    (record,) = scan(segments(tmp_path)[0])
    assert record == answer.record
    assert record.origin.sop_instance_uid == "1.2.4"
    assert segments(tmp_path)[0].read_bytes()[record.data_set_offset : record.end] == b"onetwothree"


def test_a_disk_that_fills_up_while_an_instance_comes_refuses_it_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Intake(tmp_path, 0).open("STORESCU", "FVLM") as session:
        store(session, ct_slice(number=1))
        incoming = session.begin(CTImageStorage, f"{ROOT}.1.2", _SYNTAX)
        incoming.write(b"x" * 1000)
        monkeypatch.setattr(session.intake, "min_free_bytes", 2**60)
        incoming.write(b"y" * 1000)
        answer = incoming.finish(b"z")
        monkeypatch.setattr(session.intake, "min_free_bytes", 0)
        store(session, ct_slice(number=3))
    assert isinstance(answer, Refused)
    assert (answer.status, answer.reason) == (0xA700, Reason.DISK_FULL)
    (path,) = segments(tmp_path)
    assert [r.origin.sop_instance_uid for r in scan(path)] == [f"{ROOT}.1.1", f"{ROOT}.1.3"]
