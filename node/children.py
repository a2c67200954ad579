"""Child processes of a command: each with a log of its own, all ended when the command ends, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from node.processes import die_with_parent


class Child:
    """One process that runs a program. Its output goes to `log`; None: where this process's output goes."""

    def __init__(self, name: str, command: Sequence[str], log: Path | None, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log or Path(os.devnull)
        with nullcontext() if log is None else log.open("ab") as out:
            self.process: subprocess.Popen[bytes] | Fork = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches the command only, which then ends its children in order
                preexec_fn=partial(die_with_parent, os.getpid()),
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self.process.poll()

    def last_line(self) -> str:
        """The last line of the log that is not empty; nothing without a log."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")

    def stop(self, patience_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL if it still runs after `patience_s`."""
        if not self.running:
            return
        self.process.terminate()
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ForkedChild(Child):
    """One process that begins with what this one has imported, and runs a function: a program would import it again.

    Only for a process with a single thread (fork(2)): locks that another one holds would stay locked in the child.
    """

    def __init__(self, name: str, run: Callable[[], int], log: Path | None) -> None:
        """`run` returns the exit status."""
        self.name = name
        self.log = log or Path(os.devnull)
        self.process = Fork(run, log)


class Fork:
    """What `Child` needs of a `subprocess.Popen`, for a function."""

    def __init__(self, run: Callable[[], int], log: Path | None) -> None:
        self.returncode: int | None = None
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live(run, log, parent)

    def poll(self) -> int | None:
        """Exit status, -N if signal N killed it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.01)
        return status

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _live(run: Callable[[], int], log: Path | None, parent: int) -> NoReturn:
    """The life of a forked process: session, signals and open files are its own, as a program's are."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if log is not None:
            out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.dup2(out, 1)
            os.dup2(out, 2)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the lock of the data folder among them
        status = run()
    except BaseException:  # it must not return into the parent's code; its log tells why it ended
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Children:
    """The processes of one command; a context manager that stops them in the reverse order of their start."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._all: list[Child] = []

    def start(
        self, name: str, module: str, *arguments: str | Path | int, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Run a Python module of ours; its log is `NAME.log`."""
        command = [sys.executable, "-m", module, *map(str, arguments)]
        child = Child(name, command, self.logs / f"{name}.log", environment or {})
        self._all.append(child)
        return child

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._all):
            child.stop()


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """True if something accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def wait_for_port(port: int, child: Child, patience_s: float = 60.0) -> bool:
    """Wait until `child` listens; False if it ended or was too slow."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if listens(port):
            return True
        if not child.running:
            return False
        time.sleep(0.05)
    return False
