"""The process of the ways in beside DIMSE: Orthanc, watched folders, HTTP. Without torch.

Each is a thread; all end in the one door. The receiver's indexer finds what they store.
"""

import signal
from threading import Event, Thread

import structlog

from config import Settings
from node.database import Records, open_database
from node.orthanc_source.follower import Follower
from node.watched_folder import FolderWatch
from node.web.server import WebServer

_log = structlog.get_logger(__name__)

_ENDING_S = 8.0


def run_inlets(settings: Settings) -> int:
    """Until SIGTERM or SIGINT; the exit status. Runs in the main thread.

    Raises OSError if the spool or the port cannot be used.
    """
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    records = Records(open_database(settings.database))
    settings.spool_dir.mkdir(parents=True, exist_ok=True)
    followers = {name: Follower(name, source, records, settings) for name, source in settings.orthancs.items()}
    folders = [FolderWatch(name, folder, settings) for name, folder in settings.folders.items()]
    runs = [one.run for one in followers.values()] + [one.run for one in folders]
    threads = [Thread(target=run, args=(ended,), daemon=True) for run in runs]
    server = WebServer(settings, records, followers) if settings.web.enabled else None
    for thread in threads:
        thread.start()
    _log.info("inlets_ready", count=len(threads))
    failed = False
    while not ended.wait(0.2):
        if server is not None and not server.alive:
            failed = True
            ended.set()
    for follower in followers.values():
        follower.nudge()
    if server is not None:
        server.stop()
    for thread in threads:
        thread.join(_ENDING_S)
    records.engine.dispose()
    _log.info("inlets_ended")
    return int(failed)
