"""`python -m node` is `fvlm-node`."""

from node.cli import main

main()
