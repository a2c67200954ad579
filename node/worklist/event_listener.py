"""The events of a DIMSE worklist: the node subscribes, and the worklist calls back (PS3.4 annex CC.2.3 and CC.2.4).

While it does, work is taken at once and cancel requests are heard. While it does not, the worklist is polled.
"""

import time
from collections.abc import Callable
from threading import Event
from typing import Any

import structlog
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import UnifiedProcedureStepEvent, UnifiedProcedureStepPush, UnifiedProcedureStepWatch

from config.settings import Destination
from config.worklist_settings import DimseWorklist
from ct.part10 import is_uid
from node.dimse_link import AwayError, open_association, require
from node.worklist.events import CANCEL_REQUESTED, GLOBAL_SUBSCRIPTION, PROGRESS_REPORT, Notice

_log = structlog.get_logger(__name__)

_SUBSCRIBE = 3
"""Action Type ID (PS3.4 table CC.2.3-1)."""
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_SUCCESS, _DELETION_LOCK_NOT_GRANTED = 0x0000, 0xB301
_RENEW_S = 600.0
"""Seconds after which the subscription is asked for again: the worklist may have lost it."""
_LOOK_S = 0.5


class EventListener:
    """Listens for the events of one worklist; run it in a thread."""

    def __init__(
        self,
        name: str,
        worklist: DimseWorklist,
        calling: str,
        host: str,
        timeout_s: float,
        take: Callable[[Notice], None],
    ) -> None:
        """`host`: address to listen on. `take` is called for each event, and when a subscription has come about."""
        self._name, self._worklist, self._calling, self._host, self._timeout_s, self._take = (
            name, worklist, calling, host, timeout_s, take
        )  # fmt: skip
        self._told: str | None = None

    def run(self, ended: Event) -> None:
        """Until `ended` is set. A port that cannot be had is tried again."""
        while not ended.is_set():
            try:
                server = self._listen()
            except OSError as error:
                self._tell(f"port {self._worklist.events_port}: {type(error).__name__}")
                ended.wait(self._worklist.poll_s)
                continue
            try:
                self._stay_subscribed(ended)
            finally:
                server.shutdown()

    def _listen(self) -> Any:
        """Only the worklist may call. Raises OSError."""
        ae = AE(ae_title=self._worklist.events_ae_title)
        ae.require_called_aet, ae.require_calling_aet = True, [self._worklist.ae_title]
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._timeout_s
        ae.maximum_associations = 4
        ae.add_supported_context(UnifiedProcedureStepEvent, _SYNTAXES, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report)]
        return ae.start_server((self._host, self._worklist.events_port), block=False, evt_handlers=handlers)

    def _stay_subscribed(self, ended: Event) -> None:
        due = time.monotonic()
        while not ended.wait(_LOOK_S if time.monotonic() < due else 0):
            if time.monotonic() < due:
                continue
            error = self._subscribe()
            self._tell(error)
            due = time.monotonic() + (self._worklist.poll_s if error else _RENEW_S)
            if not error:
                self._take(Notice())

    def _subscribe(self) -> str:
        """To all workitems, those of later too, without a deletion lock; what went wrong, or nothing."""
        ae = AE(ae_title=self._calling)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._timeout_s
        ae.add_requested_context(UnifiedProcedureStepWatch, _SYNTAXES)
        peer = Destination(
            ae_title=self._worklist.ae_title, host=self._worklist.host, port=self._worklist.port, tls=self._worklist.tls
        )
        information = Dataset()
        information.ReceivingAE, information.DeletionLock = self._worklist.events_ae_title, "FALSE"
        try:
            association = open_association(ae, peer)
            require(association, peer)
        except AwayError as error:
            return str(error)
        if not association.is_established:
            return "it does not offer Unified Procedure Step Watch"
        try:
            answer, _ = association.send_n_action(
                information,
                _SUBSCRIBE,
                UnifiedProcedureStepPush,
                GLOBAL_SUBSCRIPTION,
                meta_uid=UnifiedProcedureStepWatch,
            )
        except (RuntimeError, ValueError) as error:
            return f"the subscription was not answered ({type(error).__name__})"
        finally:
            if association.is_established:
                association.release()
        status = answer.get("Status")
        if status in (_SUCCESS, _DELETION_LOCK_NOT_GRANTED):
            return ""
        return "the subscription was not answered" if status is None else f"it is refused: status 0x{status:04X}"

    def _report(self, event: evt.Event) -> tuple[int, None]:
        """What it means is looked up in the worklist; only whose cancellation is asked for is taken from it."""
        uid = str(event.request.AffectedSOPInstanceUID)
        if event.event_type == CANCEL_REQUESTED and is_uid(uid):
            self._take(Notice(cancel=uid))
        elif event.event_type != PROGRESS_REPORT:
            self._take(Notice())
        return _SUCCESS, None

    def _tell(self, error: str) -> None:
        """Once each time that it breaks or comes about."""
        if error and error != self._told:
            _log.warning("events_away", source=self._name, detail=error)
        elif not error and self._told != "":
            _log.info("events_subscribed", source=self._name)
        self._told = error
