"""One association with a destination that is a DICOM node: C-STORE."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from config import Reason
from config.settings import Destination
from node.outbox import Fate, Outcome
from node.scu import associate, cut, tls_failure
from node.store_status import judge
from node.tls import TlsError

SLOWEST = 65536
"""Bytes a second that a destination must at least take, beyond the time-out."""
_RETRY = "make it again with: fvlm-node retry"


class AwayError(ConnectionError):
    """The destination takes nothing now; `outcome` says why (its fate is AWAY)."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.outcome = Outcome(Fate.AWAY, reason, detail)


class DimseLink:
    """A context manager."""

    def __init__(self, destination: Destination, sop_classes: Iterable[str], calling: str, timeout_s: float) -> None:
        """Raises AwayError if no association comes about."""
        ae = AE(ae_title=calling)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
        for sop_class in sorted(set(sop_classes)):
            ae.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        self._timeout_s = timeout_s
        self._association = open_association(ae, destination)
        self._accepted = {context.abstract_syntax for context in self._association.accepted_contexts}
        require(self._association, destination)

    @property
    def alive(self) -> bool:
        return bool(self._association.is_established)

    def store(self, path: Path, sop_class: str) -> Outcome:
        """C-STORE one file."""
        if sop_class not in self._accepted:
            taken = ", ".join(sorted(UID(accepted).name for accepted in self._accepted)) or "none of what is sent"
            detail = f"the peer does not accept {UID(sop_class).name}; it accepts: {taken}"
            return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, detail)
        try:
            dataset = dcmread(path)
            # The time-out runs from when pynetdicom has queued the object, not from when it is on its way.
            self._association.dimse_timeout = self._timeout_s + path.stat().st_size / SLOWEST
        except (OSError, InvalidDicomError) as error:
            return Outcome(Fate.REFUSED, Reason.INTERNAL, f"result file: {type(error).__name__}; {_RETRY}")
        try:
            answer = self._association.send_c_store(dataset)
        except (RuntimeError, ValueError) as error:
            if not self.alive:
                return judge(None)
            return Outcome(Fate.REFUSED, Reason.INVALID_OBJECT, f"cannot be sent: {type(error).__name__}")
        if "Status" not in answer:
            cut(self._association)  # it may not know yet that it has ended; a release would wait
            return judge(None)
        return judge(answer.Status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self._association.release()


def open_association(ae: AE, destination: Destination, handlers: Sequence[Any] = ()) -> Any:
    """An association with a destination. Raises AwayError if the files for TLS cannot be used; see `require`."""
    try:
        return associate(
            ae, destination.host, destination.port, destination.ae_title, handlers=handlers, tls=destination.tls
        )
    except TlsError as error:
        raise AwayError(Reason.INTERNAL, str(error)) from error


def require(association: Any, destination: Destination) -> None:
    """AwayError unless the association is established, or came about but for its contexts, none of which was taken."""
    if association.is_established or association.rejected_contexts:
        return
    where = destination.where
    if association.is_rejected:
        answer = association.acceptor.primitive
        detail = f"{where} rejects the association: {answer.result_str}, {answer.reason_str}"
        raise AwayError(Reason.PEER_REFUSED, detail)
    if (reason := tls_failure(association)) is not None:
        raise AwayError(reason, f"{where}: {reason.meaning}")
    raise AwayError(Reason.PEER_UNREACHABLE, f"{where} does not answer")
