"""The thread that follows one Orthanc: what becomes stable there is fetched, then the cursor moves on."""

import random
import time
from collections.abc import Callable
from datetime import datetime
from threading import Event

import structlog
from sqlalchemy.exc import DBAPIError

from config import Reason, Settings
from config.inlet_settings import OrthancSource
from node.database import Records
from node.fetch_pool import StoppedError
from node.http_peer import HttpPeer, PeerError
from node.orthanc_source import rows
from node.orthanc_source.client import NEW_INSTANCE, Change, OrthancClient
from node.orthanc_source.fetch import Fetched, SeriesFetch
from node.orthanc_source.pending import Pending

_log = structlog.get_logger(__name__)

_LONGEST_WAIT_S = 60.0


class Follower:
    """Follows one Orthanc. One thread; `nudge` from any."""

    def __init__(
        self,
        name: str,
        source: OrthancSource,
        records: Records,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._source, self._records, self._settings, self._clock = name, source, records, settings, clock
        self._news = Event()
        self._peer: HttpPeer | None = None
        self._pending = Pending(source.settle_s)
        self._read_to: int | None = None
        self._failures = 0
        self._told: tuple[Reason, str] | None = None

    def nudge(self) -> None:
        """There is something new; look now."""
        self._news.set()

    def run(self, ended: Event) -> None:
        """Round after round until `ended` (call `nudge` then); an Orthanc, a disk or a database that is away is waited
        for, and told once.
        """
        while not ended.is_set():
            self._news.clear()
            wait_s = self._source.poll_s if self.round(ended) else self._pause_s()
            self._news.wait(wait_s)

    def round(self, ended: Event) -> bool:
        """Fetch all that is due; False if something is away. What was done stays done."""
        try:
            if self._peer is None:
                timeout_s = self._settings.delivery.timeout_s
                self._peer = HttpPeer(self._source.url, self._source, timeout_s, self._source.at_once)
            client = OrthancClient(self._peer)
            fetch = SeriesFetch(self._name, self._source, client, self._records, self._settings, ended)
            self._fetch_wanted(fetch, ended)
            self._follow(client, fetch, ended)
        except StoppedError:
            return True
        except PeerError as error:
            self._fail(error.reason, error.detail)
        except DBAPIError as error:
            self._fail(Reason.INTERNAL, f"the database is away ({type(error.orig).__name__})", note=False)
        except OSError as error:
            self._fail(Reason.SPOOL_FAILED, error.strerror or type(error).__name__)
        except Exception:  # whatever goes wrong with one Orthanc, the other ways in go on
            _log.exception("orthanc_failed", source=self._name)
            self._fail(Reason.INTERNAL, Reason.INTERNAL.meaning)
        else:
            if self._told is not None:
                _log.info("orthanc_back", source=self._name)
            self._failures, self._told = 0, None
            return True
        if self._peer is not None:  # secrets and certificates are read anew
            self._peer.close()
            self._peer = None
        self._read_to = None  # what is not done with is read again
        self._pending = Pending(self._source.settle_s)
        return False

    def _fetch_wanted(self, fetch: SeriesFetch, ended: Event) -> None:
        with self._records.reading() as session:
            wanted = rows.wanted(session, self._name)
        for series in wanted:
            if ended.is_set():
                return
            self._settle(series, self._fetched(series, fetch))

    def _follow(self, client: OrthancClient, fetch: SeriesFetch, ended: Event) -> None:
        """Changes to their end, then what waits for too long."""
        not_before = self._begin(client)
        while not ended.is_set():
            assert self._read_to is not None
            changes, read_to = client.changes(self._read_to)
            for change in changes:
                if ended.is_set():
                    return
                if not_before is None or change.at >= not_before:
                    self._take(change, fetch)
                self._read_to = change.seq
            if read_to == self._read_to and not changes:
                break
            self._read_to = read_to
            self._move()
        while (instance := self._pending.overdue(self._clock())) is not None and not ended.is_set():
            self._look_at(instance, client, fetch)
        self._move()

    def _begin(self, client: OrthancClient) -> datetime | None:
        """Find out where to go on, if that is not known; since when changes count, if not all do."""
        last = client.last_change()
        with self._records.session() as session:
            place = rows.place(session, self._name)
            if place is None:
                rows.begin(session, self._name, 0 if self._source.from_start else last)
            elif last < place.cursor:
                _log.warning("orthanc_changes_began_anew", source=self._name)
                rows.begin_anew(session, self._name)
                self._read_to = None
                self._pending = Pending(self._source.settle_s)
            place = rows.place(session, self._name)
        assert place is not None
        if self._read_to is None:
            self._read_to = place.cursor
        return place.not_before

    def _take(self, change: Change, fetch: SeriesFetch) -> None:
        if change.kind == NEW_INSTANCE:
            self._pending.came(change.resource, change.seq, self._clock())
            return
        fetched = self._fetched(change.resource, fetch)
        self._settle(change.resource, fetched)
        self._pending.settle(fetched.instances)

    def _fetched(self, series: str, fetch: SeriesFetch) -> Fetched:
        """What became of a series."""
        try:
            return fetch.fetch(series)
        except (PeerError, DBAPIError, OSError, StoppedError):
            raise
        except Exception:  # an error in one series does not stop the others
            _log.exception("series_failed", source=self._name)
            return Fetched(reason=Reason.INTERNAL, detail=Reason.INTERNAL.meaning)

    def _look_at(self, instance: str, client: OrthancClient, fetch: SeriesFetch) -> None:
        """An image whose series has not been told of as stable for too long."""
        try:
            name = client.series_of(instance)
            series = client.series(name)
        except PeerError as error:
            if not error.lasting:
                raise
            self._pending.settle((instance,))  # it was deleted
            return
        if not series.stable:
            self._pending.postpone((instance, *series.instances), self._clock())
            return
        self._settle(name, self._fetched(name, fetch))
        self._pending.settle((instance, *series.instances))

    def _settle(self, series: str, fetched: Fetched) -> None:
        """Nobody waits for it any more. Only a person who asked is told that it is no CT, or gone."""
        with self._records.session() as session:
            wish = rows.wish(session, self._name, series)
            expected = fetched.reason in (Reason.NOT_CT, Reason.GONE_AT_SOURCE) and not fetched.images
            if wish is not None or (fetched.reason is not None and not expected):
                rows.settle(session, self._name, series, fetched.reason, fetched.detail)
        if fetched.reason is not None and not (expected and wish is None):
            _log.warning("series_not_fetched", source=self._name, reason=fetched.reason, detail=fetched.detail)

    def _move(self) -> None:
        assert self._read_to is not None
        cursor = self._pending.cursor(self._read_to)
        with self._records.reading() as session:
            news = rows.is_news(session, self._name, cursor)
        if news:
            with self._records.session() as session:
                rows.move(session, self._name, cursor)

    def _fail(self, reason: Reason, detail: str, note: bool = True) -> None:
        self._failures += 1
        if self._told == (reason, detail):
            return
        self._told = (reason, detail)
        _log.warning("orthanc_away", source=self._name, reason=reason, detail=detail)
        if note:
            try:
                with self._records.session() as session:
                    rows.fail(session, self._name, reason, detail)
            except DBAPIError as error:
                _log.warning("database_away", error=type(error.orig).__name__)

    def _pause_s(self) -> float:
        wait_s: float = self._source.poll_s * 2 ** min(self._failures, 10)
        return min(_LONGEST_WAIT_S, wait_s) * random.uniform(0.8, 1.2)
