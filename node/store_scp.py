"""Storage SCP on pynetdicom: checks who calls, hands each data set as it was sent to the intake, answers after fsync.

pynetdicom's own receive waits for ever for a peer that stops inside a PDU and believes any PDU length; `_Receive`
bounds both.
"""

import socket
import threading
import time
from typing import Any

import structlog
from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom import sop_class as sop

from config import Reason
from config.settings import DicomSettings
from node.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.intake import CANNOT_UNDERSTAND, DATA_SET_MISMATCH, Intake, IntakeSession, Refused

_log = structlog.get_logger(__name__)

STORAGE_CLASSES = (
    sop.CTImageStorage,
    sop.EnhancedCTImageStorage,
    sop.LegacyConvertedEnhancedCTImageStorage,
    sop.MRImageStorage,
    sop.PositronEmissionTomographyImageStorage,
    sop.SecondaryCaptureImageStorage,
    sop.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    sop.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    sop.MultiFrameTrueColorSecondaryCaptureImageStorage,
    sop.BasicTextSRStorage,
    sop.EnhancedSRStorage,
    sop.ComprehensiveSRStorage,
    sop.Comprehensive3DSRStorage,
    sop.ExtensibleSRStorage,
    sop.ChestCADSRStorage,
    sop.ColonCADSRStorage,
    sop.XRayRadiationDoseSRStorage,
    sop.EnhancedXRayRadiationDoseSRStorage,
    sop.PatientRadiationDoseSRStorage,
    sop.SegmentationStorage,
    sop.LabelMapSegmentationStorage,
    sop.SurfaceSegmentationStorage,
    sop.ParametricMapStorage,
    sop.KeyObjectSelectionDocumentStorage,
    sop.GrayscaleSoftcopyPresentationStateStorage,
    sop.EncapsulatedPDFStorage,
    sop.EncapsulatedCDAStorage,
)
"""What senders may put into an association beside CT. Only CT is read; the rest ends as NOT_CT, visibly."""

_LONGEST_PDU = 1048576 + 6
"""Bytes; no PDU may be longer, whatever its length field says (the largest `max_pdu` of the settings)."""
_LONGEST_MESSAGE = 2**30
"""Bytes between two answers: pynetdicom keeps a data set in memory until it is whole."""
_ACCEPTED = 0x0000


