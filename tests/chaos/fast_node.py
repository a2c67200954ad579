"""The real command `fvlm-node`, whose `serve` starts `fast_worker` in place of `node.worker`.

With CHAOS_FORK=1 in the environment its processes are forked from `serve`, which has imported what they need: a new
life costs milliseconds of processor time instead of seconds. What they run is the same.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import fast_worker

from node import serve
from node.children import Child
from node.cli import main
from node.processes import die_with_parent

_NEEDED = ("node.receiver", "node.reconciler", "node.delivery", "node.jobs", "node.console.server", "fast_pipeline")


class Fork:
    """A child process without a program of its own; what `node.children` needs of a `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.returncode: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _live(arguments, log, parent)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired."""
        ended = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while self.poll() is None:
            if time.monotonic() > ended:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _live(arguments: Sequence[str], log: Path, parent: int) -> NoReturn:
    """The child: as a new program would, it begins with its own session, signals, output and random numbers."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.closerange(3, 1024)  # the lock of the data folder among them
        random.seed()
        status = fast_worker.run(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class ForkedChild(Child):
    """`python -m fast_worker ROLE SETTINGS`, forked."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        assert list(command[:3]) == [sys.executable, "-m", serve.WORKER], "`serve` starts its processes otherwise now"
        assert not environment
        self.name, self.log = name, log
        self.process = Fork(command[3:], log)  # type: ignore[assignment]


if __name__ == "__main__":
    serve.WORKER = "fast_worker"
    if os.environ.get("CHAOS_FORK") and "serve" in sys.argv:
        for needed in _NEEDED:
            import_module(needed)
        serve.Child = ForkedChild  # type: ignore[misc]
    main()
