"""The reconciler: looks at the database again and again and issues what is due. Whatever the broker lost, it replaces.

Each pass: close series, vet and route them, take back expired leases, end jobs that have nothing left to deliver, and
send messages for queued jobs and due deliveries whenever a queue is empty. A message too many does no harm.
"""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from threading import Event

import structlog
from sqlalchemy import exists, select
from sqlalchemy.exc import DBAPIError

from config import Settings
from config.rules import RulesError
from node import leases, outbox
from node.bell import Bell, bell_file
from node.clock import Clock, begin_waits_anew, forget_the_future
from node.completion import Completer
from node.database import Records
from node.messages import failures
from node.messages import rows as messages
from node.prior_search.seeker import PriorSeeker
from node.priority_rule import PriorityRule
from node.priors import held_until
from node.records import Delivery, Job, Result, Series, now
from node.release import facts_of, release_digest
from node.releases import registry, shadow_queue, shadow_wish
from node.routing import route
from node.rules.book import RulesInForce
from node.rules.judge import Judge
from node.source_count import SourceCounts
from node.states import State
from node.survey import survey
from node.tasks import ANALYZE, DELIVER, MESSAGES, SHADOW, BrokerAwayError, Dispatcher
from node.work_queue import most_urgent

_log = structlog.get_logger(__name__)

_AT_ONCE = 32
"""Jobs sent to an empty queue in one pass."""
_LIVELY_S = 1.0
"""Longest pause between two passes while something is on its way."""


