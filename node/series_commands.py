"""The commands of `fvlm-node series`."""

from pathlib import Path
from typing import Annotated

import typer

from config import Settings

series_app = typer.Typer(help="Close a series that waits for images.", no_args_is_help=True)


@series_app.callback()
def _group() -> None:
    """Close a series that waits for images."""


@series_app.command("complete", epilog="Example: fvlm-node series complete 1.2.840.99.1 --config fvlm-node.yaml")
def complete(
    uid: Annotated[str, typer.Argument(metavar="SERIES-UID", help="Series Instance UID, as `status` shows it.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")
    ] = None,
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
