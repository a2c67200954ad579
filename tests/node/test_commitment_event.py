"""Reports on storage commitment that come on an association of their own: kept before they are answered."""

from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dsutils import encode
from rows import add_job, open_records, settings_for
from sqlalchemy import create_engine

from node import dimse
from node.commitment import COMMITMENT_FOLDER, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
from node.commitment_event import LONGEST_REPORT, Event, EventFiles, parse_report
from node.commitment_result import take_kept
from node.database import Records
from node.dimse import Command
from node.records import CommitmentTransaction
from node.states import State


def _report(transaction: str = "2.25.77", kept: tuple[str, ...] = ("2.25.1",), lost: tuple[str, ...] = ()) -> bytes:
    answer = Dataset()
    answer.TransactionUID = transaction
    for name, uids in (("ReferencedSOPSequence", kept), ("FailedSOPSequence", lost)):
        items = []
        for uid in uids:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", uid
            if name == "FailedSOPSequence":
                item.FailureReason = 0x0112
            items.append(item)
        if items:
            setattr(answer, name, items)
    encoded = encode(answer, False, True)
    assert encoded is not None
    return encoded


def _take(spool: Path, data_set: bytes, event_type: int = 1, instance: str = WELL_KNOWN_INSTANCE, free: int = 0) -> int:
    command = Command(
        dimse.N_EVENT_REPORT_RQ, 1, STORAGE_COMMITMENT.encode(), instance.encode(), True, type_id=event_type
    )
    event = Event(command, ExplicitVRLittleEndian)
    for at in range(0, len(data_set), 1000):
        event.write(data_set[at : at + 1000])
    return event.finish(spool, free, "PACS")[0]


def test_what_a_report_says() -> None:
    verdict = parse_report(_report(kept=("2.25.1", "2.25.2"), lost=("2.25.3",)), ExplicitVRLittleEndian)
    assert (verdict.transaction_uid, verdict.kept, verdict.failed) == ("2.25.77", ("2.25.1", "2.25.2"), {"2.25.3": 274})


@pytest.mark.parametrize(
    ("data_set", "event_type", "instance", "status"),
    [
        (_report(), 3, WELL_KNOWN_INSTANCE, dimse.NO_SUCH_EVENT_TYPE),
        (_report(), 1, "1.2.3", dimse.NO_SUCH_INSTANCE),
        (b"", 1, WELL_KNOWN_INSTANCE, dimse.INVALID_ARGUMENT),
        (b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff", 1, WELL_KNOWN_INSTANCE, dimse.INVALID_ARGUMENT),
        (_report("../etc"), 1, WELL_KNOWN_INSTANCE, dimse.INVALID_ARGUMENT),
        (_report() + b"\xfe\xff\x00\xe0\0\0\0\0" * 50_000, 1, WELL_KNOWN_INSTANCE, dimse.INVALID_ARGUMENT),
        (b"\0" * (LONGEST_REPORT + 1), 1, WELL_KNOWN_INSTANCE, dimse.RESOURCE_LIMITATION),
    ],
)
def test_what_is_no_report_is_refused_and_not_kept(
    tmp_path: Path, data_set: bytes, event_type: int, instance: str, status: int
) -> None:
    assert _take(tmp_path, data_set, event_type, instance) == status
    assert EventFiles(tmp_path).waiting() == []


def test_below_the_low_water_mark_it_is_refused(tmp_path: Path) -> None:
    assert _take(tmp_path, _report(), free=2**62) == dimse.RESOURCE_LIMITATION
    assert EventFiles(tmp_path).waiting() == []


def test_it_waits_for_the_database_and_is_taken_in_once(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    settings.spool_dir.mkdir(parents=True, exist_ok=True)
    assert _take(settings.spool_dir, _report()) == dimse.SUCCESS
    away = Records(create_engine(f"sqlite:///{tmp_path}/nowhere/node.sqlite"))
    take_kept(away, settings)
    assert len(EventFiles(settings.spool_dir).waiting()) == 1
    records = open_records(settings)
    job_id = add_job(records, state=State.SENT)
    with records.session() as session:
        session.add(CommitmentTransaction(transaction_uid="2.25.77", job_id=job_id, destination="pacs"))
    take_kept(records, settings)
    assert EventFiles(settings.spool_dir).waiting() == []
    with records.reading() as session:
        assert session.get_one(CommitmentTransaction, "2.25.77").answered_at is not None


def test_a_damaged_file_is_put_aside_and_holds_up_nothing(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    settings.spool_dir.mkdir(parents=True, exist_ok=True)
    assert _take(settings.spool_dir, _report()) == dimse.SUCCESS
    (settings.spool_dir / COMMITMENT_FOLDER / "0.event").write_bytes(b'{"event_type": 1}')
    take_kept(open_records(settings), settings)
    assert EventFiles(settings.spool_dir).waiting() == []
    assert [path.name for path in (settings.spool_dir / COMMITMENT_FOLDER).iterdir()] == ["0.damaged"]
