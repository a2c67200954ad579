"""Asking a DICOM node for storage commitment: N-ACTION, and the answer if it comes on the same association."""

import time
from collections.abc import Callable
from threading import Condition
from typing import Any, Self

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from config.settings import Destination
from node.commitment_due import Question
from node.dimse_link import open_association, require
from node.scu import cut

_REQUEST_COMMITMENT = 1
"""Action Type ID (PS3.4 table J.3-2)."""
_LOOK_S = 0.2
"""Longest time between two looks at whether the association still stands, seconds."""


class CommitmentLink:
    """One association in which commitment is asked for; a context manager."""

    def __init__(
        self, destination: Destination, calling: str, timeout_s: float, take: Callable[[int, bytes, str], int]
    ) -> None:
        """`take` gets event type, data set and transfer syntax of each N-EVENT-REPORT that comes; its status is the
        answer. Raises AwayError if no association comes about.
        """
        ae = AE(ae_title=calling)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
        ae.add_requested_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        self._take, self._reports, self._came = take, 0, Condition()
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report)]
        self._association = open_association(ae, destination, handlers)
        require(self._association, destination)

    @property
    def alive(self) -> bool:
        return bool(self._association.is_established)

    @property
    def offered(self) -> bool:
        """Whether the destination accepts the service at all."""
        return bool(self._association.accepted_contexts)

    def ask(self, transaction_uid: str, question: Question) -> int | None:
        """N-ACTION; its status, None if no answer came (the association has ended then)."""
        information = Dataset()
        information.TransactionUID = transaction_uid
        information.ReferencedSOPSequence = [_reference(i.sop_class_uid, i.sop_instance_uid) for i in question.items]
        try:
            answer, _ = self._association.send_n_action(
                information, _REQUEST_COMMITMENT, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except RuntimeError:  # the association has ended meanwhile
            return None
        if "Status" not in answer:
            cut(self._association)
            return None
        return int(answer.Status)

    def wait(self, reports: int, seconds: float) -> None:
        """Keep the association open until so many reports have come in it, but not for longer than that."""
        deadline = time.monotonic() + seconds
        with self._came:
            while self._reports < reports and self.alive and (left := deadline - time.monotonic()) > 0:
                self._came.wait(min(left, _LOOK_S))

    def _report(self, event: evt.Event) -> tuple[int, None]:
        encoded = event.request.EventInformation
        status = self._take(
            int(event.event_type), encoded.getvalue() if encoded else b"", str(event.context.transfer_syntax)
        )
        with self._came:
            self._reports += 1
            self._came.notify_all()
        return status, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self._association.release()


def _reference(sop_class: str, sop_instance: str) -> Dataset:
    item: Any = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item  # type: ignore[no-any-return]
