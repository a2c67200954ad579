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


def running_ports(data_dir: Path) -> set[int]:
    """DICOM ports, plain and over TLS, of the node that runs on the data folder; none if they cannot be known."""
    try:
        content = json.loads((data_dir / "run" / "settings.json").read_text(encoding="utf-8"))
        ports = {content["dicom"]["port"], content["dicom"]["tls"]["port"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return ports if node_runs(data_dir) else set()


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
