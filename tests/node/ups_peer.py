"""A worklist for tests that keeps to the letter of PS3.4 annex CC, over UPS-RS with its event channel, and over DIMSE.

No worklist that could be installed here exists as a package (see docs/operations/worklist.md), so this is a scripted
one: the state machine of table CC.1.1-2 with its status codes, the check of the Transaction UID, and the final state
requirements of table CC.2.5-3.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import UnifiedProcedureStepEvent, UnifiedProcedureStepPull, UnifiedProcedureStepWatch
from running import wait_for
from tls_files import Pair

STATION, PROCEDURE = ("FVLM1", "99HOSP", "fVLM Node"), ("CTREAD", "99HOSP", "CT reading")
_EVENTS = "1.2.840.10008.5.1.4.34.6.4"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def scheduled(uid: str, *series: str, study: str = "2.25.9", priority: str = "MEDIUM") -> Dataset:
    """A step as its creator would N-CREATE it."""
    step = Dataset()
    step.SOPClassUID, step.SOPInstanceUID = "1.2.840.10008.5.1.4.34.6.1", uid
    step.PatientName, step.PatientID = "Planted^Patient", "PLANTED-1"
    step.ProcedureStepState, step.InputReadinessState = "SCHEDULED", "READY"
    step.ScheduledProcedureStepPriority = priority
    step.ScheduledStationNameCodeSequence = [code(*STATION)]
    step.ScheduledWorkitemCodeSequence = [code(*PROCEDURE)]
    inputs = []
    for one in series:
        item = Dataset()
        item.TypeOfInstances, item.StudyInstanceUID, item.SeriesInstanceUID = "DICOM", study, one
        inputs.append(item)
    step.InputInformationSequence = inputs
    return step


class Steps:
    """The state machine. Every answer is a DIMSE status; who is told of events is a matter of `tell`."""

    def __init__(self, *steps: Dataset) -> None:
        self.all = {str(step.SOPInstanceUID): step for step in steps}
        self.owners: dict[str, str] = {}
        self.log: list[tuple[str, str, int]] = []
        self.progress: list[str] = []
        self.hook: Callable[[str, str, int], None] = lambda *_: None
        """Called with request, UID and status after each request was carried out, before it is answered."""
        self.tell: Callable[[dict[str, Any]], None] = lambda _: None
        self._lock = threading.RLock()

    def state(self, uid: str) -> str:
        return str(self.all[uid].ProcedureStepState)

    def find(self, query: Dataset) -> list[Dataset]:
        with self._lock:
            return [step for step in self.all.values() if self._matches(step, query)]

    def change_state(self, uid: str, transaction: str, state: str) -> int:
        with self._lock:
            status = self._change_state(uid, transaction, state)
        return self._done(f"state {state}", uid, status)

    def update(self, uid: str, changes: Dataset) -> int:
        with self._lock:
            status = self._update(uid, changes)
        return self._done("update", uid, status)

    def request_cancel(self, uid: str) -> int:
        """N-ACTION type 2: the performer is told, the state stays."""
        state = self.state(uid)
        if state == "COMPLETED":
            return 0xC311
        if state == "SCHEDULED":
            self.all[uid].ProcedureStepState = "CANCELED"
            return 0x0000
        self.tell(self.event(uid, 2))
        return 0x0000

    def add(self, step: Dataset) -> None:
        self.all[str(step.SOPInstanceUID)] = step
        self.tell(self.event(str(step.SOPInstanceUID), 1))

    def _change_state(self, uid: str, transaction: str, state: str) -> int:
        """PS3.4 table CC.1.1-2."""
        if uid not in self.all:
            return 0xC307
        if state == "SCHEDULED":
            return 0xC303
        if not transaction:
            return 0xC301
        now = self.state(uid)
        if now == "SCHEDULED":
            if state != "IN PROGRESS":
                return 0xC310
            self.owners[uid] = transaction
            self.all[uid].ProcedureStepState = state
            return 0x0000
        if self.owners[uid] != transaction:
            return 0xC301
        if now == "IN PROGRESS":
            if state == "IN PROGRESS":
                return 0xC302
            if not self._complete(self.all[uid], state):
                return 0xC304
            self.all[uid].ProcedureStepState = state
            return 0x0000
        return {"COMPLETED": 0xB306, "CANCELED": 0xB304}[now] if state == now else 0xC300

    def _update(self, uid: str, changes: Dataset) -> int:
        if uid not in self.all:
            return 0xC307
        now = self.state(uid)
        if now in ("COMPLETED", "CANCELED"):
            return 0xC300
        if now == "IN PROGRESS" and changes.get("TransactionUID") != self.owners[uid]:
            return 0xC301
        if now == "SCHEDULED":
            return 0xC310
        if "ProcedureStepState" in changes:
            return 0x0106
        for element in changes:
            if element.keyword != "TransactionUID":
                self.all[uid].add(element)
        if "ProcedureStepProgressInformationSequence" in changes:
            self.progress.append(str(changes.ProcedureStepProgressInformationSequence[0].get("ProcedureStepProgress")))
        return 0x0000

    @staticmethod
    def _complete(step: Dataset, state: str) -> bool:
        """Final state requirements (PS3.4 table CC.2.5-3)."""
        if state == "CANCELED":
            told = step.get("ProcedureStepProgressInformationSequence") or [Dataset()]
            reasons = told[0].get("ProcedureStepDiscontinuationReasonCodeSequence")
            return bool(told[0].get("ProcedureStepCancellationDateTime") and reasons)
        performed = (step.get("UnifiedProcedureStepPerformedProcedureSequence") or [Dataset()])[0]
        wanted = (
            "PerformedStationNameCodeSequence", "PerformedWorkitemCodeSequence", "PerformedProcedureStepStartDateTime",
            "PerformedProcedureStepEndDateTime", "OutputInformationSequence",
        )  # fmt: skip
        return all(performed.get(keyword) for keyword in wanted)

    @staticmethod
    def _matches(step: Dataset, query: Dataset) -> bool:
        for element in query:
            if element.VR == "SQ":
                keys = [one for one in element.value[0] if one.value] if element.value else []
                items = step.get(element.keyword) or []
                if keys and not any(all(item.get(k.keyword) == k.value for k in keys) for item in items):
                    return False
            elif element.value and step.get(element.keyword) != element.value:
                return False
        return True

    def _done(self, request: str, uid: str, status: int) -> int:
        self.log.append((request, uid, status))
        self.hook(request, uid, status)
        return status

    def event(self, uid: str, kind: int) -> dict[str, Any]:
        return {
            "00000002": {"vr": "UI", "Value": [_EVENTS]},
            "00001000": {"vr": "UI", "Value": [uid]},
            "00001002": {"vr": "US", "Value": [kind]},
            "00741000": {"vr": "CS", "Value": [self.state(uid)]},
        }


_HTTP = {0x0000: 200, 0xB304: 200, 0xB306: 200, 0xC307: 404, 0xC301: 400, 0xC300: 400}


def _app(steps: Steps) -> FastAPI:
    app = FastAPI()
    channels: list[tuple[WebSocket, asyncio.AbstractEventLoop]] = []
    subscribers: set[str] = set()

    def tell(event: dict[str, Any]) -> None:
        for channel, loop in channels:
            asyncio.run_coroutine_threadsafe(channel.send_text(json.dumps(event)), loop).result(5)

    steps.tell = tell

    def answered(status: int) -> Response:
        warning = {"Warning": f"299 peer: 0x{status:04X}"} if status else {}
        return Response(status_code=_HTTP.get(status, 409), headers=warning)

    @app.get("/workitems")
    def search(request: Request) -> Response:
        query = Dataset()
        for key, value in request.query_params.items():
            if key in ("includefield", "limit"):
                continue
            *path, tag = key.split(".")
            target = query
            for one in path:
                if int(one, 16) not in target:
                    target.add_new(int(one, 16), "SQ", [Dataset()])
                target = target[int(one, 16)].value[0]
            target.add_new(int(tag, 16), "CS" if not path else "SH", value)
        found = [step.to_json_dict() for step in steps.find(query)]
        return Response(json.dumps(found), media_type="application/dicom+json") if found else Response(status_code=204)

    @app.get("/workitems/{uid}")
    def retrieve(uid: str) -> Response:
        if uid not in steps.all:
            return Response(status_code=404)
        return Response(json.dumps([steps.all[uid].to_json_dict()]), media_type="application/dicom+json")

    @app.put("/workitems/{uid}/state")
    async def change(uid: str, request: Request) -> Response:
        sent = Dataset.from_json((await request.json())[0])
        state, transaction = sent.ProcedureStepState, sent.get("TransactionUID", "")
        return answered(await asyncio.to_thread(steps.change_state, uid, transaction, state))

    @app.post("/workitems/{uid}")
    async def update(uid: str, request: Request) -> Response:
        sent = Dataset.from_json((await request.json())[0])
        assert request.url.query == sent.TransactionUID, "PS3.18 11.6 has it in the address"
        return answered(await asyncio.to_thread(steps.update, uid, sent))

    @app.post("/workitems/{uid}/subscribers/{title}")
    def subscribe(uid: str, title: str) -> Response:
        assert uid == "1.2.840.10008.5.1.4.34.5"
        subscribers.add(title)
        return Response(status_code=201)

    @app.websocket("/subscribers/{title}")
    async def channel(socket: WebSocket, title: str) -> None:
        if title not in subscribers:
            await socket.close(1008)
            return
        await socket.accept()
        entry = (socket, asyncio.get_running_loop())
        channels.append(entry)
        try:
            await socket.receive_text()
        except WebSocketDisconnect:
            channels.remove(entry)

    app.state.channels = channels
    return app


@contextmanager
def rs_peer(steps: Steps, port: int = 0, tls: Pair | None = None) -> Iterator[tuple[str, list[Any]]]:
    """A running UPS-RS service: its URL, and the open event channels. `tls`: its certificate, none: plain HTTP."""
    app = _app(steps)
    listener = socket.create_server(("127.0.0.1", port))
    files = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key} if tls else {}
    config = uvicorn.Config(app, log_level="critical", ws="websockets-sansio", lifespan="off", **files)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the worklist listens")
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}", app.state.channels
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
        listener.close()


@contextmanager
def dimse_peer(steps: Steps, subscribers: dict[str, int] | None = None) -> Iterator[int]:
    """A running SCP of UPS Pull and Watch; its port. `subscribers`: AE titles that may subscribe, and their ports."""
    subscribers = subscribers or {}

    def found(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for step in steps.find(event.identifier):
            yield 0xFF00, step
        yield 0x0000, None

    def given(event: evt.Event) -> tuple[int, Dataset | None]:
        step = steps.all.get(str(event.request.RequestedSOPInstanceUID))
        if step is None:
            return 0xC307, None
        wanted, answer = event.attribute_identifiers, Dataset()
        for tag in wanted:
            if tag in step:
                answer.add(step[tag])
        return 0x0000, answer

    def changed(event: evt.Event) -> tuple[int, Dataset | None]:
        sent, uid = event.action_information, str(event.request.RequestedSOPInstanceUID)
        if event.action_type == 3:
            assert (uid, sent.DeletionLock) == ("1.2.840.10008.5.1.4.34.5", "FALSE")
            assert event.context.abstract_syntax == UnifiedProcedureStepWatch
            if sent.ReceivingAE not in subscribers:
                return 0xC308, None
            steps.tell = lambda told: event_report(told, sent.ReceivingAE, subscribers[sent.ReceivingAE])
            return 0x0000, None
        assert event.action_type == 1
        return steps.change_state(uid, sent.get("TransactionUID", ""), sent.ProcedureStepState), None

    def updated(event: evt.Event) -> tuple[int, Dataset | None]:
        return steps.update(str(event.request.RequestedSOPInstanceUID), event.modification_list), None

    ae = AE(ae_title="UPSMGR")
    ae.add_supported_context(UnifiedProcedureStepPull)
    ae.add_supported_context(UnifiedProcedureStepWatch)
    handlers = [
        (evt.EVT_C_FIND, found), (evt.EVT_N_GET, given), (evt.EVT_N_ACTION, changed), (evt.EVT_N_SET, updated)
    ]  # fmt: skip
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def event_report(told: dict[str, Any], title: str, port: int, calling: str = "UPSMGR") -> int:
    """N-EVENT-REPORT of an event; its status."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(UnifiedProcedureStepEvent)
    role = build_role(UnifiedProcedureStepEvent, scp_role=True)  # who calls is the SCP (PS3.4 CC.3)
    association = ae.associate("127.0.0.1", port, ae_title=title, ext_neg=[role])
    if not association.is_established:
        return -1
    information = Dataset()
    information.ProcedureStepState = told["00741000"]["Value"][0]
    kind, uid = told["00001002"]["Value"][0], told["00001000"]["Value"][0]
    answer, _ = association.send_n_event_report(
        information, kind, "1.2.840.10008.5.1.4.34.6.1", uid, meta_uid=UnifiedProcedureStepEvent
    )
    association.release()
    return int(answer.Status)
