"""The node's workers around a `FastPipeline` instead of networks; as a program, a role with a clock of its own.

CHAOS_CLOCK names a file with an offset in seconds (`+86400`): receiver and reconciler live by a clock that is off by
it, and jumps when the file changes (libfaketime; under it `time.sleep` fails, which these two do not need).
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from fast_pipeline import FastPipeline

from config import Settings
from node import worker
from node.node_lock import settings_file
from node.releases.shadow_worker import run_shadow

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def install() -> None:
    """Have this process, and those that it forks, work with the fast pipeline."""
    worker.ROLES["analyze"] = lambda settings, name: worker.run_analyze(settings, name, FastPipeline)
    worker.ROLES["shadow"] = lambda settings, name: run_shadow(settings, name, FastPipeline)  # type: ignore[arg-type]


def live_by(clock: str, role: str, settings: Settings, _: str) -> NoReturn:
    """Go on as a program with that clock. Monotonic clocks stay true, as in a real jump."""
    other = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": clock,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    file = settings_file(settings.data_dir, "")
    os.execve(sys.executable, [sys.executable, "-m", "fast_worker", role, str(file)], os.environ | other)


if __name__ == "__main__":
    install()
    sys.exit(worker.run_role(sys.argv[1], Path(sys.argv[2])))
