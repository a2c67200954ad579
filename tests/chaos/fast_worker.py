"""`python -m fast_worker ROLE SETTINGS`: `node.worker`, with the analyze worker around a `FastPipeline`."""

import sys

from node import worker

if __name__ == "__main__":
    if sys.argv[1] == "analyze":
        from fast_pipeline import FastPipeline

        worker.ROLES["analyze"] = lambda settings, name: worker.run_analyze(settings, name, FastPipeline)
    sys.exit(worker.main(sys.argv[1:]))
