"""The process that reads in shadow: on the CPU, at the lowest priority, the first that the kernel ends for memory."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, joinedload

from config import Reason, Settings
from node.analysis import PipelineError
from node.completion import series_slices
from node.database import Records, open_database
from node.records import Job
from node.releases import registry, shadow_queue
from node.releases.rows import ShadowReading
from node.retention import missing_images
from node.tasks import SHADOW, make_app, run_worker
from node.watchdog import time_limit

if TYPE_CHECKING:
    from ct.volume import SourceSlice
    from fvlm.reading import Reading
    from node.pipeline import Pipeline  # torch

_log = structlog.get_logger(__name__)


class ShadowReader:
    """Reads one series after another with the release in shadow. Writes no object and sends nothing."""

    def __init__(self, records: Records, settings: Settings, load: "Callable[[Settings], Pipeline]") -> None:
        self._records, self._settings, self._load = records, settings, load
        self._pipeline: Pipeline | None = None

    def recover(self) -> None:
        """What a former life of this process was reading waits again."""
        with self._records.session() as session:
            lost = shadow_queue.give_back(session)
        if lost:
            _log.warning("shadow_readings_of_a_dead_process", count=lost)

    def read(self, reading_id: int) -> None:
        """Do one reading if it still waits. A failure is noted and logged. Raises sqlalchemy.exc.DBAPIError."""
        with self._records.session() as session:
            row = shadow_queue.take(session, reading_id)
        if row is None:
            return
        log = _log.bind(job=row.job_id, digest=row.release_digest)
        limit_s = self._settings.work.time_limit_s
        try:
            with time_limit(limit_s, lambda: self._fail(row, Reason.TIME_LIMIT, f"took longer than {limit_s:g} s")):
                told = self._read(row)
        except PipelineError as error:
            self._fail(row, error.reason, error.detail)
            return
        except DBAPIError:
            raise
        except MemoryError:
            self._fail(row, Reason.OUT_OF_MEMORY, "while it was read in shadow")
            return
        except Exception as error:  # whatever goes wrong in shadow is noted, and stays there; texts may quote a header
            self._fail(row, Reason.INTERNAL, f"unexpected {type(error).__name__}")
            return
        with self._records.session() as session:
            shadow_queue.done(session, row.id, told)
        log.info("shadow_read", seconds=told["seconds"])

    def _read(self, row: ShadowReading) -> dict[str, Any]:
        with self._records.reading() as session:
            slices = self._slices(session, row.job_id)
            preset = session.get_one(Job, row.job_id).preset
            path = registry.path_of(session, row.release_digest)
        pipeline = self._loaded(row.release_digest, path)
        return told(*pipeline.read(pipeline.vet(slices), preset))

    def _slices(self, session: Session, job_id: int) -> "list[SourceSlice]":
        """Raises PipelineError (IMAGES_DELETED)."""
        series = session.get_one(Job, job_id, options=[joinedload(Job.series)]).series
        slices = series_slices(session, series, self._settings.spool_dir)
        deleted = missing_images(session, series, [one.sop_instance_uid for one in slices])
        if deleted or not slices:
            raise PipelineError(Reason.IMAGES_DELETED, "before the release in shadow came to it")
        return slices

    def _loaded(self, digest: str, path: str | None) -> "Pipeline":
        """The pipeline of the release in shadow; the former one is gone before it comes. Raises PipelineError."""
        if self._pipeline is None or self._pipeline.release_digest != digest:
            self._pipeline = None
            if path is None:
                raise PipelineError(Reason.RELEASE_GONE, f"digest {digest[:12]} is not known any more")
            model = self._settings.model.model_copy(update={"release": path, "device": "cpu", "compiled": False})
            pipeline = self._load(self._settings.model_copy(update={"model": model}))
            if pipeline.release_digest != digest:
                raise PipelineError(Reason.RELEASE_GONE, f"its folder holds {pipeline.release_digest[:12]} now")
            self._pipeline = pipeline
        return self._pipeline

    def _fail(self, row: ShadowReading, reason: Reason, detail: str) -> None:
        with self._records.session() as session:
            shadow_queue.failed(session, row.id, reason, detail)
        _log.warning("shadow_failed", job=row.job_id, digest=row.release_digest, reason=reason, detail=detail)


def told(reading: "Reading", seconds: dict[str, float]) -> dict[str, Any]:
    """A reading as `ShadowReading.reading` keeps it: no patient data, nothing of the images."""
    return {
        "findings": {
            finding.key: [round(finding.probability, 6), finding.verdict.value]
            for anatomy in reading.anatomies
            for finding in anatomy.findings
        },
        "not_assessed": {one.anatomy: one.reason.value for one in reading.not_assessed},
        "seconds": {stage: round(each, 3) for stage, each in seconds.items()},
    }


def run_shadow(settings: Settings, worker: str, load: "Callable[[Settings], Pipeline]") -> int:
    """Read in shadow until SIGTERM; the exit status."""
    _yield_to_others()
    reader = ShadowReader(Records(open_database(settings.database)), settings, load)
    reader.recover()

    def read(reading_id: int) -> None:
        try:
            reader.read(reading_id)
        except DBAPIError as error:
            _log.warning("database_away", error=type(error.orig).__name__)

    return run_worker(make_app(settings), SHADOW, read, worker)


def _yield_to_others() -> None:
    """Everybody else goes first, for the processor and (Linux) when memory is short."""
    os.nice(19)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
