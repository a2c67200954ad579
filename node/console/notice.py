"""What the console's process tells `serve` and `status`: where it can be seen, or why it cannot. Without a network."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed


@dataclass(frozen=True)
class Notice:
    """A line in a file that the process keeps locked for as long as it lives (also if it is killed)."""

    path: Path

    @classmethod
    def of(cls, data_dir: Path) -> "Notice":
        return cls(data_dir / "run" / "console")

    @contextmanager
    def held(self) -> Iterator["Notice"]:
        """For the console's process, one at a time. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as lock:
            for attempt in _look_away():
                with attempt:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield self

    def write(self, line: str) -> None:
        """Replace the line. Raises OSError."""
        self.path.write_text(line + "\n", encoding="utf-8")

    def read(self) -> str:
        """The line while the process lives, `not running` if it does not; empty if there never was one."""
        try:
            with self.path.open(encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read().strip() or "starting"
        except OSError:
            return ""
        return "not running"


def console_url(host: str, port: int) -> str:
    """Where a browser on this machine finds it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def _look_away() -> Retrying:
    """Whoever reads the notice holds the lock for a moment."""
    return Retrying(
        retry=retry_if_exception_type(BlockingIOError), stop=stop_after_delay(5.0), wait=wait_fixed(0.05), reraise=True
    )
