"""Sending results: a storage SCU for one destination, and the loop that empties its part of the outbox."""

from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Self

import structlog
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from config import Reason, Settings
from config.settings import Destination
from node import outbox
from node.outbox import Due, Fate, Outcome
from node.records import Delivery, Records
from node.scu import associate

_log = structlog.get_logger(__name__)

_PERMANENT = {0x0117, 0x0122, 0x0124}
"""Invalid SOP instance, SOP class not supported, not authorized (PS3.7 annex C): a repeat does not mend it."""
_RETRY = "make it again with: fvlm-node retry"
_DUPLICATE_INSTANCE = 0x0111
"""The peer has the instance already (PS3.7 C.5.8)."""


def judge(status: int | None) -> Outcome:
    """What a C-STORE status means for the outbox (DICOM PS3.4 table B.2-1, PS3.7 annex C); None: no answer came."""
    if status is None:
        return Outcome(Fate.RETRY, Reason.PEER_UNREACHABLE, "the peer did not answer C-STORE")
    text = f"C-STORE status 0x{status:04X}"
    if status == 0x0000:
        return Outcome(Fate.STORED)
    if status & 0xF000 == 0xB000 or status in {_DUPLICATE_INSTANCE, 0x0001, 0x0107, 0x0116}:
        return Outcome(Fate.STORED, detail=text)
    if status & 0xFF00 == 0xA900 or status & 0xF000 == 0xC000 or status in _PERMANENT:
        return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, text)
    return Outcome(Fate.RETRY, Reason.PEER_REFUSED, text)


class UnreachableError(ConnectionError):
    """No association with the destination; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


class Link:
    """One association with one destination; a context manager."""

    def __init__(self, destination: Destination, sop_classes: Iterable[str], calling: str, timeout_s: float) -> None:
        """Raises UnreachableError if no association comes about."""
        ae = AE(ae_title=calling)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
        for sop_class in sorted(set(sop_classes)):
            ae.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        self._association = associate(ae, destination.host, destination.port, destination.ae_title)
        self._accepted = {context.abstract_syntax for context in self._association.accepted_contexts}
        if self._association.is_established or self._association.rejected_contexts:
            return
        where = f"{destination.ae_title} at {destination.host}:{destination.port}"
        if self._association.is_rejected:
            answer = self._association.acceptor.primitive
            detail = f"{where} rejects the association: {answer.result_str}, {answer.reason_str}"
            raise UnreachableError(Outcome(Fate.RETRY, Reason.PEER_REFUSED, detail))
        raise UnreachableError(Outcome(Fate.RETRY, Reason.PEER_UNREACHABLE, f"{where} does not answer"))

    @property
    def alive(self) -> bool:
        return bool(self._association.is_established)

    def store(self, path: Path, sop_class: str) -> Outcome:
        """C-STORE one file."""
        if sop_class not in self._accepted:
            return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, f"the peer does not accept {UID(sop_class).name}")
        try:
            dataset = dcmread(path)
        except (OSError, InvalidDicomError) as error:
            return Outcome(Fate.REFUSED, Reason.INTERNAL, f"result file: {type(error).__name__}; {_RETRY}")
        try:
            answer = self._association.send_c_store(dataset)
        except (RuntimeError, ValueError) as error:
            if not self.alive:
                return judge(None)
            return Outcome(Fate.REFUSED, Reason.INVALID_OBJECT, f"cannot be sent: {type(error).__name__}")
        if "Status" not in answer:
            self._association.abort()  # it may not know yet that it has ended; a release would wait
            return judge(None)
        return judge(answer.Status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self._association.release()


class Courier:
    """Empties the outbox, one association at a time for each destination; safe to call from many threads."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self._records, self._settings = records, settings
        self._results = settings.results_dir
        self._hold_s = 60.0 + 4 * settings.delivery.timeout_s
        self._busy: dict[str, Lock] = {}

    def recover(self) -> None:
        """Give up the claims of a former life of this worker: it is dead, since this one runs."""
        with self._records.session() as session:
            claimed = outbox.give_up_claims(session)
        if claimed:
            _log.warning("deliveries_of_a_dead_worker", deliveries=claimed)

    def deliver(self, delivery_id: int) -> None:
        """Send this object, and with it all that is due at its destination.

        Returns at once if the destination is being served already: whoever serves it takes this object too, or the
        reconciler issues it again.
        """
        with self._records.reading() as session:
            row = session.get(Delivery, delivery_id)
            if row is None or row.sent_at is not None or row.refused:
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
        """One association's worth; True if there may be more."""
        with self._records.reading() as session:
            batch = outbox.due(session, name)
        if not batch:
            return False
        destination = self._settings.destinations.get(name)
        if destination is None:
            gone = Outcome(Fate.REFUSED, Reason.PEER_REFUSED, "the destination is no longer in the settings")
            claimed = [item for item in batch if self._claim(item)]
            for item in claimed:
                self._conclude(name, item, gone)
            return bool(claimed)
        held = next((item for item in batch if self._claim(item)), None)
        if held is None:
            return False
        try:
            link = Link(
                destination,
                {item.sop_class_uid for item in batch},
                self._settings.dicom.ae_title,
                self._settings.delivery.timeout_s,
            )
        except UnreachableError as error:
            self._back_off(name, held, error.outcome)
            return False
        with link:
            return self._send(name, link, held, batch[batch.index(held) + 1 :])

    def _send(self, name: str, link: Link, first: Due, rest: list[Due]) -> bool:
        """Send over one association until something has to be repeated; True: go on with a new association."""
        item, waiting = first, iter(rest)
        while True:
            outcome = link.store(self._results / item.path, item.sop_class_uid)
            self._conclude(name, item, outcome)
            if outcome.fate is Fate.RETRY:
                return True
            following = next((other for other in waiting if self._claim(other)), None)
            if following is None:
                return True
            item = following

    def _claim(self, item: Due) -> bool:
        with self._records.session() as session:
            return outbox.claim(session, item.delivery_id, self._hold_s)

    def _conclude(self, name: str, item: Due, outcome: Outcome) -> None:
        with self._records.session() as session:
            outbox.record(session, item.delivery_id, outcome, self._settings.delivery)
            if outcome.fate is Fate.STORED:
                outbox.revive(session, name)
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

    def _back_off(self, name: str, item: Due, outcome: Outcome) -> None:
        with self._records.session() as session:
            outbox.record(session, item.delivery_id, outcome, self._settings.delivery)
            until = outbox.postpone(session, name, outcome, self._settings.delivery)
        _log.warning(
            "destination_unreachable",
            destination=name,
            reason=outcome.reason,
            detail=outcome.detail,
            next_attempt=until.isoformat(timespec="seconds"),
        )


_LEVELS = {Fate.STORED: 20, Fate.RETRY: 30, Fate.REFUSED: 40}
"""Levels of the standard library's logging."""
