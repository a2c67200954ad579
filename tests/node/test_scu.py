"""Associations that the node opens: no answer is lost between the threads of pynetdicom, however late they wake up."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from spool_data import ct_slice, write_file

from config.settings import Destination
from node.dimse_link import DimseLink
from node.outbox import Fate
from node.scu import associate

pytestmark = pytest.mark.timeout(300)  # a safety net on a busy machine, not an expectation
_DIMSE_TIMEOUT_S = 60.0


@contextmanager
def _archive(*handlers: Any) -> Iterator[int]:
    """A real storage SCP; its port."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


@contextmanager
def _association(port: int) -> Iterator[Any]:
    ae = AE(ae_title="NODE")
    ae.dimse_timeout = _DIMSE_TIMEOUT_S
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = associate(ae, "127.0.0.1", port, "PACS")
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


class _HeldUp:
    """`Association._is_paused` of a machine on which the reactor loses the CPU just as it may run again.

    It gets it back when there is an answer for it to take, or after a while.
    """

    def __get__(self, association: Any, _: type) -> Any:
        return association.__dict__.get("_is_paused", False) if association is not None else self

    def __set__(self, association: Any, paused: bool) -> None:
        if not paused and threading.current_thread() is association and association.is_requestor:
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline and association.dimse.peek_msg()[1] is None:
                time.sleep(0.001)
        association.__dict__["_is_paused"] = paused


def test_the_answer_reaches_the_sender_when_the_reactor_wakes_up_late(monkeypatch: pytest.MonkeyPatch) -> None:
    with _archive((evt.EVT_C_STORE, lambda _: 0x0000)) as port, _association(port) as association:
        assert association.send_c_store(ct_slice(number=1)).Status == 0x0000
        monkeypatch.setattr(Association, "_is_paused", _HeldUp(), raising=False)
        answers = [association.send_c_store(ct_slice(number=number)) for number in range(2, 7)]
        assert [answer.get("Status") for answer in answers] == [0x0000] * 5
        assert association.is_established


def test_a_delivery_gets_its_answer_when_the_reactor_wakes_up_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_file(ct_slice(), tmp_path / "1.dcm")
    with _archive((evt.EVT_C_STORE, lambda _: 0x0000)) as port:
        destination = Destination(ae_title="PACS", host="127.0.0.1", port=port)
        with DimseLink(destination, [CTImageStorage], "NODE", _DIMSE_TIMEOUT_S) as link:
            assert link.store(file, CTImageStorage).fate is Fate.STORED
            monkeypatch.setattr(Association, "_is_paused", _HeldUp(), raising=False)
            assert [link.store(file, CTImageStorage).fate for _ in range(3)] == [Fate.STORED] * 3


def test_a_sender_hears_that_the_association_ended_just_before_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _archive((evt.EVT_C_STORE, lambda _: 0x0000)) as port, _association(port) as association:
        association.dimse_timeout = None  # without an answer it would wait for ever
        find = association._get_valid_context

        def find_while_the_peer_goes(*request: Any, **more: Any) -> Any:  # after the sender has looked, before it sends
            association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
            association.join()
            return find(*request, **more)

        monkeypatch.setattr(association, "_get_valid_context", find_while_the_peer_goes)
        answers: list[Dataset] = []
        sender = threading.Thread(target=lambda: answers.append(association.send_c_store(ct_slice())), daemon=True)
        sender.start()
        sender.join(60)
        assert answers == [Dataset()]
        assert not association.is_established


def test_a_release_goes_on_after_an_event_report_was_served_in_the_meantime() -> None:
    """The thread that pynetdicom makes for an N-EVENT-REPORT ends while the reactor rests for a release."""
    with _archive() as port, _association(port) as association:
        association._reactor_checkpoint.clear()
        deadline = time.monotonic() + 60
        while not association._is_paused:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        association._is_paused = False  # what that thread says at its end
        ended = threading.Thread(target=association.release, daemon=True)
        ended.start()
        ended.join(60)
        assert not ended.is_alive(), "the release waits for ever"
        assert association.is_released


def test_a_thousand_answers_over_four_associations_whose_reactors_hardly_get_the_cpu() -> None:
    def send(port: int) -> list[int | None]:
        with _association(port) as association:
            os.setpriority(os.PRIO_PROCESS, association.native_id, 19)  # the reactor's thread alone
            dataset = ct_slice()
            return [association.send_c_store(dataset).get("Status") for _ in range(250)]

    with _archive((evt.EVT_C_STORE, lambda _: 0x0000)) as port, ThreadPoolExecutor(4) as senders:
        assert list(senders.map(send, [port] * 4)) == [[0x0000] * 250] * 4
