"""`python -m fast_worker ROLE SETTINGS`: `node.worker`, with the analyze worker around a `FastPipeline`.

CHAOS_CLOCK names a file with an offset in seconds (`+86400`): receiver and reconciler live by a clock that is off by
it, and jumps when the file changes (libfaketime; under it `time.sleep` fails, which these two do not need).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def _live_by(clock: str) -> None:
    """Start this process anew, under the same id, with that clock. Monotonic clocks stay true, as in a real jump."""
    other = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": clock,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    os.execve(sys.executable, [sys.executable, "-m", "fast_worker", *sys.argv[1:]], os.environ | other)


def run(arguments: Sequence[str]) -> int:
    """One role; the exit status."""
    from node import worker

    if arguments[0] == "analyze":
        from fast_pipeline import FastPipeline

        worker.ROLES["analyze"] = lambda settings, name: worker.run_analyze(settings, name, FastPipeline)
    if arguments[0] == "shadow":
        from fast_pipeline import FastPipeline

        from node.releases.shadow_worker import run_shadow

        worker.ROLES["shadow"] = lambda settings, name: run_shadow(settings, name, FastPipeline)  # type: ignore[arg-type]
    return worker.main(list(arguments))


if __name__ == "__main__":
    if "CHAOS_CLOCK" in os.environ and "LD_PRELOAD" not in os.environ and sys.argv[1] in ("receiver", "reconciler"):
        _live_by(os.environ["CHAOS_CLOCK"])
    sys.exit(run(sys.argv[1:]))
