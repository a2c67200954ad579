"""The real command `fvlm-node`, whose analyze and shadow workers have a `FastPipeline`.

CHAOS_CLOCK in the environment: see `fast_worker`.
"""

import os
from functools import partial

import fast_worker

from node import worker
from node.cli import main

if __name__ == "__main__":
    fast_worker.install()
    if clock := os.environ.get("CHAOS_CLOCK"):
        for role in ("receiver", "reconciler"):
            worker.ROLES[role] = partial(fast_worker.live_by, clock, role)
    main()
