"""The performer: claims the work of one worklist that is meant for this node, and ends what it has claimed.

The row of a claim, with its Transaction UID, is committed before the worklist is asked. So whoever is killed in between
asks again with the same UID afterwards, and finds out whether the work is its own: only its holder may update it.
The end of the work is written into the workitem first, then the state is changed, then the row; each step may be done
twice.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Event

import structlog
from pydicom.uid import generate_uid
from sqlalchemy.exc import DBAPIError, IntegrityError

from config import Priority, Reason, Settings
from config.worklist_settings import DimseWorklist, WebWorklist
from node.database import Records
from node.records import WorkitemClaim, now
from node.worklist import claims, inputs, report
from node.worklist.claims import Phase
from node.worklist.events import Notice
from node.worklist.fetching import InputFetcher
from node.worklist.inputs import Standing
from node.worklist.link import Fate, WorklistAwayError, WorklistLink
from node.worklist.report import Ending
from node.worklist.workitem import Code, StepState, Workitem, WorkitemError

_log = structlog.get_logger(__name__)

_LOOK_S = 1.0
"""Seconds between two looks at the node's own jobs."""
_GATHER_S = 0.2
"""Notices that come within this time are one."""
_MOST_ATTEMPTS = 20
"""Vain attempts to claim or to end a workitem before it counts as lost."""


