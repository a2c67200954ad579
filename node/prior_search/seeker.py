"""Asks the archive for each new job, in threads of its own; a job waits for the answer, but never long.

The job's row says until when it waits (`Job.held_until`), by the clock of the database: whatever dies or hangs, it is
taken then. An archive that does not answer is not asked again for a while (its circuit breaker), and no job waits.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from config import Reason, Settings
from config.settings import Source
from ct.part10 import Unfit
from ct.series import read_data_set
from ct.volume import SourceSlice
from node import breaker, outbox
from node.archived_prior import ArchivedPrior
from node.bell import bell_file, ring
from node.completion import series_slices
from node.database import Records
from node.prior_search.dimse import DimseArchive
from node.prior_search.question import Deadline, Question, question_of
from node.prior_search.search import last_report
from node.prior_search.web import WebArchive
from node.priors import breaker_of, last_before
from node.records import Job, now
from node.retrieve.plan import RetrieveError
from node.states import State

_log = structlog.get_logger(__name__)

_AT_ONCE = 4


class PriorSeeker:
    """Used from one thread."""

    def __init__(self, records: Records, settings: Settings, name: str) -> None:
        """`name`: the archive, one of `settings.sources`."""
        self._records, self._settings, self._name = records, settings, name
        self._source: Source = settings.sources[name]
        self._breaker = breaker_of(name)
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="prior")
        self._asked: dict[int, Future[None]] = {}

    def once(self) -> bool:
        """Ask about jobs that wait and were not asked about; whether any waits. Raises sqlalchemy.exc.DBAPIError."""
        waiting = select(Job.id).where(Job.state == State.QUEUED, Job.held_until > now()).order_by(Job.priority, Job.id)
        with self._records.reading() as session:
            held = session.scalars(waiting).all()
        self._asked = {job_id: asked for job_id, asked in self._asked.items() if not asked.done() or job_id in held}
        for job_id in held:
            if job_id not in self._asked:
                self._asked[job_id] = self._pool.submit(self._seek, job_id)
        return bool(held)

    def stop(self) -> None:
        """Ask nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _seek(self, job_id: int) -> None:
        """One job, whatever goes wrong: it waits no longer."""
        found = None
        try:
            found = self._found(job_id)
        except DBAPIError as error:
            _log.warning("database_away", error=type(error.orig).__name__)
        except Exception:  # a prior is never worth a reading
            _log.exception("unexpected_error", job=job_id)
        try:
            self._let_go(job_id, found)
        except DBAPIError as error:  # it is taken when its time has come
            _log.warning("database_away", error=type(error.orig).__name__)

    def _found(self, job_id: int) -> ArchivedPrior | None:
        with self._records.reading() as session:
            job = session.get_one(Job, job_id)
            if job.held_until is None or job.held_until <= now():
                return None
            slices = series_slices(session, job.series, self._settings.spool_dir)
            deadline = Deadline((job.held_until - now()).total_seconds())
            question = self._question(slices[0], job.release_digest) if slices else None
            if question is None:
                return None
            own = last_before(session, job, question.whose)
        if own is not None and not self._settings.priors.always:
            return None
        return self._ask(job_id, question, deadline)

    def _question(self, image: SourceSlice, release: str) -> Question | None:
        try:
            return question_of(read_data_set(image), self._settings.data_dir, release)
        except (OSError, Unfit) as error:
            _log.warning("prior_not_sought", reason=Reason.TRUNCATED, error=type(error).__name__)
            return None

    def _ask(self, job_id: int, question: Question, deadline: Deadline) -> ArchivedPrior | None:
        """Raises sqlalchemy.exc.DBAPIError."""
        with self._records.session() as session:
            if not breaker.admit(session, self._breaker, self._settings.priors.wait_s + 1.0):
                _log.info("prior_not_sought", job=job_id, source=self._name, reason=Reason.PEER_UNREACHABLE)
                return None
        try:
            found = self._search(question, deadline)
        except RetrieveError as error:
            self._away(job_id, error.reason, str(error))
            return None
        except OSError as error:
            self._away(job_id, Reason.SPOOL_FAILED, error.strerror or type(error).__name__)
            return None
        with self._records.session() as session:
            back = breaker.shut(session, self._breaker)
        if back:
            _log.info("archive_back", source=self._name)
        _log.info("prior_sought", job=job_id, source=self._name, count=int(found is not None))
        return found

    def _search(self, question: Question, deadline: Deadline) -> ArchivedPrior | None:
        """Raises RetrieveError, OSError, sqlalchemy.exc.DBAPIError."""
        if self._source.dicomweb_url:
            with WebArchive(self._source, self._settings.delivery.timeout_s, deadline) as web:
                return last_report(web, question, self._settings.data_dir)
        with DimseArchive(self._settings, self._records, self._source, deadline) as dimse:
            return last_report(dimse, question, self._settings.data_dir)

    def _away(self, job_id: int, reason: Reason, detail: str) -> None:
        with self._records.session() as session:
            row = breaker.trip(session, self._breaker, reason, detail)
            row.next_attempt_at = outbox.next_attempt(row.failures, self._settings.delivery)
        _log.warning("prior_not_sought", job=job_id, source=self._name, reason=reason, detail=detail)

    def _let_go(self, job_id: int, found: ArchivedPrior | None) -> None:
        """Keep what was found, if nothing is chosen yet, and let a worker take the job."""
        with self._records.session() as session:
            job = session.get_one(Job, job_id, with_for_update=True)
            if found is not None and job.prior is None:
                job.archived_prior = found.kept()
            job.held_until = None
        ring(bell_file(self._settings.spool_dir))
