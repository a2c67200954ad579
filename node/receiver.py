"""The receiver process: the storage SCP and the indexer, without torch. SIGTERM or SIGINT ends it cleanly."""

import signal
import threading
from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy.exc import DBAPIError

from config import Reason, Settings
from node.announced_pull import wish
from node.commitment_reports import Reporter
from node.commitment_result import take_kept
from node.database import Records, open_database
from node.indexer import Indexer
from node.intake import Intake
from node.knocks import Knocks
from node.migrations import SchemaError, upgrade
from node.store_scp import StoreScp

_log = structlog.get_logger(__name__)

_ENDING_S = 10.0
"""Seconds that associations get to end, and the index to catch up, when the process is told to stop."""
_BOOKS_S = 0.5
"""Between two looks at what is to be reported and written down, seconds."""
_RETRY_S = 2.0
"""Wait before the index is tried again, seconds."""


def run_receiver(settings: Settings, ready: Callable[[int], None] | None = None) -> int:
    """Receive until SIGTERM or SIGINT; the exit status, 0. Runs in the main thread.

    `ready` hears the port once it is listening. The database may be away, at the start as well: images go into the
    spool and are indexed when it is back. Raises OSError if the spool or the port cannot be used.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    dicom = settings.dicom
    records = Records(open_database(settings.database))
    intake = Intake(settings.spool_dir, dicom.min_free_mb * 2**20)
    indexer = Indexer(records, settings.spool_dir, announced=partial(wish, settings))
    intake.on_stored = indexer.notify
    knocks = Knocks()
    scp = StoreScp(dicom, intake, knocks, settings.restart_max_s)
    port = scp.start()
    follower = threading.Thread(target=_index, args=(records, indexer, ended), name="indexer", daemon=True)
    follower.start()
    reporter = Reporter(records, settings)
    books = (records, settings, reporter, knocks, ended)
    clerk = threading.Thread(target=_keep_books, args=books, name="clerk", daemon=True)
    clerk.start()
    if not dicom.tls.only:
        _log.info("receiver_listening", ae_title=dicom.ae_title, host=dicom.host, port=port)
    if scp.tls_port is not None:
        _log.info("receiver_listening_tls", ae_title=dicom.ae_title, host=dicom.host, port=scp.tls_port)
    if ready is not None:
        ready(port)
    scp.serve(ended)
    scp.stop(_ENDING_S)
    indexer.stop()
    follower.join(_ENDING_S)
    clerk.join(_RETRY_S)
    records.engine.dispose()
    _log.info("receiver_ended")
    return 0


def _index(records: Records, indexer: Indexer, ended: threading.Event) -> None:
    """Bring the schema up to date as soon as the database is there, then follow the spool."""
    while True:
        try:
            upgrade(records.engine)
            indexer.run()
            return
        except DBAPIError as error:
            _log.warning("database_away", error=type(error.orig).__name__)
        except SchemaError as error:
            _log.error("database_schema_unknown", detail=str(error))
        except Exception:  # whatever goes wrong in the index, images are still taken in, and it is tried again
            _log.exception("indexer_failed")
        if ended.wait(_RETRY_S):
            return


def _keep_books(
    records: Records, settings: Settings, reporter: Reporter, knocks: Knocks, ended: threading.Event
) -> None:
    """Report on storage commitment, take in such reports, and write down who was refused; the database may be away."""
    ending = False
    while not ending:
        ending = ended.wait(_BOOKS_S)
        try:
            knocks.flush(records)
            take_kept(records, settings)
            if not ending:
                reporter.once()
        except DBAPIError:  # the index waits for it as well, and says so
            pass
        except OSError as error:
            _log.error("commitment_not_reported", reason=Reason.SPOOL_FAILED, error=error.strerror)
        except Exception:  # whatever goes wrong in the books, images are still taken in, and it is tried again
            _log.exception("books_failed")
