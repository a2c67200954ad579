"""The commands of `fvlm-node series`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from config import Settings

series_app = typer.Typer(
    help="Close a series that waits for images; read one that the rules skip.", no_args_is_help=True
)
_Uid = Annotated[str, typer.Argument(metavar="SERIES-UID", help="Series Instance UID, as `status` shows it.")]
_ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")]


@series_app.command("complete", epilog="Example: fvlm-node series complete 1.2.840.99.1 --config fvlm-node.yaml")
def complete(
    uid: _Uid,
    config: _ConfigFile = None,
) -> None:
    """Close a series that waits for images: it is read with what there is (recorded as closed by `forced`).

    Images that come later open its next generation, which is read again.
    """
    from node.bell import bell_file, ring
    from node.series_control import complete as close
    from node.status import open_existing

    settings = Settings.load(config)
    received, expected = close(open_existing(settings), uid)
    ring(bell_file(settings.spool_dir))
    typer.echo(f"closed with {received} images" + ("" if expected is None else f" of {expected}"))


@series_app.command("read", epilog='Example: fvlm-node series read 1.2.840.99.1 --why "asked for by the ward"')
def read(
    uid: _Uid,
    why: Annotated[str, typer.Option(help="Why the rules do not hold for it; kept with the job.")],
    config: _ConfigFile = None,
) -> None:
    """Have a series read that the routing rules skip (SKIPPED_BY_RULE, NO_RULE, NOT_BEST_SERIES).

    Who wanted it, when and why is kept with its job.
    """
    from node.bell import bell_file, ring
    from node.series_control import read_anyway
    from node.status import open_existing
    from node.whoami import operator

    settings = Settings.load(config)
    with redirect_stdout(sys.stderr):  # log lines
        job_id = read_anyway(open_existing(settings), settings, uid, operator(), why)
    ring(bell_file(settings.spool_dir))
    typer.echo(f"job {job_id} reads it")
