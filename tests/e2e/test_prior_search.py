"""The earlier reading comes out of a real Orthanc: our own report of an older study, and no other's.

The node's database knows nothing: it was lost, or another node read the older study.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID
from rows import DIGEST, add_job, add_results
from running import wait_for
from spool_data import Bench, ct_slice, receiver
from sr_synthetic import MODEL, anatomy_map, ct_headers, reading, volume
from structlog.testing import capture_logs
from test_dicomweb import with_source
from test_orthanc_follow import QuickOrthanc
from test_priors import Listening

import dicom_sr
from config import Output, Plan, Reason, load_vocabulary
from config.prior_settings import PriorSettings
from config.settings import RoutingSettings
from dicom_sr.identity import READS
from dicom_sr.prior import Prior, comparison
from node.children import free_port
from node.completion import complete_due
from node.jobs import Analyst
from node.prior_search.seeker import PriorSeeker
from node.priors import held_until
from node.records import Breaker, Job, ReportedFinding, now
from node.routing import route
from node.states import State
from node.whose import Whose, whose
from node.work_queue import most_urgent

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

ANNA = {"PatientID": "A-1", "IssuerOfPatientID": "HOSP", "PatientBirthDate": "19500220", "PatientSex": "F"}
OLDER = {"StudyDate": "20251103", "StudyTime": "101500"}
_RIGHT = "2.25.400"
_NAME = "Same^Name"
_PLAN = Plan(frozenset({Output.SR, Output.SEG}))


def _report(number: int, digest: str = DIGEST, **changes: Any) -> Dataset:
    """A report as the node writes it, of a study of its own."""
    report = deepcopy(_written())
    for keyword, value in {**ANNA, **OLDER, **changes}.items():
        setattr(report, keyword, value)
    report.PatientName = _NAME
    report.StudyInstanceUID, report.SeriesInstanceUID = f"2.25.{number}1", f"2.25.{number}2"
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{number}")
    for item in report.ContributingEquipmentSequence:
        if str(item.get("ContributionDescription", "")).startswith(READS):
            item.DeviceSerialNumber = digest
    return report


_made: list[Dataset] = []


def _written() -> Dataset:
    if not _made:
        by = replace(reading(), model=replace(MODEL, digest=DIGEST))
        _made.extend(dicom_sr.write(by, anatomy_map(), ct_headers(), dicom_sr.WriteContext(), _PLAN, volume()))
    return next(one for one in _made if one.Modality == "SR")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickOrthanc]:
    folder = tmp_path_factory.mktemp("orthanc") / "orthanc"
    with QuickOrthanc(folder, knows={"FVLM": ("127.0.0.1", free_port())}) as server:
        radiologist = _report(407, StudyDate="20260110")
        radiologist.Manufacturer = "Somebody else"
        server.take(
            _report(400),
            _report(401, StudyDate="20240101"),
            _report(402, StudyDate="20260105", PatientBirthDate="19510101"),
            _report(403, StudyDate="20260106", IssuerOfPatientID="ELSEWHERE"),
            _report(404, StudyDate="20260107", digest="f" * 64),
            _report(405, StudyDate="20260107", PatientID="A-2"),
            _report(406, StudyDate="20260401"),
            radiologist,
        )
        yield server


class _Node:
    """A node with one new study, and an archive to ask."""

    def __init__(self, folder: Path, orthanc: QuickOrthanc, how: str, patient: dict[str, str], **asked: Any) -> None:
        self.bench = Bench(folder)
        self.orthanc, self.how = orthanc, how
        priors = PriorSettings(source="pacs", wait_s=asked.pop("wait_s", 60.0), **asked)
        self.settings = with_source(self.bench, orthanc, how).model_copy(
            update={
                "priors": priors,
                "routing": RoutingSettings(min_slices=3),
                "dicom": self.bench.settings.dicom.model_copy(
                    update={"port": orthanc.knows["FVLM"][1], "accept_from": (orthanc.ae_title,), "receivers": 1}
                ),
            }
        )
        slices = [ct_slice(number=number) for number in range(1, 6)]
        for image in slices:
            for keyword, value in patient.items():
                setattr(image, keyword, value)
            image.StudyDate, image.StudyTime, image.PatientName = "20260301", "081500", _NAME
        self.whose = whose(slices[0], self.settings.data_dir)
        self.bench.receive(*slices)

    def listening(self) -> AbstractContextManager[Any]:
        """C-MOVE needs somebody who takes what the archive sends."""
        return receiver(self.settings) if self.how == "c-move" else nullcontext()

    def job(self) -> int:
        """The job of the study, which waits for the archive."""
        complete_due(self.bench.records, self.settings, now() + timedelta(minutes=1))
        (job_id,) = route(self.bench.records, DIGEST, held_until=held_until(self.settings))
        return job_id

    def sought(self, job_id: int) -> Job:
        """The job when the archive has been asked."""
        seeker = PriorSeeker(self.bench.records, self.settings, "pacs")
        seeker.once()
        wait_for(lambda: self._row(job_id).held_until is None, "the archive was asked")
        seeker.stop()
        return self._row(job_id)

    def _row(self, job_id: int) -> Job:
        with self.bench.records.reading() as session:
            return session.get_one(Job, job_id)

    def read(self, job_id: int) -> Prior | None:
        """What the pipeline is told to compare with."""
        pipeline = Listening(self.settings)
        assert isinstance(self.whose, Whose)
        (pipeline.control / "whose").write_text(f"{self.whose.patient} {self.whose.studied_at}")
        Analyst(self.bench.records, self.settings, pipeline, "w").analyze(job_id)  # type: ignore[arg-type]
        return pipeline.prior


@pytest.mark.parametrize("how", ["wado-rs", "c-get", "c-move"])
def test_the_change_since_a_report_that_only_the_archive_has(tmp_path: Path, orthanc: QuickOrthanc, how: str) -> None:
    node = _Node(tmp_path / "node", orthanc, how, ANNA)
    job_id = node.job()
    with node.bench.records.reading() as session:
        assert session.scalars(most_urgent(10)).all() == [], "no worker takes it before the archive was asked"
    with node.listening():
        node.sought(job_id)
    with node.bench.records.reading() as session:
        assert session.scalars(most_urgent(10)).all() == [job_id]
    prior = node.read(job_id)
    assert prior is not None
    assert prior.report_uid == _RIGHT, "of the newest older study that has one of the same patient and release"
    assert prior.studied_on.isoformat() == "2025-11-03"
    assert prior.findings["lung.nodule"].probability == pytest.approx(0.913)
    if how == "wado-rs":
        with node.bench.records.session() as session:  # whatever happens afterwards, a repeat compares with the same
            session.get_one(Job, job_id).move(State.FAILED)
            session.get_one(Job, job_id).move(State.QUEUED)
        assert node.read(job_id) == prior
        lines = comparison(reading(), prior, load_vocabulary())
        assert lines[0].startswith("Compared with the AI reading of 2025-11-03 by the same release")
        assert lines[-1] == "Unchanged: 6 of 6 compared findings."


def test_another_patient_of_the_same_name_is_compared_with_nobody(tmp_path: Path, orthanc: QuickOrthanc) -> None:
    other = _Node(tmp_path / "node", orthanc, "c-get", {**ANNA, "PatientID": "A-3"})
    job_id = other.job()
    assert other.sought(job_id).archived_prior is None
    assert other.read(job_id) is None


def test_an_archive_that_is_away_is_not_waited_for(tmp_path: Path, orthanc: QuickOrthanc) -> None:
    node = _Node(tmp_path / "node", orthanc, "wado-rs", ANNA)
    away = node.settings.sources["pacs"].model_copy(update={"dicomweb_url": f"http://127.0.0.1:{free_port()}/x"})
    node.settings = node.settings.model_copy(update={"sources": {"pacs": away}})
    job_id = node.job()
    with capture_logs() as logs:
        node.sought(job_id)
    (told,) = [line for line in logs if line["event"] == "prior_not_sought"]
    assert (told["reason"], told["job"]) == (Reason.PEER_UNREACHABLE, job_id)
    with node.bench.records.reading() as session:
        assert session.get_one(Breaker, "priors from pacs").failures == 1
    assert node.read(job_id) is None


def test_who_is_never_asked_does_not_hold_a_job_up_for_longer_than_it_may(
    tmp_path: Path, orthanc: QuickOrthanc
) -> None:
    node = _Node(tmp_path / "node", orthanc, "wado-rs", ANNA, wait_s=0.01)
    job_id = node.job()

    def free() -> bool:
        with node.bench.records.reading() as session:
            return session.scalars(most_urgent(10)).all() == [job_id]

    wait_for(free, "its time has come, though nobody looked")


@pytest.mark.parametrize("always", [False, True])
def test_own_records_come_first_unless_the_archive_is_always_asked(
    tmp_path: Path, orthanc: QuickOrthanc, always: bool
) -> None:
    node = _Node(tmp_path / "node", orthanc, "wado-rs", ANNA, always=always)
    former = add_job(node.bench.records, "2.25.9.1", State.SENT)
    add_results(node.bench.records, node.settings, former)
    with node.bench.records.session() as session:
        job = session.get_one(Job, former)
        assert node.whose is not None
        job.patient, job.studied_at = node.whose.patient, "20250101080000"
        session.add(
            ReportedFinding(
                job_id=former, finding="lung.nodule", tracking_uid="2.25.5", probability=0.2, verdict="absent"
            )
        )
    job_id = node.job()
    node.sought(job_id)
    prior = node.read(job_id)
    assert prior is not None
    assert prior.report_uid == (_RIGHT if always else f"2.25.{former}1"), "the newer study counts"
