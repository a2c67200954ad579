"""Tells a process that waits that there is something to do: the time stamp of a file that both can see.

A ring that is not heard costs a pause, nothing else: whoever waits looks by itself after a while.
"""

import time
from contextlib import suppress
from pathlib import Path
from threading import Event

_LOOK_S = 0.1
"""Between two looks at the time stamp, seconds."""


def bell_file(spool_dir: Path) -> Path:
    """The bell that the index rings when a series begins, an association has ended, or a storage commitment
    request or an announcement was taken."""
    return spool_dir / ".index.bell"


def ring(file: Path) -> None:
    """Wake who waits."""
    with suppress(OSError):
        file.touch(mode=0o640)


class Bell:
    """For the one who waits."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._heard = self._stamp()

    def wait(self, ended: Event, seconds: float) -> bool:
        """Wait until it rings, at most so long; True if `ended` was set."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if ended.wait(min(_LOOK_S, left)):
                return True
            stamp = self._stamp()
            if stamp != self._heard:
                self._heard = stamp
                return False
        return ended.is_set()

    def _stamp(self) -> int:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return 0
