"""One job from its lease to the outbox: images out of the spool, through the pipeline, results on disk and in SQL.

The result files are on disk before the one transaction that says so; a worker that dies before it leaves a job whose
lease expires, and the next attempt writes the same objects again (their UIDs are derived, not drawn).
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from config import Reason, Settings
from node import embeddings, leases, outbox
from node.analysis import Analysis, PipelineError
from node.completion import images_at, series_slices
from node.leases import Heartbeat, LeaseLostError
from node.records import Delivery, Job, Records, Result, State
from node.result_files import write_objects

if TYPE_CHECKING:
    from node.pipeline import Pipeline  # torch

_log = structlog.get_logger(__name__)

TRANSIENT = frozenset({Reason.MODEL_UNAVAILABLE, Reason.OUT_OF_MEMORY, Reason.INTERNAL})
"""Reasons that another attempt may mend; every other ends the job at once."""


class Analyst:
    """Works on jobs with one loaded pipeline. `worker` is stable over restarts of the same worker."""

    def __init__(self, records: Records, settings: Settings, pipeline: "Pipeline", worker: str) -> None:
        self._records, self._settings, self._pipeline, self._worker = records, settings, pipeline, worker

    def recover(self) -> None:
        """Give up the leases of a former life of this worker: it is dead, since this one runs."""
        with self._records.session() as session:
            held = leases.expire_of(session, self._worker)
        if held:
            _log.warning("leases_of_a_dead_worker", worker=self._worker, jobs=held)

    def analyze(self, job_id: int) -> list[int]:
        """Work on a job if it is queued; the deliveries that are due now (none if it is not, or failed)."""
        owner = f"{self._worker}/{secrets.token_hex(4)}"
        lease_s = self._settings.work.lease_s
        with self._records.session() as session:
            if not leases.take(session, job_id, owner, lease_s) or not self._adopt(session, job_id):
                return []
            job = session.get_one(Job, job_id)
            slices = series_slices(session, job.series, self._settings.spool_dir)
            came = images_at(session, job.series)
        log = _log.bind(job=job_id, series=job.series_id, attempt=job.attempts)
        log.info("job_started", slices=len(slices))
        try:
            with Heartbeat(self._records, job_id, owner, lease_s).beating() as heartbeat:
                analysis = self._pipeline.run(self._pipeline.vet(slices), came, lambda _: heartbeat.check())
                files = self._write(job_id, analysis)
            for attempt in self._database_retries():
                with attempt, self._records.session() as session:
                    due = self._encoded(session, job_id, owner, analysis, files)
        except PipelineError as error:
            self._failed(job_id, owner, error)
            log.error("job_failed", reason=error.reason, detail=error.detail)
            return []
        except LeaseLostError:
            log.warning("lease_lost")
            return []
        except DBAPIError:
            raise  # the database is away: the lease expires and the job is issued again
        except Exception as error:  # whatever else goes wrong is a failed attempt of this job
            # Further up, Celery would log the exception's text, which may quote a header; here only type and place are.
            log.exception("unexpected_error")
            self._failed(job_id, owner, PipelineError(Reason.INTERNAL, f"unexpected {type(error).__name__}"))
            return []
        log.info("job_encoded", objects=len(files), deliveries=len(due), seconds=analysis.seconds)
        return due

    def _adopt(self, session: Session, job_id: int) -> bool:
        """The job is read with the release that is loaded; False if that reading exists already (superseded)."""
        job = session.get_one(Job, job_id, populate_existing=True)
        digest = self._pipeline.release_digest
        if job.release_digest == digest:
            return True
        done = select(Job.id).where(Job.series_id == job.series_id, Job.release_digest == digest)
        if session.scalar(done) is not None:
            leases.release(job)
            job.move(State.SUPERSEDED, detail="the release that is loaded has read this series already")
            return False
        job.release_digest = digest
        return True

    def _write(self, job_id: int, analysis: Analysis) -> list[Path]:
        try:
            return write_objects(self._settings.results_dir, job_id, analysis.objects)
        except OSError as error:
            raise PipelineError(Reason.INTERNAL, f"the results folder cannot be written: {error.strerror}") from error

    def _database_retries(self) -> Retrying:
        """Keep a finished analysis over a short absence of the database."""
        return Retrying(
            retry=retry_if_exception_type(DBAPIError),
            stop=stop_after_delay(self._settings.work.lease_s),
            wait=wait_exponential_jitter(0.2, 10.0),
            reraise=True,
        )

    def _encoded(self, session: Session, job_id: int, owner: str, analysis: Analysis, files: list[Path]) -> list[int]:
        """Results, features, outbox and ENCODED in one transaction. Raises LeaseLostError before it writes anything."""
        job = leases.claim(session, job_id, owner, self._settings.work.lease_s)
        former = {result.sop_instance_uid: result for result in job.results}
        due: list[Delivery] = []
        for dataset, file in zip(analysis.objects, files, strict=True):
            uid = str(dataset.SOPInstanceUID)
            result = former.pop(uid, None)
            if result is None:
                result = Result(job_id=job_id, kind=str(dataset.Modality), sop_instance_uid=uid, path="")
                session.add(result)
            result.sop_class_uid = str(dataset.SOPClassUID)
            result.removed_at = None
            result.path = file.relative_to(self._settings.results_dir).as_posix()
            due += _open_deliveries(result, self._settings.routing.destinations)
        for result in former.values():
            for delivery in result.deliveries:
                session.delete(delivery)
            session.delete(result)
        embeddings.store(session, job, analysis.reading)
        job.seconds = {stage: round(seconds, 3) for stage, seconds in analysis.seconds.items()}
        leases.release(job)
        job.move(State.ENCODED)
        session.flush()
        outbox.settle(session, job_id)
        return [delivery.id for delivery in due]

    def _failed(self, job_id: int, owner: str, error: PipelineError) -> None:
        for attempt in self._database_retries():
            with attempt, self._records.session() as session:
                try:
                    job = leases.claim(session, job_id, owner, self._settings.work.lease_s)
                except LeaseLostError:
                    return
                leases.release(job)
                if error.reason in TRANSIENT:
                    leases.back_to_queue(job, self._settings.work.max_attempts, error.detail, error.reason)
                else:
                    job.move(State.FAILED, error.reason, error.detail[:1000])


def _open_deliveries(result: Result, destinations: Sequence[str]) -> list[Delivery]:
    """The deliveries of a result that are still to be made; refused ones are opened again."""
    found = {delivery.destination: delivery for delivery in result.deliveries}
    opened = []
    for name in destinations:
        delivery = found.get(name)
        if delivery is None:
            delivery = Delivery(destination=name)
            result.deliveries.append(delivery)
        elif delivery.sent_at is not None:
            continue
        delivery.refused, delivery.reason, delivery.detail = False, None, ""
        opened.append(delivery)
    return opened
