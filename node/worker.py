"""The node's processes, which `serve` forks; or one alone: `python -m node.worker ROLE SETTINGS [NAME]`.

SETTINGS is a file that `write_settings` wrote. NAME tells workers of one role on one machine apart.

Nothing is imported before its role is known: only `analyze` loads torch.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from config import Reason, Settings
from node.database import Records, open_database
from node.logs import configure_logs
from node.presence import Presence
from node.processes import name_process, share_cores, without_collections
from node.release import release_digest
from node.releases.registry import path_in_force
from node.roles import worker_name
from node.tasks import ANALYZE, DELIVER, MESSAGES, BrokerAwayError, Dispatcher, make_app, run_worker, stop_worker
from node.worker_starts import note_start

_log = structlog.get_logger(__name__)

_MODEL_MISSING, _UNFIT = 3, 4
"""Exit statuses of an analyze worker that cannot load the model, or that the GPU's error has made unfit."""


def run_analyze(settings: Settings, worker: str, load: Callable[[Settings], Any] | None = None) -> int:
    """Work on jobs until SIGTERM; the exit status. The release is loaded before the worker is ready for jobs; what else
    a job needs comes in a thread afterwards, and the first job is not taken before.

    `worker` names this worker, the same after a restart. `load` makes the pipeline (default: `Pipeline.from_settings`).
    """
    from node.analysis import PipelineError
    from node.jobs import Analyst, WorkerUnfitError

    load = load or _load_pipeline
    presence = Presence.of(settings.data_dir, worker)
    records = Records(open_database(settings.database))

    def configured(release: str, frugal: bool) -> Any:
        wanted = with_release(settings, release)
        pipeline = load(frugal_settings(wanted) if frugal else wanted)
        _log.info("model_loaded", digest=pipeline.release_digest, frugal=frugal)
        return pipeline

    def unavailable(error: PipelineError) -> None:
        _log.error("model_unavailable", reason=error.reason, detail=error.detail)
        note_start(records, worker, error.reason, error.detail)

    with records.reading() as session:
        in_force = path_in_force(session, settings.model.release)
    try:
        with without_collections():
            pipeline = configured(in_force, False)
    except PipelineError as error:
        unavailable(error)
        return _MODEL_MISSING
    analyst = Analyst(records, settings, pipeline, worker, configured, in_force)
    analyst.recover()
    complete = Event()

    def load_rest() -> None:
        try:
            with without_collections():
                pipeline.complete()
            complete.set()
            note_start(records, worker)
            presence.ready()
            _log.info("segmenter_loaded")
        except PipelineError as error:
            stop_worker(_MODEL_MISSING)
            unavailable(error)
        except DBAPIError as error:
            _log.warning("database_away", error=type(error.orig).__name__)

    rest = Thread(target=load_rest, name="load_rest", daemon=True)
    app = make_app(settings)
    dispatcher = Dispatcher(app)

    def analyze(_: int) -> None:
        rest.join()
        if not complete.is_set():
            return  # the worker ends; the job stays queued
        try:
            for delivery_id in analyst.analyze():
                dispatcher.send(DELIVER, delivery_id)
        except BrokerAwayError:
            _log.warning("deliveries_left_to_the_reconciler")
        except DBAPIError as error:
            _log.warning("database_away", error=type(error.orig).__name__)
        except WorkerUnfitError:
            _log.error("worker_unfit", worker=worker, reason=Reason.DEVICE_ERROR)
            stop_worker(_UNFIT)

    status = run_worker(app, ANALYZE, analyze, worker, on_ready=rest.start)
    if status == _UNFIT or rest.is_alive():
        os._exit(status)  # tearing down a broken CUDA context may hang, and a thread within an import may crash
    return status


def with_release(settings: Settings, release: str) -> Settings:
    """The same with another release."""
    return settings.model_copy(update={"model": settings.model.model_copy(update={"release": release})})


def frugal_settings(settings: Settings) -> Settings:
    """The smaller configuration: sparing with memory, and on the CPU, which has more of it than a GPU."""
    smaller = settings.model.model_copy(update={"frugal": True, "device": "cpu", "compiled": False})
    return settings.model_copy(update={"model": smaller})


