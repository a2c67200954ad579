"""The loop that empties the outbox of messages: one lane a destination, so that none waits for another."""

from threading import Lock

import structlog
from pydantic import ValidationError

from config import Reason, Settings
from config.message_settings import (
    FhirDestination,
    Hl7Destination,
    MailDestination,
    MessageDestination,
    WebhookDestination,
)
from node import outbox
from node.circuit import Circuit
from node.database import Records
from node.dimse_link import AwayError
from node.messages import fhir, mail, mllp, rows, webhook
from node.messages.rows import Due
from node.outbox import Fate, Outcome
from node.records import Message

_log = structlog.get_logger(__name__)

_LEVELS = {Fate.STORED: 20, Fate.RETRY: 30, Fate.AWAY: 30, Fate.REFUSED: 40}
"""Levels of the standard library's logging."""


class Messenger:
    """Serves each destination with one message at a time; safe to call from many threads."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self._records, self._settings = records, settings
        self._timeout_s = settings.delivery.timeout_s
        self._hold_s = 60.0 + 4 * self._timeout_s
        self._busy: dict[str, Lock] = {}
        self._circuit = Circuit(records, settings.delivery, Message)

    def recover(self) -> None:
        """Give up the claims of a former life of this worker: it is dead, since this one runs."""
        with self._records.session() as session:
            claimed = outbox.give_up_claims(session, Message)
        if claimed:
            _log.warning("messages_of_a_dead_worker", count=claimed)

    def deliver(self, row_id: int) -> None:
        """Send all that is due at the destination of this message.

        Returns at once if the destination is being served already: whoever serves it takes this message too, or the
        reconciler issues it again.
        """
        with self._records.reading() as session:
            row = session.get(Message, row_id)
        if row is None:
            return
        lock = self._busy.setdefault(row.destination, Lock())
        if not lock.acquire(blocking=False):
            return
        try:
            while self._round(row.destination):
                pass
        finally:
            lock.release()

    def _round(self, name: str) -> bool:
        """Send what is due until something has to wait; True if there may be more."""
        receiver = self._settings.messages.destinations.get(name)
        if receiver is None:
            return False  # the reconciler refuses what is left
        with self._records.reading() as session:
            batch = rows.due(session, name)
        if not batch or not self._circuit.admit(name, self._hold_s):
            return False
        sent = False
        for item in batch:
            with self._records.session() as session:
                if not outbox.claim(session, item.row_id, self._hold_s, Message):
                    continue
            outcome = self._send(receiver, item)
            self._conclude(name, item, outcome)
            if outcome.fate is Fate.AWAY:
                self._circuit.away(name, outcome, item.row_id)
                return False
            sent = True
            if self._circuit.works(name):
                return True
        return sent

    def _send(self, receiver: MessageDestination, item: Due) -> Outcome:
        """One message; whatever goes wrong is the end of this attempt, not of the lane."""
        try:
            if isinstance(receiver, MailDestination):
                return mail.send(receiver, item.message_id, item.as_of, item.content, self._timeout_s)
            content = rows.said_to(receiver, item.content)
            if isinstance(receiver, WebhookDestination):
                return webhook.send(receiver, item.message_id, item.kind, content, self._timeout_s)
            if isinstance(receiver, Hl7Destination):
                return mllp.send(receiver, item.message_id, item.kind, content, self._timeout_s)
            assert isinstance(receiver, FhirDestination)
            return fhir.send(receiver, item.kind, content, self._timeout_s)
        except AwayError as error:
            return error.outcome
        except (ValidationError, KeyError) as error:
            detail = f"the row cannot be read ({type(error).__name__}): another version wrote it; fvlm-node rerun"
            return Outcome(Fate.REFUSED, Reason.INTERNAL, detail)
        except Exception as error:  # the text may quote what is in the message
            return Outcome(Fate.RETRY, Reason.INTERNAL, f"unexpected {type(error).__name__}")

    def _conclude(self, name: str, item: Due, outcome: Outcome) -> None:
        with self._records.session() as session:
            rows.record(session, item.row_id, outcome, self._settings.delivery)
        _log.log(
            _LEVELS[outcome.fate],
            "message",
            job=item.job_id,
            destination=name,
            kind=item.kind,
            fate=outcome.fate.name,
            reason=outcome.reason,
            detail=outcome.detail,
        )
