"""Rows and files that tests of the node's work need: series, jobs, result objects, settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage
from sqlalchemy import select

from config import Priority, Settings
from config.settings import DeliverySettings, Destination, RoutingSettings
from node.archive_scp import Archive
from node.database import Records, open_database
from node.migrations import upgrade
from node.records import Delivery, Job, Result, Series, now
from node.result_files import write_objects
from node.states import State

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
DIGEST = "d" * 64
QUICK = DeliverySettings(retry_first_s=0.05, retry_max_s=0.2, timeout_s=5.0)


def open_records(settings: Settings) -> Records:
    """The node's database with all tables."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_database(settings.database)
    upgrade(engine)
    return Records(engine)


def settings_for(data_dir: Path, *destinations: tuple[str, int], **more: object) -> Settings:
    """Settings with destinations (name, port), all on loopback and called by their name in capitals."""
    peers = {
        name: Destination(ae_title=name.upper(), host="127.0.0.1", port=port, commitment=False)
        for name, port in destinations
    }
    routing = RoutingSettings(destinations=tuple(peers))
    return Settings(**{"data_dir": data_dir, "destinations": peers, "routing": routing, "delivery": QUICK, **more})


def add_job(
    records: Records,
    uid: str = "2.25.1",
    state: State = State.QUEUED,
    digest: str = DIGEST,
    generation: int = 1,
    priority: Priority = Priority.ROUTINE,
) -> int:
    """A vetted series with a job; the job's id."""
    with records.session() as session:
        series = Series(
            series_instance_uid=uid,
            generation=generation,
            study_instance_uid="2.25.9",
            modality="CT",
            source_ae="SCANNER",
            state=State.VETTED,
            first_at=now(),
            last_at=now(),
        )
        job = Job(series=series, release_digest=digest, state=state, priority=int(priority))
        session.add(job)
        session.flush()
        return job.id


def small_object(modality: str, uid: str) -> Dataset:
    """An instance that is just large enough to be stored somewhere."""
    dataset = Dataset()
    dataset.SOPClassUID = {"SEG": SegmentationStorage, "SR": COMPREHENSIVE_3D_SR, "CT": CTImageStorage}[modality]
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = uid, f"{uid}0"
    dataset.Modality = modality
    dataset.PatientName = "Planted^Patient"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    return dataset


def add_results(records: Records, settings: Settings, job_id: int) -> list[int]:
    """SR and SEG (in this order) of an encoded job, due at every destination; ids of the deliveries."""
    objects = [small_object("SR", f"2.25.{job_id}1"), small_object("SEG", f"2.25.{job_id}2")]
    files = write_objects(settings.results_dir, job_id, objects)
    with records.session() as session:
        for dataset, file in zip(objects, files, strict=True):
            result = Result(
                job_id=job_id,
                kind=dataset.Modality,
                sop_instance_uid=dataset.SOPInstanceUID,
                sop_class_uid=dataset.SOPClassUID,
                series_instance_uid=dataset.SeriesInstanceUID,
                path=file.relative_to(settings.results_dir).as_posix(),
            )
            result.deliveries = [Delivery(destination=name) for name in settings.routing.destinations]
            session.add(result)
        session.flush()
        return list(session.scalars(select(Delivery.id).join(Result).where(Result.job_id == job_id)))


def deliveries(records: Records, destination: str) -> list[Delivery]:
    """All deliveries to a destination, by id."""
    with records.session() as session:
        return list(session.scalars(select(Delivery).where(Delivery.destination == destination).order_by(Delivery.id)))


def job(records: Records, job_id: int) -> Job:
    """A job as it is in the database now."""
    with records.session() as session:
        return session.get_one(Job, job_id)


@contextmanager
def archive(folder: Path, ae_title: str, port: int = 0) -> Iterator[Archive]:
    """A running archive that is called `ae_title`."""
    with Archive(folder, ae_title, port=port) as running:
        yield running