class _Receive:
    """Takes the place of `AssociationSocket.recv`: as many bytes as asked for, within `timeout_s`, or OSError."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self.message_bytes = 0
        """Bytes since the last answer."""

    def __call__(self, count: int) -> bytearray:
        """`count` bytes, fewer if the peer closed. Raises OSError: too slow, too long, connection lost."""
        self.message_bytes += count
        if count > _LONGEST_PDU or self.message_bytes > _LONGEST_MESSAGE:
            raise ConnectionAbortedError("PDU or message too long")
        received = bytearray(count)
        view, done = memoryview(received), 0
        deadline = time.monotonic() + self._timeout_s
        while done < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("PDU did not come in time")
            self._connection.settimeout(left)
            size = self._connection.recv_into(view[done:])
            if size == 0:
                break
            done += size
        self._connection.settimeout(self._timeout_s)  # for sending: a peer that does not read
        view.release()
        del received[done:]
        return received


class StoreScp:
    """The listening storage SCP. `start` returns at once."""

    def __init__(self, settings: DicomSettings, intake: Intake) -> None:
        self._settings, self._intake = settings, intake
        self._sessions: dict[Any, IntakeSession] = {}
        self._receives: dict[Any, _Receive] = {}
        self._lock = threading.Lock()
        _config.LOG_HANDLER_LEVEL = "none"  # its handlers log what they see
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        self._ae = AE(settings.ae_title)
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(settings.accept_from)
        self._ae.maximum_associations = settings.max_associations
        self._ae.maximum_pdu_size = settings.max_pdu
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = settings.network_timeout_s
        self._ae.add_supported_context(sop.Verification)
        for storage in STORAGE_CLASSES:
            self._ae.add_supported_context(storage, ALL_TRANSFER_SYNTAXES)
        self._server: Any = None

    def start(self) -> int:
        """Listen; returns the port. Raises OSError if the address is taken."""
        self._server = self._ae.start_server(
            (self._settings.host, self._settings.port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._on_open),
                (evt.EVT_ACCEPTED, self._on_accepted),
                (evt.EVT_REJECTED, self._on_rejected),
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_CONN_CLOSE, self._on_close),
            ],
        )
        port: int = self._server.server_address[1]
        return port

    def stop(self, wait_s: float) -> None:
        """Take no more associations, give those that run `wait_s` seconds to end, abort the rest."""
        associations = self._server.active_associations
        self._server.shutdown()
        deadline = time.monotonic() + wait_s
        for association in associations:
            association.join(max(0.0, deadline - time.monotonic()))
        for association in associations:
            if association.is_alive():
                _log.warning("association_aborted", calling_ae=association.requestor.ae_title)
                association.abort()
        with self._lock:
            left = list(self._sessions.values())
            self._sessions.clear()
        for session in left:
            session.close()

    def _on_open(self, event: Any) -> None:
        transport = event.assoc.dul.socket
        connection: socket.socket = transport.socket
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        milliseconds = int(self._settings.network_timeout_s * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        connection.settimeout(self._settings.network_timeout_s)
        transport.recv = _Receive(connection, self._settings.network_timeout_s)
        with self._lock:
            self._receives[event.assoc] = transport.recv
        self._sweep()

    def _on_accepted(self, event: Any) -> None:
        requestor = event.assoc.requestor
        with self._lock:
            self._sessions[event.assoc] = self._intake.open(requestor.ae_title, self._settings.ae_title)
        _log.info("association_accepted", calling_ae=requestor.ae_title, host=requestor.address)

    def _on_rejected(self, event: Any) -> None:
        requestor = event.assoc.requestor
        called = requestor.primitive.called_ae_title
        if called != self._settings.ae_title:
            reason = Reason.WRONG_CALLED_AE
        elif requestor.ae_title not in self._settings.accept_from:
            reason = Reason.UNKNOWN_AE
        else:
            reason = Reason.TOO_MANY_ASSOCIATIONS
        _log.warning(
            "association_rejected",
            reason=reason,
            host=requestor.address,
            calling_ae=requestor.ae_title,
            called_ae=called,
        )

    def _on_store(self, event: Any) -> Dataset:
        request, context = event.request, event.context
        with self._lock:
            session = self._sessions.get(event.assoc)
            receive = self._receives.get(event.assoc)
        if receive is not None:
            receive.message_bytes = 0
        sop_class, data_set = str(request.AffectedSOPClassUID or ""), request.DataSet
        if session is None:
            return _response(CANNOT_UNDERSTAND, "the association has ended")
        if data_set is None:
            return _response(CANNOT_UNDERSTAND, "no data set")
        if sop_class != context.abstract_syntax:
            return _response(DATA_SET_MISMATCH, "SOP class is not the one of the presentation context")
        answer = session.store(
            sop_class, str(request.AffectedSOPInstanceUID or ""), str(context.transfer_syntax), data_set.getbuffer()
        )
        return _response(answer.status, answer.comment) if isinstance(answer, Refused) else _response(_ACCEPTED)

    def _on_close(self, event: Any) -> None:
        self._forget(event.assoc)

    def _sweep(self) -> None:
        """End the sessions of associations whose threads died without telling."""
        with self._lock:
            dead = [association for association in self._receives if association.ident and not association.is_alive()]
        for association in dead:
            self._forget(association)

    def _forget(self, association: Any) -> None:
        with self._lock:
            session = self._sessions.pop(association, None)
            self._receives.pop(association, None)
        if session is not None:
            session.close()


def _response(status: int, comment: str = "") -> Dataset:
    """C-STORE response elements (PS3.7 section 9.1.1.1, C.5)."""
    response = Dataset()
    response.Status = status
    if comment:
        response.ErrorComment = comment[:64]
    return response
