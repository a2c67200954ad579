"""A worklist over HTTP: UPS-RS (PS3.18 section 11), payloads in the DICOM JSON Model."""

from typing import Any, Self
from urllib.parse import quote

from pydicom import Dataset

from config import Reason
from config.worklist_settings import WebWorklist
from node.http_peer import HttpPeer, PeerError
from node.worklist.events import GLOBAL_SUBSCRIPTION
from node.worklist.link import MOST_MATCHES, Fate, Reply, WorklistAwayError, state_change
from node.worklist.workitem import Code, StepState, Workitem, WorkitemError

_JSON = "application/dicom+json"
_STATE, _READINESS, _STATION, _WORKITEM = "00741000", "00404041", "00404025", "00404018"
_VALUE, _SCHEME = "00080100", "00080102"


class WebWorklistLink:
    """A `WorklistLink`."""

    def __init__(self, worklist: WebWorklist, timeout_s: float) -> None:
        """Raises WorklistAwayError if a secret or the certificates cannot be read."""
        try:
            self._peer = HttpPeer(worklist.url, worklist, timeout_s)
        except PeerError as error:
            raise WorklistAwayError(error.reason, error.detail) from error

    def search(self, station: Code, procedures: tuple[Code, ...]) -> tuple[list[Workitem], int]:
        found: dict[str, Workitem] = {}
        unreadable = 0
        keys = [(_WORKITEM, code) for code in procedures] or [(_STATION, station)]
        for tag, code in keys:
            wanted: dict[str, str | int] = {
                _STATE: str(StepState.SCHEDULED),
                _READINESS: "READY",
                f"{tag}.{_VALUE}": code.value,
                f"{tag}.{_SCHEME}": code.scheme,
                "includefield": "all",
                "limit": MOST_MATCHES,
            }
            for one in _array(self._get("workitems", wanted))[:MOST_MATCHES]:
                try:
                    item = Workitem.from_json(one)
                    found[item.uid] = item
                except WorkitemError:
                    unreadable += 1
        return list(found.values()), unreadable

    def retrieve(self, uid: str) -> Workitem | None:
        try:
            answer = self._peer.json(f"workitems/{uid}", accept=_JSON)
        except PeerError as error:
            if error.status in (404, 410):
                return None
            raise WorklistAwayError(error.reason, error.detail) from error
        items = _array(answer)
        if len(items) != 1:
            raise WorkitemError("the worklist answers with no workitem, or with several")
        return Workitem.from_json(items[0])

    def change_state(self, uid: str, transaction: str, state: StepState) -> Reply:
        return self._send("PUT", f"workitems/{uid}/state", state_change(transaction, state))

    def update(self, uid: str, transaction: str, changes: Dataset) -> Reply:
        """The Transaction UID goes into the address, as PS3.18 11.6 has it, and into the data set, as PS3.4 has it."""
        changes.TransactionUID = transaction
        return self._send("POST", f"workitems/{uid}?{transaction}", changes)

    def subscribe(self, ae_title: str) -> Reply:
        """To all workitems, those of later too, without a deletion lock (PS3.18 section 11.9)."""
        return self._send("POST", f"workitems/{GLOBAL_SUBSCRIPTION}/subscribers/{quote(ae_title, safe='')}", None)

    def _send(self, method: str, path: str, dataset: Dataset | None) -> Reply:
        body = None if dataset is None else [dataset.to_json_dict()]
        try:
            status, warning = self._peer.send(method, path, body, _JSON)
        except PeerError as error:
            raise WorklistAwayError(error.reason, error.detail) from error
        detail = f"HTTP {status} {warning}".strip()
        if status < 300:
            return Reply(Fate.DONE, detail)
        if status in (400, 409):  # 400 also stands for a wrong Transaction UID (PS3.18 table 11.6.3-1)
            return Reply(Fate.CONFLICT, detail)
        return Reply(Fate.GONE if status in (404, 410) else Fate.REFUSED, detail)

    def _get(self, path: str, params: dict[str, str | int]) -> Any:
        try:
            return self._peer.json(path, params, _JSON)
        except PeerError as error:
            raise WorklistAwayError(error.reason, error.detail) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.close()


def _array(answer: Any) -> list[Any]:
    """Data sets of an answer: an array of them, a service may leave it out for one. Raises WorklistAwayError."""
    if answer is None:
        return []
    if isinstance(answer, dict):
        return [answer]
    if isinstance(answer, list):
        return answer
    raise WorklistAwayError(Reason.PEER_REFUSED, "the answer is no DICOM JSON")
