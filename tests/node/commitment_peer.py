"""A sender that asks for storage commitment, with pynetdicom: it asks, and it listens for reports."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from spool_data import Receiver

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"


@dataclass(frozen=True)
class Told:
    """One N-EVENT-REPORT."""

    event: int
    transaction: str
    kept: frozenset[str]
    failed: dict[str, int]
    """SOP Instance UID -> Failure Reason."""


@dataclass
class Reports:
    """What was reported, and how the next reports are answered."""

    told: list[Told] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Status of each answer in turn, then success."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def handle(self, event: Any) -> tuple[int, Dataset]:
        info = event.event_information
        told = Told(
            event.event_type,
            str(info.TransactionUID),
            frozenset(str(item.ReferencedSOPInstanceUID) for item in info.get("ReferencedSOPSequence", ())),
            {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in info.get("FailedSOPSequence", ())},
        )
        with self._changed:
            self.told.append(told)
            self._changed.notify_all()
            return (self.statuses.pop(0) if self.statuses else 0x0000), Dataset()

    def wait(self, count: int = 1, seconds: float = 60.0) -> list[Told]:
        """The reports when there are `count`; AssertionError if they do not come."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while len(self.told) < count:
                assert self._changed.wait(max(0.0, deadline - time.monotonic())), f"{len(self.told)} reports"
            return list(self.told)


def action(datasets: Sequence[Dataset], transaction: str | None = None) -> Dataset:
    """The data set of a request."""
    asked = Dataset()
    asked.TransactionUID = transaction or generate_uid()
    asked.ReferencedSOPSequence = []
    for dataset in datasets:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
        asked.ReferencedSOPSequence.append(item)
    return asked


def associate(running: Receiver, reports: Reports) -> Any:
    """An association for images and storage commitment."""
    ae = AE(ae_title="STORESCU")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    ae.add_requested_context(STORAGE_COMMITMENT)
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.handle)]
    association = ae.associate("127.0.0.1", running.port, ae_title="FVLM", evt_handlers=handlers)
    assert association.is_established
    return association


def send_action(association: Any, asked: Dataset | None, kind: int = 1, instance: str = INSTANCE) -> Any:
    """Status of the answer."""
    status, _ = association.send_n_action(asked, kind, STORAGE_COMMITMENT, instance)
    return status


@contextmanager
def listener(reports: Reports, port: int = 0) -> Iterator[int]:
    """Listens for reports on associations of their own, as STORESCU; its port."""
    ae = AE(ae_title="STORESCU")
    ae.require_called_aet = True
    ae.add_supported_context(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.handle)])
    assert server is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
