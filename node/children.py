"""Child processes of a command: each with a log of its own, all ended when the command ends, however it ends."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from node.processes import die_with_parent


class Child:
    """One process. Its output goes to `log`; None: where this process's output goes."""

    def __init__(self, name: str, command: Sequence[str], log: Path | None, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log or Path(os.devnull)
        with nullcontext() if log is None else log.open("ab") as out:
            self.process = subprocess.Popen(
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
