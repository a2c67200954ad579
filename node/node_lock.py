"""The lock on a data folder: who holds it is the one node that runs there, and ends with its process."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROBED_S = 1.0
"""A lock that is only probed is free again much sooner than this."""


@contextmanager
def locked(data_dir: Path) -> Iterator[bool]:
    """Hold the lock in the block; False if another process holds it. Raises OSError if there can be no lock file."""
    with (data_dir / "run" / "lock").open("a") as lock:
        deadline = time.monotonic() + _PROBED_S
        while not (mine := _try(lock.fileno(), fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield mine


def node_runs(data_dir: Path) -> bool:
    """True if a process holds the lock."""
    try:
        with (data_dir / "run" / "lock").open() as lock:
            return not _try(lock.fileno(), fcntl.LOCK_SH)
    except OSError:
        return False


def running_port(data_dir: Path) -> int | None:
    """The DICOM port of the node that runs on the data folder; None if there is none or it cannot be known."""
    try:
        content = json.loads((data_dir / "run" / "settings.json").read_text(encoding="utf-8"))
        port = content["dicom"]["port"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return port if node_runs(data_dir) and isinstance(port, int) else None


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