class Performer:
    """One for each worklist, in a thread of its own; two for one worklist do no harm."""

    def __init__(
        self,
        name: str,
        worklist: WebWorklist | DimseWorklist,
        settings: Settings,
        records: Records,
        connect: Callable[[], WorklistLink],
    ) -> None:
        """`connect` opens a link, or raises WorklistAwayError."""
        self._name, self._worklist, self._settings, self._records, self._connect = (
            name, worklist, settings, records, connect
        )  # fmt: skip
        self._station = Code.parse(worklist.station)
        self._procedures = tuple(Code.parse(text) for text in worklist.procedures)
        self._fetcher = None if worklist.source is None else InputFetcher(settings, records, worklist.source)
        self._notices: SimpleQueue[Notice] = SimpleQueue()
        self._away: set[str] = set()
        self._unreadable = ""
        """What could not be read in this look."""

    def notify(self, notice: Notice) -> None:
        """Something happened on the worklist; from any thread."""
        self._notices.put(notice)

    def run(self, ended: Event) -> None:
        """Until `ended` is set."""
        next_poll = 0.0
        while not ended.is_set():
            try:
                told = self._take_notices()
                if time.monotonic() >= next_poll or told or ("worklist" not in self._away and self._moved()):
                    next_poll = time.monotonic() + self._worklist.poll_s
                    self.once()
            except DBAPIError as error:
                self._tell("database", type(error.orig).__name__)
            except Exception:  # this worklist goes on, and so does everything beside it
                _log.exception("unexpected_error", source=self._name)
                next_poll = time.monotonic() + self._worklist.poll_s
            self._wait(ended)

    def once(self) -> None:
        """One look: end what is over, tell how far the rest is, claim what is new. A worklist that is away is told
        once. Raises sqlalchemy.exc.DBAPIError.
        """
        try:
            with self._connect() as link:
                for row in self._open():
                    self._carry_on(link, row)
                self._look_for_work(link)
        except WorklistAwayError as error:
            self._tell("worklist", error.reason, error.detail)
            with self._records.session() as session:
                claims.contact(session, self._name, error.reason, error.detail)
            return
        self._tell("worklist")
        self._tell("database")
        with self._records.session() as session:
            claims.contact(session, self._name)

    def _take_notices(self) -> bool:
        """Cancel requests go into the database first. False: there was no notice."""
        told = False
        while not self._notices.empty():
            notice = self._notices.get()
            told = True
            if notice.cancel:
                self._ask_cancel(notice)
        return told

    def _ask_cancel(self, notice: Notice) -> None:
        try:
            with self._records.session() as session:
                asked = claims.ask_cancel(session, self._name, notice.cancel)
        except DBAPIError:
            self._notices.put(notice)
            raise
        if asked:
            _log.info("cancel_requested", source=self._name)

    def _wait(self, ended: Event) -> None:
        """For the next look; less if a notice comes."""
        try:
            self._notices.put(self._notices.get(timeout=_LOOK_S))
        except Empty:
            return
        ended.wait(_GATHER_S)

    def _open(self) -> list[WorkitemClaim]:
        with self._records.reading() as session:
            return claims.open_claims(session, self._name)

    def _standing(self, row: WorkitemClaim) -> Standing:
        overdue = now() - row.claimed_at > timedelta(seconds=self._worklist.images_wait_s)
        with self._records.reading() as session:
            return inputs.standing(session, self._settings, row.inputs, overdue)

    def _moved(self) -> bool:
        """Whether there is something to tell the worklist of."""
        for row in self._open():
            standing = self._standing(row)
            if row.attempts == 0 and (standing.percent != row.progress or standing.ending is not None):
                return True
        return False

    def _carry_on(self, link: WorklistLink, row: WorkitemClaim) -> None:
        """Whatever is next for one claim."""
        if row.phase == Phase.CLAIMING and not self._claim(link, row):
            return
        if not self._still_ours(link, row):
            return
        standing = self._standing(row)
        if row.cancel_asked and standing.ending is None and standing.percent < 80:
            self._cancel_jobs(row)
            standing = self._standing(row)
            if standing.ending is None:
                standing = Standing(standing.percent, "", (), Ending(Reason.CANCELLED, "the worklist asked for it"))
        if standing.ending is not None:
            self._end(link, row, standing.ending)
            return
        if standing.missing and self._fetcher is not None:
            self._fetcher.want(standing.missing)
        self._report(link, row, standing)

    def _claim(self, link: WorklistLink, row: WorkitemClaim) -> bool:
        """Ask for a workitem, perhaps for the second time; whether it is ours."""
        reply = link.change_state(row.uid, row.transaction_uid, StepState.IN_PROGRESS)
        if reply.fate is Fate.CONFLICT:  # claimed: by somebody else, or by us before we were killed
            reply = link.update(row.uid, row.transaction_uid, report.progress(0, "claimed"))
        if reply.fate is Fate.DONE:
            self._move(row, Phase.HELD)
            return True
        if reply.fate is Fate.REFUSED and row.attempts < _MOST_ATTEMPTS:
            self._refused(row, f"it cannot be claimed: {reply.detail}")
        else:
            self._move(row, Phase.LOST, Reason.WORKITEM_LOST, f"somebody else has it, or had it ended: {reply.detail}")
        return False

    def _still_ours(self, link: WorklistLink, row: WorkitemClaim) -> bool:
        """False if the workitem has ended, by us before we were killed or by somebody else, or is gone."""
        try:
            item = link.retrieve(row.uid)
        except WorkitemError:
            return True  # it was readable when it was claimed; the end is tried all the same
        if item is None:
            self._lose(row, "the worklist no longer has it")
        elif item.state == StepState.COMPLETED:
            self._move(row, Phase.COMPLETED)
        elif item.state == StepState.CANCELED:
            if row.reason is not None:
                self._move(row, Phase.CANCELED, Reason(row.reason), row.detail)
            else:
                self._lose(row, "somebody else cancelled it")
        else:
            return True
        return False

    def _end(self, link: WorklistLink, row: WorkitemClaim, ending: Ending) -> None:
        """COMPLETED with outputs, or CANCELED with a reason, which is written down before."""
        with self._records.session() as session:
            claims.move(session, row.id, Phase.HELD, ending.reason, ending.detail)
        try:
            item = link.retrieve(row.uid)
        except WorkitemError:
            item = None
        procedure = None if item is None else item.procedure
        update = report.ended(ending, self._station, procedure, row.claimed_at, now())
        state = StepState.COMPLETED if ending.reason is None else StepState.CANCELED
        reply = link.update(row.uid, row.transaction_uid, update)
        if reply.fate is Fate.DONE:
            reply = link.change_state(row.uid, row.transaction_uid, state)
        if reply.fate is Fate.DONE:
            self._move(row, Phase[state.name], ending.reason, ending.detail)
        elif reply.fate is Fate.GONE or row.attempts >= _MOST_ATTEMPTS:
            self._move(row, Phase.LOST, Reason.WORKITEM_LOST, f"it cannot be ended: {reply.detail}")
        else:
            self._refused(row, f"it cannot be ended: {reply.detail}")

    def _refused(self, row: WorkitemClaim, detail: str) -> None:
        """Tried again at the next poll."""
        with self._records.session() as session:
            held = session.get_one(WorkitemClaim, row.id)
            held.attempts = row.attempts + 1
            held.reason, held.detail = Reason.PEER_REFUSED, detail[:1000]
        _log.warning("workitem_refused", source=self._name, detail=detail, attempts=row.attempts + 1)

    def _report(self, link: WorklistLink, row: WorkitemClaim, standing: Standing) -> None:
        """Tell how far the work is, if that has changed; waiting jobs take the workitem's priority."""
        if standing.percent == row.progress:
            return
        with self._records.session() as session:
            inputs.hurry(session, row.inputs, Priority(row.priority))
        reply = link.update(row.uid, row.transaction_uid, report.progress(standing.percent, standing.text))
        with self._records.session() as session:
            held = session.get_one(WorkitemClaim, row.id)
            held.progress = standing.percent
            if reply.fate is not Fate.DONE:
                held.detail = f"progress was not taken: {reply.detail}"[:1000]

    def _look_for_work(self, link: WorklistLink) -> None:
        """Claim what is meant for us, the most urgent first, up to `at_once`."""
        room = self._worklist.at_once - len(self._open())
        if room <= 0:
            return
        found, unreadable = link.search(self._station, self._procedures)
        self._unreadable = "workitems of a search" if unreadable else ""
        with self._records.reading() as session:
            known = claims.known(session, self._name, [item.uid for item in found])
        for item in sorted(found, key=lambda one: one.priority):
            if room > 0 and item.uid not in known and (whole := self._wanted(link, item.uid)) is not None:
                room -= self._take(link, whole)
        self._tell_unreadable()

    def _wanted(self, link: WorklistLink, uid: str) -> Workitem | None:
        """The whole workitem, if it is one for us. The search may have taken no notice of what it was asked for."""
        try:
            item = link.retrieve(uid)
        except WorkitemError as error:
            self._unreadable = error.detail
            return None
        if item is None or item.state != StepState.SCHEDULED or not item.ready:
            return None
        return item if item.is_for(self._station, self._procedures) else None

    def _take(self, link: WorklistLink, item: Workitem) -> bool:
        """Claim one; whether it is ours."""
        try:
            with self._records.session() as session:
                claim_id = claims.begin(session, self._name, item, str(generate_uid(prefix=None)))
        except IntegrityError:
            return False  # another process of this node was faster
        with self._records.reading() as session:
            row = session.get_one(WorkitemClaim, claim_id)
        if item.problem:
            _log.warning("workitem_unusable", source=self._name, detail=item.problem)
        if not self._claim(link, row):
            return False
        self._carry_on(link, next(one for one in self._open() if one.id == claim_id))
        return True

    def _cancel_jobs(self, row: WorkitemClaim) -> None:
        with self._records.session() as session:
            others = [one for one in claims.open_claims(session, self._name) if one.id != row.id]
            inputs.cancel_jobs(session, row.inputs, {series for one in others for _, series in one.inputs})

    def _lose(self, row: WorkitemClaim, detail: str) -> None:
        """It is nobody's work any more: jobs that were only for it end."""
        self._cancel_jobs(row)
        self._move(row, Phase.LOST, Reason.WORKITEM_LOST, detail)

    def _move(self, row: WorkitemClaim, phase: Phase, reason: Reason | None = None, detail: str = "") -> None:
        with self._records.session() as session:
            claims.move(session, row.id, phase, reason, detail)
        _log.info("workitem", source=self._name, state=str(phase), reason=reason, detail=detail)

    def _tell_unreadable(self) -> None:
        """Log that there are workitems that cannot be read, once until there are none."""
        if self._unreadable and "unreadable" not in self._away:
            self._away.add("unreadable")
            _log.warning(
                "workitem_unreadable", source=self._name, reason=Reason.WORKITEM_UNUSABLE, detail=self._unreadable
            )
        elif not self._unreadable:
            self._away.discard("unreadable")

    def _tell(self, what: str, error: str = "", detail: str = "") -> None:
        """Log that something is wrong, or well again, once each."""
        if error and what not in self._away:
            self._away.add(what)
            _log.error(f"{what}_away", source=self._name, error=error, detail=detail)
        elif not error and what in self._away:
            self._away.remove(what)
            _log.info(f"{what}_back", source=self._name)
