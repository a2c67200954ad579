"""The loop that empties the outbox: one lane a destination, so that none waits for another. Sends, then asks."""

from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Protocol, Self

import structlog
from pydicom.errors import InvalidDicomError

from config import Reason, Settings
from config.settings import AnyDestination, Destination, WebDestination
from node import commitment_due, outbox
from node.circuit import Circuit
from node.commitment_due import Question
from node.commitment_result import take_report
from node.commitment_scu import CommitmentLink
from node.database import Records
from node.dimse_link import AwayError, DimseLink
from node.outbox import Due, Fate, Outcome
from node.records import Delivery, now
from node.web_link import WebLink

_log = structlog.get_logger(__name__)

_GONE = "the destination is no longer in the settings"
_TRANSIENT_ACTION = {0x0110, 0x0213}
"""N-ACTION statuses that a later request may mend: processing failure, resource limitation (PS3.7 annex C)."""
_LEVELS = {Fate.STORED: 20, Fate.RETRY: 30, Fate.AWAY: 30, Fate.REFUSED: 40}
"""Levels of the standard library's logging."""


class Link(Protocol):
    """A way to one destination, open; a context manager."""

    @property
    def alive(self) -> bool:
        """False: nothing more can be sent over it."""

    def store(self, path: Path, sop_class: str) -> Outcome:
        """Send one file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Courier:
    """Serves each destination with one association at a time; safe to call from many threads."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self._records, self._settings, self._delivery = records, settings, settings.delivery
        self._results = settings.results_dir
        self._hold_s = 60.0 + 4 * settings.delivery.timeout_s
        self._busy: dict[str, Lock] = {}
        self._circuit = Circuit(records, settings.delivery, Delivery)

    def recover(self) -> None:
        """Give up the claims of a former life of this worker: it is dead, since this one runs."""
        with self._records.session() as session:
            claimed = outbox.give_up_claims(session)
        if claimed:
            _log.warning("deliveries_of_a_dead_worker", deliveries=claimed)

    def deliver(self, delivery_id: int) -> None:
        """Send all that is due at the destination of this object, then ask for the commitment that is due there.

        Returns at once if the destination is being served already: whoever serves it takes this object too, or the
        reconciler issues it again.
        """
        with self._records.reading() as session:
            row = session.get(Delivery, delivery_id)
            if row is None:
                return
            name = row.destination
        lock = self._busy.setdefault(name, Lock())
        if not lock.acquire(blocking=False):
            return
        try:
            while self._round(name):
                pass
        finally:
            lock.release()

    def _round(self, name: str) -> bool:
        """One association's worth of sending, or of asking; True if there may be more."""
        with self._records.reading() as session:
            batch = outbox.due(session, name)
            questions = [] if batch else commitment_due.questions(session, name)
        destination = self._settings.destinations.get(name)
        if destination is None:
            return self._abandon(name, batch, questions)
        questions = [question for question in questions if self._stands(name, destination, question)]
        if not batch and not questions:
            return False
        if not self._circuit.admit(name, self._hold_s):
            return False
        try:
            if batch:
                with self._open(destination, batch) as link:
                    return self._send(name, destination.commitment, link, batch)
            if isinstance(destination, Destination):
                return self._ask(name, destination, questions)
            return self._look(name, destination, questions)
        except AwayError as error:
            self._circuit.away(name, error.outcome)
            return False

    def _open(self, destination: AnyDestination, batch: list[Due]) -> Link:
        """Raises AwayError."""
        timeout_s = self._delivery.timeout_s
        if isinstance(destination, WebDestination):
            return WebLink(destination, timeout_s)
        classes = {item.sop_class_uid for item in batch}
        return DimseLink(destination, classes, self._settings.dicom.ae_title, timeout_s)

    def _send(self, name: str, asked: bool, link: Link, batch: list[Due]) -> bool:
        """Send until something has to be repeated; True: go on with a new association."""
        sent = False
        for item in batch:
            with self._records.session() as session:
                if not outbox.claim(session, item.delivery_id, self._hold_s):
                    continue
            outcome = link.store(self._results / item.path, item.sop_class_uid)
            self._conclude(name, item, outcome, asked)
            sent = True
            if outcome.fate is Fate.AWAY:
                self._circuit.away(name, outcome, item.delivery_id)
                return False
            if self._circuit.works(name) or outcome.fate is Fate.RETRY or not link.alive:
                return True
        return sent

    def _conclude(self, name: str, item: Due, outcome: Outcome, asked: bool = False) -> None:
        with self._records.session() as session:
            outbox.record(session, item.delivery_id, outcome, self._delivery, asked)
        _log.log(
            _LEVELS[outcome.fate],
            "delivery",
            job=item.job_id,
            delivery=item.delivery_id,
            destination=name,
            kind=item.kind,
            fate=outcome.fate.name,
            reason=outcome.reason,
            detail=outcome.detail,
        )

    def _ask(self, name: str, destination: Destination, questions: list[Question]) -> bool:
        """Storage commitment: N-ACTION for each question, then a while for the answers on the same association."""
        with CommitmentLink(destination, self._settings.dicom.ae_title, self._delivery.timeout_s, self._take) as link:
            if not link.offered:
                self._circuit.works(name)
                detail = "the destination does not accept the Storage Commitment Push Model"
                for question in questions:
                    self._unanswered(name, question, Reason.COMMITMENT_UNSUPPORTED, detail, None)
                return True
            asked = 0
            for question in questions:
                with self._records.session() as session:
                    until = commitment_due.next_question(question.asks + 1, self._delivery)
                    if not commitment_due.claim(session, question, until):
                        continue
                    transaction_uid = commitment_due.open_transaction(session, question.job_id, name)
                status = link.ask(transaction_uid, question)
                if status is None:
                    # It may well take objects: results must not wait for a destination that is silent about this only.
                    detail = "the destination did not answer N-ACTION"
                    self._unanswered(name, question, Reason.PEER_UNREACHABLE, detail, until)
                    return True
                self._circuit.works(name)
                if status == 0x0000:
                    asked += 1
                    _log.info("commitment_asked", job=question.job_id, destination=name, objects=len(question.items))
                else:
                    text = f"N-ACTION status 0x{status:04X}"
                    later = until if status in _TRANSIENT_ACTION else None
                    self._unanswered(name, question, Reason.COMMITMENT_REFUSED, text, later)
            link.wait(asked, self._delivery.commitment_wait_s)
        return True

    def _take(self, event_type: int, encoded: bytes, transfer_syntax: str) -> int:
        return take_report(self._records, self._delivery, event_type, encoded, transfer_syntax)

    def _look(self, name: str, destination: WebDestination, questions: list[Question]) -> bool:
        """A DICOMweb service has no storage commitment: it is asked by QIDO-RS whether it lists the objects."""
        with WebLink(destination, self._delivery.timeout_s) as link:
            for question in questions:
                with self._records.session() as session:
                    again = commitment_due.next_question(question.asks + 1, self._delivery)
                    if not commitment_due.claim(session, question, again):
                        continue
                    asked_at = now()
                kept, missing = [], {}
                try:
                    for item in question.items:
                        listed = link.lists(self._results / item.path)
                        if listed is None:
                            break
                        if listed:
                            kept.append(item.sop_instance_uid)
                        else:
                            missing[item.sop_instance_uid] = 0x0112
                except AwayError as error:
                    retry = outbox.next_attempt(question.asks + 1, self._delivery)
                    self._unanswered(name, question, Reason.PEER_UNREACHABLE, error.outcome.detail, retry)
                    raise
                except (OSError, InvalidDicomError, AttributeError) as error:
                    detail = f"result file: {type(error).__name__}"
                    self._unanswered(name, question, Reason.INTERNAL, detail, None)
                    continue
                self._circuit.works(name)
                if len(kept) + len(missing) < len(question.items):
                    detail = "the service offers no QIDO-RS search for instances"
                    self._unanswered(name, question, Reason.COMMITMENT_UNSUPPORTED, detail, None)
                    continue
                with self._records.session() as session:
                    commitment_due.answered(
                        session,
                        question.job_id,
                        name,
                        asked_at,
                        kept=kept,
                        failed=missing,
                        how="QIDO-RS",
                        settings=self._delivery,
                    )
                _log.info(
                    "commitment_looked_up", job=question.job_id, destination=name, objects=len(kept), count=len(missing)
                )
        return True

    def _stands(self, name: str, destination: AnyDestination, question: Question) -> bool:
        """Whether a question is still to be asked: not when commitment was switched off, or was asked often enough."""
        if not destination.commitment:
            with self._records.session() as session:
                commitment_due.not_asked(session, question)
            return False
        if question.asks < self._delivery.commitment_attempts:
            return True
        detail = f"no answer to {question.asks} requests for commitment"
        self._unanswered(name, question, Reason.COMMITMENT_TIMEOUT, detail, None)
        return False

    def _unanswered(self, name: str, question: Question, reason: Reason, detail: str, again: datetime | None) -> None:
        with self._records.session() as session:
            commitment_due.not_answered(session, question, reason, detail, again)
        _log.warning(
            "no_commitment",
            job=question.job_id,
            destination=name,
            reason=reason,
            detail=detail,
            next_attempt=again and again.isoformat(timespec="seconds"),
        )

    def _abandon(self, name: str, batch: list[Due], questions: list[Question]) -> bool:
        """The destination was taken out of the settings: what is open is refused, what is asked is asked no more."""
        refused = Outcome(Fate.REFUSED, Reason.PEER_REFUSED, _GONE)
        concluded = False
        for item in batch:
            with self._records.session() as session:
                claimed = outbox.claim(session, item.delivery_id, self._hold_s)
            if claimed:
                self._conclude(name, item, refused)
                concluded = True
        for question in questions:
            self._unanswered(name, question, Reason.COMMITMENT_TIMEOUT, _GONE, None)
        self._circuit.forget(name)
        return concluded
