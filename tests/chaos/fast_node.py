"""The real command `fvlm-node`, whose `serve` starts `fast_worker` in place of `node.worker`."""

from node import serve
from node.cli import main

if __name__ == "__main__":
    serve.WORKER = "fast_worker"
    main()
