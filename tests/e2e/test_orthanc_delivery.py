"""Delivery to a real Orthanc: storage commitment answered on an association that it opens, and STOW-RS with QIDO-RS."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import Orthanc, until
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from sqlalchemy import update

sys.path.append(str(Path(__file__).parents[1] / "node"))
from rows import QUICK, add_job, add_results, deliveries, job, open_records, settings_for, small_object

from config import Settings
from config.settings import Destination, WebDestination
from node.commitment_result import take_report
from node.database import Records
from node.delivery import Courier
from node.records import Delivery, now
from node.states import State

pytestmark = pytest.mark.peers


class _OurAe:
    """The node's AE as Orthanc sees it: takes N-EVENT-REPORT and hands it to the function that the node has for it."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.records: Records | None = None
        self.settings = QUICK
        ae = AE(ae_title="FVLM")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self.server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._report)]
        )
        self.port: int = self.server.socket.getsockname()[1]

    def _report(self, event: evt.Event) -> tuple[int, None]:
        assert self.records is not None
        encoded = event.request.EventInformation.getvalue()
        syntax = str(event.context.transfer_syntax)
        self.statuses.append(take_report(self.records, self.settings, event.event_type, encoded, syntax))
        return self.statuses[-1], None


@pytest.fixture
def our_ae() -> Iterator[_OurAe]:
    ae = _OurAe()
    yield ae
    ae.server.shutdown()


@pytest.fixture
def orthanc(tmp_path: Path, our_ae: _OurAe) -> Iterator[Orthanc]:
    peer = Orthanc(tmp_path / "orthanc")
    file = tmp_path / "orthanc" / "orthanc.json"
    known = {"DicomModalities": {"fvlm": ["FVLM", "127.0.0.1", our_ae.port]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | known))
    with peer:
        yield peer


def _encoded_job(settings: Settings) -> tuple[Records, int, int]:
    """Records, an encoded job with results that an archive can index, and one of its deliveries."""
    records = open_records(settings)
    job_id = add_job(records, state=State.ENCODED)
    ids = add_results(records, settings, job_id)
    for path in settings.results_dir.rglob("*.dcm"):
        dataset = small_object("SR" if "sr" in path.name else "SEG", f"2.25.{job_id}{path.name[0]}")
        dataset.PatientID, dataset.StudyInstanceUID = "1", "2.25.3"
        dataset.SeriesInstanceUID = f"2.25.4{path.name[0]}"
        dataset.save_as(path, enforce_file_format=True)
    return records, job_id, ids[0]


def _due_now(records: Records) -> None:
    with records.session() as session:
        session.execute(update(Delivery).values(due_at=now()))


def test_orthanc_commits_and_what_it_has_lost_is_sent_again(tmp_path: Path, orthanc: Orthanc, our_ae: _OurAe) -> None:
    destination = Destination(ae_title=orthanc.ae_title, host="127.0.0.1", port=orthanc.port)
    settings = settings_for(tmp_path / "node", ("pacs", orthanc.port))
    settings = settings.model_copy(update={"destinations": {"pacs": destination}})
    records, job_id, delivery_id = _encoded_job(settings)
    our_ae.records = records
    Courier(records, settings).deliver(delivery_id)
    until(lambda: job(records, job_id).state == State.COMMITTED, 60, "committed", orthanc.log)
    assert our_ae.statuses == [0x0000]
    assert {row.committed_by for row in deliveries(records, "pacs")} == {"N-EVENT-REPORT"}

    patient = QUICK.model_copy(update={"retry_first_s": 1000.0, "retry_max_s": 1000.0})
    second = settings.model_copy(update={"data_dir": tmp_path / "second", "delivery": patient})
    records, job_id, delivery_id = _encoded_job(second)
    our_ae.records, our_ae.settings = records, patient
    with records.session() as session:  # as if everything was stored, and Orthanc lost it since
        session.execute(update(Delivery).values(sent_at=now(), asked=True, ask_at=now(), destination="pacs"))
    _delete_all(orthanc)
    Courier(records, second).deliver(delivery_id)
    until(lambda: all(row.lost == 1 for row in deliveries(records, "pacs")), 60, "told as lost", orthanc.log)
    assert "0x0112" in deliveries(records, "pacs")[0].detail
    _due_now(records)
    Courier(records, second).deliver(delivery_id)
    until(lambda: job(records, job_id).state == State.COMMITTED, 60, "committed", orthanc.log)


def test_stow_rs_to_orthanc_is_committed_when_it_lists_the_objects(tmp_path: Path, orthanc: Orthanc) -> None:
    settings = settings_for(tmp_path / "node", ("web", 1))
    web = {"web": WebDestination(stow_url=orthanc.dicomweb)}
    settings = settings.model_copy(update={"destinations": web})
    records, job_id, delivery_id = _encoded_job(settings)
    Courier(records, settings).deliver(delivery_id)
    ended = job(records, job_id)
    assert (ended.state, ended.detail) == (State.COMMITTED, "known by QIDO-RS")
    assert len(_get(orthanc, "instances")) == 2


def _get(orthanc: Orthanc, path: str) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{orthanc.http_port}/{path}", timeout=10) as answer:
        found: list[str] = json.load(answer)
    return found


def _delete_all(orthanc: Orthanc) -> None:
    for patient in _get(orthanc, "patients"):
        url = f"http://127.0.0.1:{orthanc.http_port}/patients/{patient}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
