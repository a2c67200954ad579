"""A process that receives: takes accepted sockets from the listener, a thread for each association. Without torch.

The listener is `node.store_scp`; `node.handover` says what the two tell each other. This process ends when the listener
tells it to, or is gone.
"""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from copy import copy
from pathlib import Path

import structlog

from config import Reason
from config.settings import DicomSettings
from node.association import Association
from node.handover import (
    CLOSED,
    END,
    LONGEST_NOTE,
    OVER_TLS,
    READY,
    REJECT,
    REJECTED,
    RELEASED,
    SERVE,
    STORED,
    Caller,
    Setup,
)
from node.intake import Intake
from node.logs import configure_logs
from node.negotiation import Negotiator
from node.processes import die_with_parent, name_process
from node.tls import server_context

_log = structlog.get_logger(__name__)

_ABORTED_S = 1.0
"""How long aborted associations get to say so, seconds."""
_QUIET_S = 0.1
"""News of the same segment are told at most this often, seconds."""


class _Served:
    """One socket and the thread that serves it."""

    def __init__(self, process: "ReceivingProcess", connection: socket.socket, full: bool, over_tls: bool) -> None:
        """`full`: there is no place for it; it does not count as an association."""
        self._process, self._counted = process, not full
        self._segment = ""
        self._told = float("-inf")
        intake = copy(process.intake)
        intake.on_stored = self._stored
        self.association = Association(
            connection,
            full,
            process.dicom,
            process.negotiator,
            intake,
            process.report_rejected,
            process.tls if over_tls else None,
        )
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.association.run(self._released)
        except Exception:  # whatever goes wrong in one association, the others go on
            _log.exception("association_failed")
        finally:
            self.abandon()

    def _stored(self, segment: str) -> None:
        now = time.monotonic()
        if not segment:
            self._process.tell(STORED)
        elif segment != self._segment or now - self._told >= _QUIET_S:
            self._segment, self._told = segment, now
            self._process.tell(STORED + segment.encode())

    def _released(self) -> None:
        if self._counted:
            self._counted = False
            self._process.tell(RELEASED + self._segment.encode())

    def abandon(self) -> None:
        """It was never served, or is no longer."""
        self._released()
        self._process.forget(self)


class ReceivingProcess:
    """Serves the sockets that come over `control`."""

    def __init__(self, control: socket.socket, setup: Setup) -> None:
        self._control = control
        self.setup = setup
        self.dicom = DicomSettings(**self.setup.dicom)
        self.negotiator = Negotiator(self.dicom)
        self.tls = None if self.dicom.tls.certificate is None else server_context(self.dicom.tls)
        self.intake = Intake(Path(self.setup.spool_dir), self.setup.min_free_bytes)
        self._lock = threading.Lock()
        self._served: set[_Served] = set()

    def run(self) -> None:
        """Serve until the listener says END, then let associations end for as long as it allows."""
        self.tell(READY)
        while True:
            note, descriptors, _, _ = socket.recv_fds(self._control, LONGEST_NOTE, 1)
            if note[:1] in (SERVE, REJECT):
                self._take(descriptors, full=note[:1] == REJECT, over_tls=note[1:] == OVER_TLS)
            elif note.startswith(END):
                self._end(float(note[len(END) :]))
                return
            else:  # the listener is dead, and with it whoever would index and answer for this process
                os._exit(1)

    def forget(self, served: _Served) -> None:
        """Its socket is closed."""
        with self._lock:
            self._served.discard(served)
        self.tell(CLOSED)

    def tell(self, note: bytes) -> None:
        """Send a note to the listener, from any thread; waits while it is busy, silent if it is gone."""
        with suppress(OSError):
            self._control.send(note)

    def report_rejected(self, caller: Caller) -> None:
        """An association was refused."""
        self.tell(REJECTED + caller.encode())

    def _take(self, descriptors: list[int], full: bool, over_tls: bool) -> None:
        if not descriptors:  # the kernel had to close it
            _log.error("association_failed", reason=Reason.TOO_MANY_ASSOCIATIONS, detail="no descriptor is left")
            if not full:
                self.tell(RELEASED)
            self.tell(CLOSED)
            return
        connection = socket.socket(fileno=descriptors[0])
        served = _Served(self, connection, full, over_tls)
        with self._lock:
            self._served.add(served)
        try:
            served.thread.start()
        except RuntimeError:  # no more threads are to be had
            _log.error("association_failed", reason=Reason.TOO_MANY_ASSOCIATIONS, detail="no thread can be started")
            connection.close()
            served.abandon()

    def _end(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        with self._lock:
            left = list(self._served)
        for served in left:
            served.thread.join(max(0.0, deadline - time.monotonic()))
        for served in left:
            served.association.end()
        deadline = time.monotonic() + _ABORTED_S
        for served in left:
            served.thread.join(max(0.0, deadline - time.monotonic()))


def main(arguments: list[str]) -> int:
    """`python -m node.receiving DESCRIPTOR`: serve what comes over this inherited socket; the exit status."""
    control = socket.socket(fileno=int(arguments[0]))
    note = control.recv(LONGEST_NOTE)
    if not note:
        return 0  # the listener died before it had said what to serve
    process = ReceivingProcess(control, Setup.decode(note))
    die_with_parent(process.setup.listener_pid)
    for number in (signal.SIGTERM, signal.SIGINT):  # for a whole group of processes: the listener says when to end
        signal.signal(number, signal.SIG_IGN)
    name_process(f"receiver {process.setup.number}")
    configure_logs()
    process.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
