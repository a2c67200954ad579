"""Sending a folder to a real storage SCP that drops the association: the rest goes over a new one."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from spool_data import ct_slice, write_file
from typer.testing import CliRunner

from node import send
from node.cli import app
from node.errors import CommandError
from node.send import Peer, Sent, send_folder

pytestmark = pytest.mark.timeout(300)  # a safety net on a busy machine, not an expectation
IMAGES = 6


class DroppingArchive:
    """A storage SCP that cuts the connection on images of its choice, before or after it has answered."""

    def __init__(self) -> None:
        self.port = 0
        self.arrived: list[int] = []
        """Numbers of the images, in the order in which they came, also those that were not answered."""
        self.associations = 0
        self.drops_before_answer: Callable[[int], bool] = lambda _: False
        """Told how many images have come, with this one."""
        self.drops_after_answer: Callable[[int], bool] = lambda _: False

    @contextmanager
    def running(self) -> Iterator["DroppingArchive"]:
        ae = AE(ae_title="PACS")
        ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
        handlers = [
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_PDU_SENT, self._answered),
        ]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]
        try:
            yield self
        finally:
            self.server.shutdown()

    def _established(self, _: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int:
        self.arrived.append(int(event.request.AffectedSOPInstanceUID.rpartition(".")[2]))
        if self.drops_before_answer(len(self.arrived)):
            _cut(event)
        return 0x0000

    def _answered(self, event: evt.Event) -> None:
        if type(event.pdu).__name__ == "P_DATA_TF" and self.drops_after_answer(len(self.arrived)):
            _cut(event)


def _cut(event: evt.Event) -> None:
    event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[DroppingArchive]:
    monkeypatch.setattr(send, "_PAUSES_S", (0.1, 0.1, 0.1))
    with DroppingArchive().running() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(1, IMAGES + 1):
        write_file(ct_slice(number=number), tmp_path / f"{number}.dcm")
    return tmp_path


def _send(folder: Path, port: int) -> tuple[Sent, list[str], list[tuple[int, int]]]:
    """What came of it, what was told, and the progress."""
    told: list[str] = []
    progress: list[tuple[int, int]] = []
    sent = send_folder(
        folder,
        Peer("127.0.0.1", port, "PACS", "NODE"),
        lambda done, total: progress.append((done, total)),
        told.append,
    )
    return sent, told, progress


def test_what_was_not_answered_is_sent_over_a_new_association(archive: DroppingArchive, folder: Path) -> None:
    archive.drops_before_answer = lambda count: count in (3, 5)
    sent, told, progress = _send(folder, archive.port)
    assert sent == Sent(accepted=IMAGES)
    assert archive.arrived == [1, 2, 3, 3, 4, 4, 5, 6]
    assert archive.associations == 3
    assert [f"after {count} of 6 files" in line for count, line in zip((2, 3), told, strict=True)] == [True, True]
    assert progress == [(done, IMAGES) for done in range(1, IMAGES + 1)]


def test_what_was_answered_is_not_sent_again(archive: DroppingArchive, folder: Path) -> None:
    archive.drops_after_answer = lambda count: count == 4
    sent, told, _ = _send(folder, archive.port)
    assert sent == Sent(accepted=IMAGES)
    assert archive.arrived == [1, 2, 3, 4, 5, 6]
    assert len(told) == 1


def test_a_receiver_that_always_drops_is_given_up_after_three_more_times(
    archive: DroppingArchive, folder: Path
) -> None:
    archive.drops_before_answer = lambda count: count > 2
    with pytest.raises(CommandError) as raised:
        _send(folder, archive.port)
    assert "after 2 of 6 files" in raised.value.cause
    assert "3 times more" in raised.value.cause
    assert archive.arrived == [1, 2, 3, 3, 3, 3]
    assert archive.associations == 4


def test_a_receiver_that_goes_away_is_given_up(archive: DroppingArchive, folder: Path) -> None:
    def goes_away(count: int) -> bool:
        if count == 2:
            archive.server.socket.close()  # nobody can connect any more
        return count == 2

    archive.drops_before_answer = goes_away
    with pytest.raises(CommandError) as raised:
        _send(folder, archive.port)
    assert "after 1 of 6 files" in raised.value.cause


def test_the_command_says_on_stderr_that_it_sends_again(archive: DroppingArchive, folder: Path) -> None:
    archive.drops_before_answer = lambda count: count == 2
    done = CliRunner().invoke(app, ["send", str(folder), "--to", f"127.0.0.1:{archive.port}", "--called", "PACS"])
    assert done.exit_code == 0
    assert "ended the association after 1 of 6 files; sending the rest again" in done.stderr
    assert f"{IMAGES} instances accepted by PACS" in done.stdout


def test_kinds_that_the_receiver_does_not_take_are_counted_and_the_rest_is_sent(
    archive: DroppingArchive, folder: Path
) -> None:
    other = ct_slice(number=7)
    other.SOPClassUID = SecondaryCaptureImageStorage
    write_file(other, folder / "0.dcm")
    archive.drops_before_answer = lambda count: count == 2
    sent, _, progress = _send(folder, archive.port)
    assert (sent.accepted, list(sent.refused.values())) == (IMAGES, [1])
    assert progress[-1] == (IMAGES + 1, IMAGES + 1)


def test_sending_leaves_no_thread_behind(archive: DroppingArchive, folder: Path) -> None:
    archive.drops_before_answer = lambda count: count == 2
    before = set(threading.enumerate())
    _send(folder, archive.port)
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name
