"""One job from its lease to the outbox: images out of the spool, through the pipeline, results on disk and in SQL.

The result files are on disk before the one transaction that says so; a worker that dies before it leaves a job whose
lease expires, and the next attempt writes the same objects again (their UIDs are derived, not drawn).
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, joinedload
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from config import Output, Reason, Settings
from config.outputs import AIR
from dicom_sr.outputs import output_of
from node import embeddings, leases, outbox, reported, work_queue
from node.analysis import Analysis, PipelineError, Wanted
from node.attempts import attempt_failed
from node.bell import bell_file, ring
from node.completion import images_at, series_slices
from node.database import Records
from node.leases import Heartbeat, LeaseLostError
from node.messages import rows as messages
from node.predecessors import predecessor_of
from node.priors import prior_of
from node.records import Delivery, Job, Result
from node.releases import binding, registry
from node.releases.loaded import Load, LoadedReleases
from node.result_files import write_objects
from node.rules import later
from node.states import State
from node.watchdog import time_limit

if TYPE_CHECKING:
    from node.pipeline import Pipeline  # torch

_log = structlog.get_logger(__name__)


class WorkerUnfitError(RuntimeError):
    """The GPU's error stays with the process (CUDA contexts do not recover): the worker has to be started anew."""


class Analyst:
    """Works on jobs with one loaded pipeline. `worker` is stable over restarts of the same worker."""

    def __init__(
        self,
        records: Records,
        settings: Settings,
        pipeline: "Pipeline",
        worker: str,
        load: "Load | None" = None,
        path: str = "",
    ) -> None:
        """`pipeline` is that of the release at `path`; `load` makes others. None: `pipeline` is all there is."""
        self._records, self._settings, self._worker = records, settings, worker
        self._releases = LoadedReleases(records, settings.model.release, pipeline, path, load)
        self._turn = 0

    def recover(self) -> None:
        """Give up the leases of a former life of this worker: it is dead, since this one runs."""
        with self._records.session() as session:
            held = leases.expire_of(session, self._worker)
        if held:
            _log.warning("leases_of_a_dead_worker", worker=self._worker, jobs=held)

    def analyze(self, job_id: int | None = None) -> list[int]:
        """Work on the most urgent queued job, or on `job_id` if it is queued; the deliveries that are due now.

        There are none if no job was taken, or if it failed. Raises WorkerUnfitError after the job is given back, and
        sqlalchemy.exc.DBAPIError. A job that takes longer than `settings.work.time_limit_s` ends the process.
        """
        self._releases.drop_idle()
        owner = f"{self._worker}/{secrets.token_hex(4)}"
        job = self._take(job_id, owner)
        if job is None:
            return []
        log = _log.bind(job=job.id, series=job.series_id, attempt=job.attempts, frugal=job.frugal)
        try:
            return self._attempt(job, owner, log)
        except PipelineError as error:
            self._failed(job.id, owner, error)
            log.error("job_failed", reason=error.reason, detail=error.detail)
            if error.reason is Reason.DEVICE_ERROR:
                raise WorkerUnfitError(error.detail) from error
        except LeaseLostError:
            log.warning("lease_lost")
        except later.SkippedError:
            log.info("job_skipped", reason=Reason.SKIPPED_BY_RULE)
        except DBAPIError:
            raise  # the database is away: the lease expires and the job is issued again
        except MemoryError:
            self._failed(job.id, owner, PipelineError(Reason.OUT_OF_MEMORY, "while the results were written"))
            log.error("job_failed", reason=Reason.OUT_OF_MEMORY)
        except Exception as error:  # whatever else goes wrong is a failed attempt of this job
            # Further up, Celery would log the exception's text, which may quote a header; here only type and place are.
            log.exception("unexpected_error")
            self._failed(job.id, owner, PipelineError(Reason.INTERNAL, f"unexpected {type(error).__name__}"))
        return []

    def _attempt(self, job: Job, owner: str, log: "structlog.typing.FilteringBoundLogger") -> list[int]:
        """Everything between the lease and its end: results on disk and in SQL. Raises whatever goes wrong."""
        lease_s, limit_s = self._settings.work.lease_s, self._settings.work.time_limit_s

        def overdue() -> None:
            log.error("time_limit", seconds=limit_s)
            self._failed(job.id, owner, PipelineError(Reason.TIME_LIMIT, f"took longer than {limit_s:g} s"))

        with Heartbeat(self._records, job.id, owner, lease_s).beating() as heartbeat, time_limit(limit_s, overdue):
            pipeline = self._releases.of_job(job)
            with self._records.session() as session:
                if not binding.adopt(session, leases.claim(session, job.id, owner, lease_s), pipeline.release_digest):
                    return []
                slices = series_slices(session, job.series, self._settings.spool_dir)
                came = images_at(session, job.series)
                former = predecessor_of(session, job)
            log.info("job_started", slices=len(slices), priority=job.priority)
            vetted = pipeline.vet(slices)
            study = pipeline.whose(vetted)
            with self._records.session() as session:
                claimed = leases.claim(session, job.id, owner, self._settings.work.lease_s)
                compared = prior_of(session, claimed, study)

            def ask(anatomies: Sequence[str]) -> Wanted:
                orders = later.decide(self._records, self._settings, job.id, owner, anatomies)
                return Wanted(self._settings.plan_for(self._names(orders.destinations), orders.profile), orders.preset)

            analysis = pipeline.run(vetted, came, lambda _: heartbeat.check(), former, compared, ask)
            heartbeat.beat()
            files = self._write(job.id, analysis)
        for attempt in self._database_retries():
            with attempt, self._records.session() as session:
                due = self._encoded(session, job.id, owner, analysis, files)
        ring(bell_file(self._settings.spool_dir))  # what is to be said of it is due now
        log.info("job_encoded", objects=len(files), deliveries=len(due), seconds=analysis.seconds)
        return due

    def _take(self, job_id: int | None, owner: str) -> Job | None:
        """A job of ours from now on, with its series; None if there is none to be had."""
        work = self._settings.work
        with self._records.session() as session:
            registry.hold(session)
            if job_id is None:
                due = work_queue.research_due(self._turn + 1, work.research_wait_h)
                job_id = session.scalar(work_queue.most_urgent(1, due).with_for_update(skip_locked=True))
            if job_id is None or not leases.take(session, job_id, owner, work.lease_s):
                return None
            self._turn += 1
            return session.get_one(Job, job_id, options=[joinedload(Job.series)])

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
            uid, kind = str(dataset.SOPInstanceUID), output_of(dataset)
            result = former.pop(uid, None)
            if result is None:
                result = Result(job_id=job_id, kind=kind, sop_instance_uid=uid, path="")
                session.add(result)
            result.sop_class_uid = str(dataset.SOPClassUID)
            result.series_instance_uid = str(dataset.SeriesInstanceUID)
            result.removed_at = None
            result.path = file.relative_to(self._settings.results_dir).as_posix()
            due += _open_deliveries(result, self._receivers(job, kind))
        for result in former.values():
            for delivery in result.deliveries:
                session.delete(delivery)
            session.delete(result)
        embeddings.store(session, job, analysis.reading)
        reported.store(session, job, analysis.reading)
        messages.store(session, job, analysis.reading, analysis.objects, self._settings)
        job.seconds = {stage: round(seconds, 3) for stage, seconds in analysis.seconds.items()}
        leases.release(job)
        job.move(State.ENCODED)
        session.flush()
        outbox.settle(session, job_id)
        return [delivery.id for delivery in due]

    def _names(self, own: Sequence[str] | None) -> Sequence[str]:
        """Names of a job's destinations: its own, or for one from before it had any those of the settings."""
        return self._settings.routing.destinations if own is None else own

    def _receivers(self, job: Job, kind: Output) -> list[str]:
        """Names of the destinations that get objects of a kind. One that has left the settings stays a receiver: the
        delivery then says so."""
        peers = self._settings.destinations
        gets = {
            name: peers[name].outputs_as(job.profile) if name in peers else AIR
            for name in self._names(job.destinations)
        }
        return [name for name, kinds in gets.items() if kind in kinds]

    def _failed(self, job_id: int, owner: str, error: PipelineError) -> None:
        for attempt in self._database_retries():
            with attempt, self._records.session() as session:
                try:
                    job = leases.claim(session, job_id, owner, self._settings.work.lease_s)
                except LeaseLostError:
                    return
                leases.release(job)
                attempt_failed(job, self._settings.work.max_attempts, error.reason, error.detail)


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
