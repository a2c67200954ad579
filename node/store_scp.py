"""The storage SCP: listens, and hands each accepted socket to the receiving process that has the fewest associations.

The processes (`node.receiving`) are started again when they die. This one reads and decodes nothing from a peer: what
happens in an association is in `node.association`, who may come in is in `node.negotiation`.
"""

import errno
import math
import os
import selectors
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Event

import structlog

from config import Reason
from config.settings import DicomSettings
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
from node.knocks import Knocks
from node.tls import server_context

_log = structlog.get_logger(__name__)

_BACKLOG = 128
_DOORSTEP = 64
"""Sockets beside the associations: peers to be rejected, and those that have said good-bye. More are closed at once."""
_WAKE_S = 0.2
"""Longest time between two looks at whether to end, seconds."""
_FIRST_RESTART_S = 0.5
_START_S = 120.0
"""Longest wait for the processes to be ready, seconds."""
_STABLE_S = 60.0
"""A process that lived this long is started again at once when it dies."""
_GRACE_S = 2.0
"""Wait for a process to end, beyond what its associations get, before it is killed; seconds."""


class _Process:
    """A receiving process, and what is known of it."""

    def __init__(self, number: int, setup: bytes, wait_s: float) -> None:
        """Start it; `wait_s`: how long to wait before the next start if it dies soon. Raises OSError."""
        self.number, self.wait_s = number, wait_s
        self.ready = False
        self.associations = 0
        self.sockets = 0
        self.started = time.monotonic()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.popen = subprocess.Popen(
                    [sys.executable, "-m", "node.receiving", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
                self.control.send(setup)
            except OSError:
                self.control.close()
                raise
        self.control.setblocking(False)

    def hand_over(self, connection: socket.socket, full: bool, over_tls: bool) -> bool:
        """Give it a socket; False if it cannot take one now."""
        note = (REJECT if full else SERVE) + (OVER_TLS if over_tls else b"")
        try:
            socket.send_fds(self.control, [note], [connection.fileno()])
        except OSError:
            return False
        self.sockets += 1
        self.associations += not full
        return True


@dataclass(frozen=True)
class _Door:
    """A socket that listens."""

    listener: socket.socket
    over_tls: bool

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])


