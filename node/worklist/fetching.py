"""Input series that are not there are fetched from a source of the settings, one study at a time, in a thread."""

import time
from threading import Lock, Thread

import structlog
from sqlalchemy.exc import DBAPIError

from config import Settings
from node.database import Records
from node.retrieve.plan import RetrieveError

_log = structlog.get_logger(__name__)

_AGAIN_S = 60.0
"""Shortest time between two tries for the same series."""


class InputFetcher:
    """Asked again and again for what is missing; fetches each series at most once a minute."""

    def __init__(self, settings: Settings, records: Records, source: str) -> None:
        self._settings, self._records, self._source = settings, records, source
        self._lock = Lock()
        self._wanted: dict[str, set[str]] = {}
        self._tried: dict[str, float] = {}
        self._thread: Thread | None = None

    def want(self, missing: tuple[tuple[str, str], ...]) -> None:
        """Fetch these (study, series), if they were not tried just now."""
        with self._lock:
            moment = time.monotonic()
            self._tried = {series: at for series, at in self._tried.items() if moment - at < _AGAIN_S}
            for study, series in missing:
                if series not in self._tried:
                    self._tried[series] = moment
                    self._wanted.setdefault(study, set()).add(series)
            if self._wanted and (self._thread is None or not self._thread.is_alive()):
                self._thread = Thread(target=self._run, name="worklist_inputs", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (one := self._next()) is not None:
            try:
                self._fetch(*one)
            except (RetrieveError, OSError, DBAPIError) as error:
                detail = str(error) if isinstance(error, RetrieveError) else ""
                _log.warning("inputs_not_fetched", source=self._source, error=type(error).__name__, detail=detail)
            except Exception:  # it is tried again while it is wanted
                _log.exception("unexpected_error")

    def _next(self) -> tuple[str, set[str]] | None:
        with self._lock:
            return self._wanted.popitem() if self._wanted else None

    def _fetch(self, study: str, series: set[str]) -> None:
        source = self._settings.sources[self._source]
        if source.dicomweb_url:
            from node.retrieve.dicomweb import pull
        else:
            from node.retrieve.dimse import pull
        found = pull(self._settings, self._records, self._source, source, study, lambda *_: None, series)
        _log.info(
            "inputs_fetched", source=self._source, images=found.fetched, known=found.known, count=len(found.problems)
        )
