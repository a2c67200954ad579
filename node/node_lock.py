"""The lock on a data folder: who holds it is the one node that runs there, and ends with its process.

A node may run in parts, a process each (`fvlm-node serve --only`): they share the lock, and each holds one of its own.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROBED_S = 1.0
"""A lock that is only probed is free again much sooner than this."""
_PART = "lock-"


@contextmanager
def locked(data_dir: Path, part: str = "") -> Iterator[bool]:
    """Hold the lock in the block; False if another process holds it. Raises OSError if there can be no lock file.

    With the name of a part: the lock of this part, which keeps out the same part and a whole node, not other parts.
    """
    with (data_dir / "run" / "lock").open("a") as lock:
        if not part:
            yield _patiently(lock.fileno(), fcntl.LOCK_EX)
            return
        beside = _patiently(lock.fileno(), fcntl.LOCK_SH)
        with (data_dir / "run" / f"{_PART}{part}").open("a") as own:
            yield beside and _patiently(own.fileno(), fcntl.LOCK_EX)


def node_runs(data_dir: Path) -> bool:
    """True if a process holds the lock, or that of a part."""
    run = data_dir / "run"
    return any(_is_held(lock) for lock in (run / "lock", *run.glob(f"{_PART}*")))


def running_ports(data_dir: Path) -> set[int]:
    """DICOM ports, plain and over TLS, of the node that runs on the data folder; none if they cannot be known."""
    try:
        content = json.loads(receiving_settings(data_dir).read_text(encoding="utf-8"))
        ports = {content["dicom"]["port"], content["dicom"]["tls"]["port"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return ports if node_runs(data_dir) else set()


def settings_file(data_dir: Path, part: str = "") -> Path:
    """Where the settings of the running node, or of one of its parts, stand."""
    return data_dir / "run" / (f"settings-{part}.json" if part else "settings.json")


def receiving_settings(data_dir: Path) -> Path:
    """The settings of whoever listens for images: a whole node, else the part `receiver`."""
    whole = settings_file(data_dir)
    return whole if whole.is_file() else settings_file(data_dir, "receiver")


def _is_held(file: Path) -> bool:
    try:
        with file.open() as lock:
            return not _try(lock.fileno(), fcntl.LOCK_SH)
    except OSError:
        return False


def _patiently(descriptor: int, kind: int) -> bool:
    deadline = time.monotonic() + _PROBED_S
    while not (mine := _try(descriptor, kind)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return mine


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
