"""Archives that receive results: a real Orthanc, and a scripted one that misbehaves as a test wants it."""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Self

from peers import Orthanc
from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from node.scu import associate

COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""SOP Instance UID of the Storage Commitment Push Model (PS3.4 J.3.5)."""


class OrthancView:
    """The results in an Orthanc; what was seen once is not fetched again."""

    def __init__(self, orthanc: Orthanc) -> None:
        self._url = f"http://127.0.0.1:{orthanc.http_port}"
        self._seen: dict[str, Dataset] = {}

    def results(self) -> list[Dataset]:
        """Every instance in it."""
        for name in json.loads(self._get("/instances")):
            if name not in self._seen:
                self._seen[name] = dcmread(BytesIO(self._get(f"/instances/{name}/file")))
        return list(self._seen.values())

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._url + path, timeout=30) as answer:
            return bytes(answer.read())


Answer = Callable[[evt.Event], int | None]
"""C-STORE status, or None to abort the association instead of an answer."""


@dataclass
class ScriptedPacs:
    """A storage and storage commitment SCP. `on_store` decides over each object; `commits` over each request."""

    ae_title: str = "SCRIPTED"
    on_store: Answer = lambda _: 0x0000
    commits: bool = True
    """False: N-EVENT-REPORT says for every object that the commitment failed (PS3.4 J.3.3)."""
    port: int = 0
    kept: dict[str, Dataset] = field(default_factory=dict)
    stores: Counter[str] = field(default_factory=Counter)
    """SOP Instance UID -> how often it was asked to store it."""
    commitments: list[list[str]] = field(default_factory=list)
    """SOP Instance UIDs of each commitment request."""
    _server: Any = None

    def results(self) -> list[Dataset]:
        """What it has kept."""
        return list(self.kept.values())

    def start(self) -> Self:
        """Listen; on the same port as before if it listened before."""
        ae = AE(ae_title=self.ae_title)
        ae.maximum_pdu_size = 131072
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax)
        ae.add_supported_context(Verification)
        ae.add_supported_context(StorageCommitmentPushModel, scp_role=True, scu_role=True)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._commit)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.socket.getsockname()[1]
        return self

    def stop(self) -> None:
        """Close the port; what was kept stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.stores[uid] += 1
        status = self.on_store(event)
        if status is None:
            event.assoc.abort()
            return 0xC000
        if status & 0xF000 in (0x0000, 0xB000):
            self.keep(event)
        return status

    def keep(self, event: evt.Event) -> None:
        """Store the object of a C-STORE request."""
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.kept[str(event.request.AffectedSOPInstanceUID)] = dataset

    def _commit(self, event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        self.commitments.append([str(item.ReferencedSOPInstanceUID) for item in asked.ReferencedSOPSequence])
        threading.Thread(target=self._report, args=(asked, event.assoc), daemon=True).start()
        return 0x0000, None

    def _report(self, asked: Dataset, association: Any) -> None:
        """N-EVENT-REPORT on the association of the request (PS3.4 J.3.3): everything committed, or nothing."""
        told = Dataset()
        told.TransactionUID = asked.TransactionUID
        told.ReferencedSOPSequence = []
        failed = []
        for item in asked.ReferencedSOPSequence:
            if self.commits and str(item.ReferencedSOPInstanceUID) in self.kept:
                told.ReferencedSOPSequence.append(item)
            else:
                item.FailureReason = 0x0112  # no such object instance (PS3.3 C.14.1.1)
                failed.append(item)
        if failed:
            told.FailedSOPSequence = failed
        with suppress(RuntimeError, ValueError):  # the node has released it in the meantime
            association.send_n_event_report(told, 2 if failed else 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)


def echo(port: int, called: str, calling: str) -> bool:
    """True if an AE answers C-ECHO."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(Verification)
    association = associate(ae, "127.0.0.1", port, called)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status.get("Status") == 0)
