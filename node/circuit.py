"""The breakers of destinations, as somebody uses them who empties an outbox: `node.breaker` with log and waits."""

import structlog

from config.settings import DeliverySettings
from node import breaker, outbox
from node.database import Records
from node.outbox import Outcome, Rows

_log = structlog.get_logger(__name__)


class Circuit:
    """Of all destinations of one outbox; safe to use from many threads, each for its own destination."""

    def __init__(self, records: Records, settings: DeliverySettings, rows: Rows) -> None:
        self._records, self._settings, self._rows = records, settings, rows
        self._held_up: dict[str, list[int]] = {}
        """Destination -> rows that were tried in vain while it was known to be away: not their fault."""

    def admit(self, name: str, hold_s: float) -> bool:
        """Whether the destination may be called now (`node.breaker.admit`)."""
        with self._records.session() as session:
            return breaker.admit(session, name, hold_s)

    def works(self, name: str) -> bool:
        """True if it was away: what it held up is due again, so that everything goes out in order of priority."""
        held_up = self._held_up.pop(name, [])
        with self._records.session() as session:
            shut = breaker.shut(session, name)
            if held_up:
                outbox.wait_no_longer(session, held_up, self._rows)
        if shut:
            _log.info("destination_back", destination=name)
        return shut

    def away(self, name: str, outcome: Outcome, row_id: int | None = None) -> None:
        """It took nothing; `row_id` is what it was tried with."""
        with self._records.session() as session:
            row = breaker.trip(session, name, outcome.reason, outcome.detail)
            row.next_attempt_at = outbox.next_attempt(row.failures, self._settings)
            failures, until = row.failures, row.next_attempt_at
        _log.warning(
            "destination_away",
            destination=name,
            reason=outcome.reason,
            detail=outcome.detail,
            next_attempt=until.isoformat(timespec="seconds"),
        )
        if row_id is not None and failures > 1:
            self._held_up.setdefault(name, []).append(row_id)

    def forget(self, name: str) -> None:
        """The destination is no longer in the settings."""
        with self._records.session() as session:
            breaker.shut(session, name)
