"""What each process of the node says of itself, for health checks: that it lives, and when it was last ready for work.

A file a process, in `data_dir/run`, which it keeps locked for as long as it lives, also if it is killed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from node.console.notice import Notice

_READY = "ready"


@dataclass(frozen=True)
class Presence:
    """One process."""

    notice: Notice

    @classmethod
    def of(cls, data_dir: Path, worker: str) -> "Presence":
        """`worker` names the process (`node.roles.worker_name`)."""
        return cls(Notice(data_dir / "run" / f"present-{quote(worker, safe=':')}"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the process itself. Raises OSError if another one is here under this name."""
        with self.notice.held():
            self._say("starting")
            yield

    def ready(self) -> None:
        """It can do its work now, or still can."""
        self._say(_READY)

    def _say(self, line: str) -> None:
        with suppress(OSError):  # a full disk must not stop the work; a health check finds the old line
            self.notice.write(line)

    @property
    def lives(self) -> bool:
        """True while there is such a process."""
        return self.notice.read() not in ("", "not running")

    def ready_for_s(self) -> float | None:
        """Seconds since it last said that it is ready; None if it does not live or has not said so."""
        if self.notice.read() != _READY:
            return None
        return max(0.0, time.time() - self.notice.path.stat().st_mtime)