class Reconciler:
    """One is enough for a node; two do no harm."""

    def __init__(self, records: Records, settings: Settings, dispatcher: Dispatcher) -> None:
        self._records, self._settings, self._dispatcher = records, settings, dispatcher
        self._counts = SourceCounts(settings)
        self._completer = Completer(records, settings, self._counts)
        self._rules = RulesInForce(settings)
        self._judge: Judge | None = None
        self._refused = ""
        """What is wrong with the rules that were refused last."""
        self._follow_rules()
        archive = settings.priors.source
        self._priors = None if archive is None else PriorSeeker(records, settings, archive)
        self._away: set[str] = set()
        self._in_force = ""
        self._clock = Clock(now())
        self._jumped: bool | None = False
        """Whether waits are to be begun anew because the clock jumped; None: all is well with the times."""

    def run(self, ended: Event, passed: Callable[[], None] = lambda: None) -> None:
        """Pass after pass until `ended` is set; waits longer while nothing is on its way, less when the bell rings.
        `passed` is called after each.

        What is there at the start is logged before anything is done.
        """
        pause = self._settings.work.reconcile_s
        while not self._surveyed() and not ended.wait(pause):
            pass
        bell = Bell(bell_file(self._settings.spool_dir))
        while not bell.wait(ended, min(_LIVELY_S, pause) if self.once() else pause):
            passed()
        self._counts.stop()
        if self._priors is not None:
            self._priors.stop()

    def once(self) -> bool:
        """One pass; True if something is on its way. An absent database or broker is waited for, and told once."""
        try:
            lively = self._database_pass()
        except DBAPIError as error:
            self._tell("database", type(error.orig).__name__)
            return False
        self._tell("database")
        return lively

    def _surveyed(self) -> bool:
        """Log what is there to begin with; False if the database is away."""
        try:
            with self._records.reading() as session:
                found = survey(session, self._settings.spool_dir)
        except DBAPIError as error:
            self._tell("database", type(error.orig).__name__)
            return False
        self._tell("database")
        _log.info("found_at_start", **asdict(found))
        return True

    def _database_pass(self) -> bool:
        self._look_at_the_clock(now())
        self._completer.once()
        self._route()
        asking = self._priors is not None and self._priors.once()
        with self._records.session() as session:
            leases.requeue_expired(session, self._settings.work.max_attempts)
            pending = select(Delivery.id).join(Result).where(Result.job_id == Job.id, Delivery.sent_at.is_(None))
            undelivered = exists(pending.where(Delivery.refused.is_(False)))
            for job_id in session.scalars(select(Job.id).where(Job.state == State.ENCODED, ~undelivered)).all():
                outbox.settle(session, job_id)
            failures.note(session, self._settings, now())
            if abandoned := messages.abandon(session, self._settings):
                _log.error("messages_to_nobody", count=len(abandoned))
        with self._records.reading() as session:
            queued = session.scalars(most_urgent(_AT_ONCE)).all()
            due = outbox.due_by_destination(session)
            to_say = messages.due_by_destination(session)
            coming = session.scalar(
                select(Series.id).where(Series.state.in_((State.RECEIVING, State.COMPLETE))).limit(1)
            )
        shadow = self._enlist_in_shadow()
        try:
            self._issue(ANALYZE, list(queued))
            self._issue(DELIVER, list(due.values()))
            self._issue(SHADOW, shadow)
            self._issue(MESSAGES, list(to_say.values()))
            self._tell("broker")
        except BrokerAwayError as error:
            self._tell("broker", type(error.__cause__).__name__)
        return bool(queued or due or to_say or coming or asking)

    def _look_at_the_clock(self, at: datetime) -> None:
        """At the start, and whenever the clock was set: no job is taken away, nothing waits for a day."""
        jump = self._clock.jump_s(at)
        if jump:
            _log.warning("clock_jumped", seconds=round(jump, 1))
            self._jumped = True
        if self._jumped is not None:
            with self._records.session() as session:
                (begin_waits_anew if self._jumped else forget_the_future)(session, self._settings, at)
            self._jumped = None

    def _route(self) -> None:
        """Decide about vetted series; without a release they wait."""
        try:
            digest = self._release_in_force()
        except OSError as error:
            self._tell("release", type(error).__name__)
            return
        self._tell("release")
        if self._in_force not in ("", digest):
            _log.info("release_switched", digest=digest, former=self._in_force)
        self._in_force = digest
        try:
            self._follow_rules()
        except RulesError as error:
            if error.cause != self._refused:
                _log.error("rules_refused", number=self._rules.number, detail=error.cause)
            self._refused = error.cause
        priority_of = PriorityRule(self._settings).of
        to, until = self._settings.routing.destinations, held_until(self._settings)
        route(self._records, digest, priority_of, self._judge, to, until)

    def _follow_rules(self) -> None:
        """Judge by the newest rules from now on. Raises RulesError: then the former ones stay in force."""
        if self._rules.look():
            book = self._rules.book
            self._judge = None if book is None else Judge(book, self._settings)
            if book is not None:
                _log.info("rules_in_force", number=self._rules.number, digest=book.rules.digest)

    def _release_in_force(self) -> str:
        """Digest of the one that was promoted, else of the one in the settings. Raises OSError if that is not there."""
        with self._records.reading() as session:
            row = registry.current(session)
        if row is not None and not row.configured:
            return row.digest
        digest = release_digest(self._settings.model.release)
        if not registry.follows(row, digest):
            with self._records.session() as session:
                registry.follow_configuration(session, facts_of(self._settings.model.release, digest))
        return digest

    def _enlist_in_shadow(self) -> list[int]:
        """Readings of the release in shadow that may be done now; none without one."""
        with self._records.reading() as session:
            wanted = registry.in_shadow(session) is not None
        shadow_wish.tell(self._settings.data_dir, wanted)
        if not wanted:
            return []
        with self._records.session() as session:
            shadow_queue.give_back(session, now() - timedelta(seconds=2 * self._settings.work.time_limit_s))
            return shadow_queue.enlist(session)

    def _issue(self, queue: str, row_ids: list[int]) -> None:
        """Send messages if nobody waits in the queue: the messages of these rows are taken, lost or never were."""
        if row_ids and self._dispatcher.waiting(queue) == 0:
            for row_id in row_ids:
                self._dispatcher.send(queue, row_id)

    def _tell(self, what: str, error: str = "") -> None:
        """Log that the database, the broker or the release went away or came back, once each."""
        if error and what not in self._away:
            self._away.add(what)
            _log.error(f"{what}_away", error=error)
        elif not error and what in self._away:
            self._away.remove(what)
            _log.info(f"{what}_back")
