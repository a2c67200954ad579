"""`torchrun … -m training.pretraining CONFIG.yaml --out DIR`: the command in each of several processes."""

import typer

from training.pretraining.cli import pretrain

if __name__ == "__main__":
    typer.run(pretrain)
