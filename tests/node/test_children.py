"""A forked child: its end is seen and told, and nothing of its parent is left open in it."""

import subprocess
import sys
from pathlib import Path

_PARENT = """
import fcntl, sys
from pathlib import Path
from node.children import ForkedChild

def held() -> int:
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_UN)
    except OSError:
        print("the lock's file is closed here")
        return 7
    return 0

def fails() -> int:
    raise RuntimeError("the cause")

def sleeps() -> int:
    import time
    time.sleep(600)
    return 0

lock = open(sys.argv[1] + ".lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("written before the fork", end="")
for run in (held, fails, sleeps):
    child = ForkedChild(run.__name__, run, Path(sys.argv[1]))
    if run is sleeps:
        child.stop()
    child.process.wait()
    print(f"\\n{run.__name__}: {child.status}, {child.last_line()}", end="")
"""


def test_a_forked_child_ends_with_its_status_its_cause_in_the_log_and_by_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", _PARENT, str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "written before the fork",
        "held: 7, the lock's file is closed here",
        "fails: 1, RuntimeError: the cause",
        "sleeps: -15, RuntimeError: the cause",
    ]
    assert done.stderr == ""
    assert log.read_text().count("Traceback") == 1
