"""What an archive (IAN) or a modality (MPPS) announces to the real receiver is fetched from a real Orthanc."""

from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from rich.text import Text
from running import wait_for
from spool_data import receiver, settings_for
from sqlalchemy import select, update
from test_announced import associated, available, change, create, performed
from test_orthanc_follow import QuickOrthanc, a_series, spooled, uids

from config import Reason, Settings
from config.settings import SettingsError, Source
from node.announced import INSTANCE_AVAILABILITY
from node.announced_pull import Puller
from node.archive_table import archive_tables
from node.database import Records, open_database
from node.records import PullWish, now

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


def _wishes(records: Records) -> dict[str, PullWish]:
    with records.reading() as session:
        return {row.study_instance_uid: row for row in session.scalars(select(PullWish))}


def _of_ct(said: Dataset, study: str) -> Dataset:
    said.Modality, item = "CT", Dataset()
    item.StudyInstanceUID = study
    said.ScheduledStepAttributesSequence = [item]
    return said


def test_what_is_announced_is_fetched_once_whoever_dies_meanwhile(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = a_series(), a_series()
    with QuickOrthanc(tmp_path_factory.mktemp("orthanc") / "orthanc") as orthanc:
        sources = {
            "pacs": Source(ae_title=orthanc.ae_title, dicomweb_url=orthanc.dicomweb),
            "ris": Source(ae_title="STORESCU", pull_from="pacs"),
        }
        announcing = {"mpps_from": ("STORESCU",), "ian_from": ("STORESCU",), "receivers": 1}
        settings = settings_for(tmp_path / "node", **announcing).model_copy(update={"sources": sources})
        orthanc.take(*first, *second[:3])
        step, study = generate_uid(), str(second[0].StudyInstanceUID)
        with receiver(settings) as running, associated(running) as teller:
            assert create(teller, available(first), generate_uid(), INSTANCE_AVAILABILITY).Status == 0
            assert create(teller, _of_ct(performed("IN PROGRESS"), study), step).Status == 0
            assert change(teller, performed("COMPLETED", second), step).Status == 0
            running.wait_for("announcement_taken", kind="mpps")
            running.wait_for("announcement_taken", kind="ian")
            records = Records(open_database(settings.database))
            assert len(_wishes(records)) == 2
            assert Puller(records, settings).once()
            assert spooled(settings) == uids(*first)
            assert create(teller, available(first), generate_uid(), INSTANCE_AVAILABILITY).Status == 0
            wait_for(lambda: _wishes(records)[str(first[0].StudyInstanceUID)].ended_at is None, "announced again")
        puller = Puller(records, settings)  # as after a restart
        assert puller.once()
        assert puller.once()
        assert not puller.once(), "the rest of the second study is waited for"
        assert spooled(settings) == uids(*first, *second[:3])
        told = _wishes(records)[study]
        assert (told.reason, told.ended_at) == (Reason.GONE_AT_SOURCE, None)
        assert "2 of the 5" in told.detail
        with records.reading() as session:
            (table,) = archive_tables(session, settings, 9)
        assert list(table.columns[1].cells) == [Text(f"pacs\nstudy {study}")]
        orthanc.take(*second[3:])
        with records.session() as session:
            session.execute(update(PullWish).values(due_at=now()))
        assert puller.once()
        assert not puller.once()
    assert spooled(settings) == uids(*first, *second)
    assert {row.reason for row in _wishes(records).values()} == {None}, "what the node tells itself is no wish"


def test_a_source_without_an_address_cannot_be_pulled_from(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("sources: {ris: {ae_title: RIS, pull_from: ris}}")
    with pytest.raises(SettingsError, match=r"sources\.ris\.pull_from: ris is no name under `sources` with an address"):
        Settings.load(file)
