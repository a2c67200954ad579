"""Real processes for tests of the node's work: broker, workers, all ended with the test."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from config import Settings
from node.broker import EmbeddedBroker
from node.worker import write_settings


def wait_for(condition: Callable[[], bool], what: str, patience_s: float = 120.0) -> None:
    """Wait until a condition holds; fails the test after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


@contextmanager
def running_broker(data_dir: Path) -> Iterator[redis.Redis]:
    """The embedded broker of a data folder, with a client that looks into it."""
    broker = EmbeddedBroker(data_dir)
    broker.start()
    try:
        yield redis.Redis(unix_socket_path=str(broker.socket))
    finally:
        broker.stop()


class Processes:
    """Worker processes of one test."""

    def __init__(self, settings: Settings) -> None:
        self.file = settings.data_dir / "settings.json"
        self.log = settings.data_dir / "workers.log"
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        write_settings(settings, self.file)
        self._all: list[subprocess.Popen[bytes]] = []

    def analyze(self, name: str = "test:analyze", pipeline: str = "fake_pipeline.py") -> subprocess.Popen[bytes]:
        """A real Celery worker around the pipeline of one of the modules here."""
        return self._start([str(Path(__file__).with_name(pipeline)), str(self.file), name])

    def role(self, role: str) -> subprocess.Popen[bytes]:
        """The real process of a role."""
        return self._start(["-m", "node.worker", role, str(self.file)])

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=root,
                env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            )
        self._all.append(process)
        return process

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.terminate()
        for process in self._all:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