def _load_pipeline(settings: Settings) -> Any:
    """Raises PipelineError (MODEL_UNAVAILABLE), at once if there is no release at all."""
    from node.analysis import PipelineError

    try:
        release_digest(settings.model.release)
    except OSError as error:
        raise PipelineError(Reason.MODEL_UNAVAILABLE, f"{error.filename}: {error.strerror}") from error
    share_cores()
    from node.pipeline import Pipeline

    return Pipeline.from_settings(settings)


def run_in_shadow(settings: Settings, worker: str) -> int:
    """Read in shadow until SIGTERM; the exit status."""
    from node.releases.shadow_worker import run_shadow

    return run_shadow(settings, worker, _load_pipeline)


def run_deliver(settings: Settings, worker: str) -> int:
    """Deliver until SIGTERM; the exit status. A thread for each destination, so that none waits for another."""
    from node.delivery import Courier

    courier = Courier(Records(open_database(settings.database)), settings)
    courier.recover()

    def deliver(delivery_id: int) -> None:
        try:
            courier.deliver(delivery_id)
        except DBAPIError as error:
            _log.warning("database_away", delivery=delivery_id, error=type(error.orig).__name__)

    presence = Presence.of(settings.data_dir, worker)
    threads = len(settings.destinations) + 1
    return run_worker(make_app(settings), DELIVER, deliver, worker, threads, on_ready=presence.ready)


def run_messenger(settings: Settings, worker: str) -> int:
    """Send messages until SIGTERM; the exit status. A thread for each destination, so that none waits for another."""
    from node.messages.messenger import Messenger

    messenger = Messenger(Records(open_database(settings.database)), settings)
    messenger.recover()

    def send(row_id: int) -> None:
        try:
            messenger.deliver(row_id)
        except DBAPIError as error:
            _log.warning("database_away", error=type(error.orig).__name__)

    presence = Presence.of(settings.data_dir, worker)
    threads = len(settings.messages.destinations) + 1
    return run_worker(make_app(settings), MESSAGES, send, worker, threads, on_ready=presence.ready)


def run_reconciler(settings: Settings, worker: str) -> int:
    """Reconcile until SIGTERM; the exit status."""
    from node.reconciler import Reconciler

    ended = Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    records = Records(open_database(settings.database))
    if settings.worklists:
        from node.worklist.run import start_performers

        start_performers(settings, records, ended)
    if any(source.pull_from is not None for source in settings.sources.values()):
        from node.announced_pull import Puller

        Thread(target=Puller(records, settings).run, args=(ended,), name="pull", daemon=True).start()
    presence = Presence.of(settings.data_dir, worker)
    Reconciler(records, settings, Dispatcher(make_app(settings))).run(ended, presence.ready)
    return 0


def run_receive(settings: Settings, _: str) -> int:
    """Receive images until SIGTERM; the exit status."""
    from node.receiver import run_receiver

    return run_receiver(settings)


def run_ways_in(settings: Settings, _: str) -> int:
    """Take images that come over HTTP, from Orthancs and folders, until SIGTERM; the exit status."""
    from node.inlets import run_inlets

    return run_inlets(settings)


def run_web(settings: Settings, _: str) -> int:
    """Serve the console until SIGTERM; the exit status."""
    from node.console.server import run_console

    return run_console(settings)


ROLES: dict[str, Callable[[Settings, str], int]] = {
    "receiver": run_receive,
    "inlets": run_ways_in,
    "reconciler": run_reconciler,
    "analyze": run_analyze,
    "deliver": run_deliver,
    "shadow": run_in_shadow,
    "messenger": run_messenger,
    "console": run_web,
}


def write_settings(settings: Settings, file: Path) -> None:
    """Hand the settings to processes in a file that only this user can read (URLs may hold passwords)."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(settings.model_dump_json())


def read_settings(file: Path) -> Settings:
    """The settings as they were written; the environment does not change them any more."""
    return Settings(**json.loads(file.read_text(encoding="utf-8")))


def run_role(role: str, file: Path, name: str = "") -> int:
    """Hold a role until SIGTERM, with the settings of `file`; the exit status."""
    name_process(role)
    configure_logs()
    settings = read_settings(file)
    worker = worker_name(role, settings.data_dir, name)
    try:
        with Presence.of(settings.data_dir, worker).held():
            return ROLES[role](settings, worker)
    except DBAPIError as error:
        _log.error("database_away", role=role, error=type(error.orig).__name__)
    except OSError as error:
        _log.error("cannot_start", role=role, error=type(error).__name__, detail=error.strerror)
    return 1


if __name__ == "__main__":
    sys.exit(run_role(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