def _bound(host: str, port: int) -> socket.socket:
    """Raises OSError if the address is taken."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


class StoreScp:
    """`start`, `serve`, `stop`, all in the main thread: the processes die with the thread that started them."""

    def __init__(self, settings: DicomSettings, intake: Intake, knocks: Knocks, restart_max_s: float = 30.0) -> None:
        """`intake` says where to store, and its `on_stored` hears of it soon after; nothing is stored through it.

        `knocks` hears who was refused. `restart_max_s`: longest wait before a process that keeps dying is started
        again, seconds.
        """
        self._settings, self._intake, self._knocks = settings, intake, knocks
        self._restart_max_s = restart_max_s
        self._doors: list[_Door] = []
        self._processes: dict[int, _Process] = {}
        """By number."""
        self._restarts: dict[int, tuple[float, float]] = {}
        """Number of a process that died -> when it is started again (monotonic), and how long that was waited for."""
        self._last = 0
        """Who got a socket last."""
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._complained = -math.inf

    def start(self) -> int:
        """Start the processes, listen when they are ready; the port (that of TLS if there is no plain one).

        Raises OSError if an address is taken or no process starts, TlsError.
        """
        tls = self._settings.tls
        if not tls.only:
            self._doors.append(_Door(_bound(self._settings.host, self._settings.port), over_tls=False))
        if tls.certificate is not None:
            server_context(tls)  # before the processes find out that it cannot be had
            self._doors.append(_Door(_bound(self._settings.host, tls.port), over_tls=True))
        count = self._settings.receivers or min(2, len(os.sched_getaffinity(0)))
        for number in range(1, count + 1):
            self._spawn(number, _FIRST_RESTART_S)
        deadline = time.monotonic() + _START_S
        while not all(process.ready for process in self._processes.values()) and time.monotonic() < deadline:
            self._turn()
        if not any(process.ready for process in self._processes.values()):
            self.stop(0)
            raise OSError(errno.ECHILD, "no receiving process starts")
        for door in self._doors:
            door.listener.listen(_BACKLOG)
            self._selector.register(door.listener, selectors.EVENT_READ, door)
        return self._doors[0].port

    @property
    def tls_port(self) -> int | None:
        """Where it listens for DICOM over TLS; None: nowhere."""
        return next((door.port for door in self._doors if door.over_tls), None)

    def serve(self, ended: Event) -> None:
        """Accept and hand out until `ended`."""
        while not ended.is_set():
            self._turn()
            for number, (at, waited_s) in list(self._restarts.items()):
                if time.monotonic() >= at:
                    self._spawn(number, min(self._restart_max_s, 2 * waited_s))

    def stop(self, wait_s: float) -> None:
        """Take no more associations, give those that run `wait_s` seconds to end; the rest is aborted."""
        self._stopping = True
        for door in self._doors:
            with suppress(KeyError):  # it does not listen yet
                self._selector.unregister(door.listener)
            door.listener.close()
        for process in self._processes.values():
            with suppress(OSError):
                process.control.send(END + str(wait_s).encode())
        deadline = time.monotonic() + wait_s + _GRACE_S
        while self._processes and time.monotonic() < deadline:
            self._turn()
        for process in list(self._processes.values()):
            _log.error("receiver_process_killed", process=process.number)
            process.popen.kill()
            self._bury(process)
        self._selector.close()

    def _spawn(self, number: int, wait_s: float) -> None:
        """Start a process; `wait_s`: see `_Process`."""
        self._restarts.pop(number, None)
        setup = Setup(
            number=number,
            listener_pid=os.getpid(),
            spool_dir=str(self._intake.spool_dir.resolve()),
            min_free_bytes=self._intake.min_free_bytes,
            dicom=self._settings.model_dump(mode="json"),
        )
        try:
            process = _Process(number, setup.encode(), wait_s)
        except OSError as error:
            _log.error("receiver_process_does_not_start", process=number, error=error.strerror, seconds=wait_s)
            self._restarts[number] = (time.monotonic() + wait_s, wait_s)
            return
        self._processes[number] = process
        self._selector.register(process.control, selectors.EVENT_READ, process)

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        ready = [key.data for key, _ in self._selector.select(_WAKE_S)]
        self._hear()
        for door in ready:
            if isinstance(door, _Door):
                self._accept(door)

    def _hear(self) -> None:
        """Take in what the processes tell."""
        for process in list(self._processes.values()):
            while True:
                try:
                    note = process.control.recv(LONGEST_NOTE)
                except BlockingIOError:
                    break
                except OSError:
                    note = b""
                if not note:
                    self._bury(process)
                    break
                kind, segment = note[:1], note[1:].decode()
                if kind == REJECTED:
                    self._knocks.note(Caller.decode(note[1:]))
                    continue
                process.ready |= kind == READY
                process.associations -= kind == RELEASED
                process.sockets -= kind == CLOSED
                if segment or kind == STORED:
                    self._intake.on_stored(segment)

    def _bury(self, process: _Process) -> None:
        """It has ended, or is to."""
        self._selector.unregister(process.control)
        process.control.close()
        try:
            status = process.popen.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            status = process.popen.wait()
        del self._processes[process.number]
        if self._stopping:
            return
        now = time.monotonic()
        wait_s = _FIRST_RESTART_S if now - process.started > _STABLE_S else process.wait_s
        self._restarts[process.number] = (now + wait_s, wait_s)
        _log.error("receiver_process_died", process=process.number, status=status, seconds=wait_s)

    def _accept(self, door: "_Door") -> None:
        if not any(
            process.ready for process in self._processes.values()
        ):  # callers wait in the backlog until one is started again
            time.sleep(_WAKE_S)
            return
        for _ in range(_BACKLOG):
            try:
                connection, address = door.listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no more descriptors, for example
                self._complain("accept_failed", error=error.strerror)
                time.sleep(_WAKE_S)
                return
            with connection:
                # A caller that comes again after a release must find its place free: the news of it is there by now.
                self._hear()
                self._place(connection, str(address[0]), door.over_tls)

    def _place(self, connection: socket.socket, host: str, over_tls: bool) -> None:
        """Hand the socket to a process, or close it if there are too many."""
        processes = [process for process in self._processes.values() if process.ready]
        full = sum(process.associations for process in processes) >= self._settings.max_associations
        if sum(process.sockets for process in processes) < self._settings.max_associations + _DOORSTEP:
            count = len(processes)
            for process in sorted(processes, key=lambda p: (p.associations, (p.number - self._last - 1) % count)):
                if process.hand_over(connection, full, over_tls):
                    self._last = process.number
                    return
        self._knocks.note(Caller.of("", "", host, Reason.TOO_MANY_ASSOCIATIONS))
        self._complain("connection_closed", reason=Reason.TOO_MANY_ASSOCIATIONS, host=host)

    def _complain(self, event: str, **values: str | None) -> None:
        """Log, but not for every one of a flood."""
        if time.monotonic() - self._complained > 1.0:
            self._complained = time.monotonic()
            _log.warning(event, **values)
