"""Small tools for the node's processes: die with the parent, and a title that shows in `ps`."""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import setproctitle

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; prctl(2) PR_SET_PDEATHSIG).

    Killing is safe: everything acknowledged is on disk or in the database before it is acknowledged. `parent` is the
    process id of the parent as it knew itself: if it died before this call, the process ends here.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def name_process(role: str) -> None:
    """Show the process as `fvlm-node: ROLE`."""
    setproctitle.setproctitle(f"fvlm-node: {role}")


def share_cores() -> None:
    """Let waiting OpenMP threads sleep instead of spin: where other processes want the cores too, spinning costs
    most of the time. Only before torch is imported; a setting of the user's own stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def without_collections() -> Iterator[None]:
    """For the time of large imports: they make a million objects and hardly a cycle among them, and looking for garbage
    takes a fifth of their time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
