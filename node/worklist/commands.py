"""The commands of `fvlm-node worklist`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config import Settings

worklist_app = typer.Typer(help="Work that others schedule: Unified Procedure Steps.", no_args_is_help=True)

_FILE_WIDTH = 160


@worklist_app.callback()
def _group() -> None:
    """Work that others schedule: Unified Procedure Steps."""


@worklist_app.command("status", epilog="Example: fvlm-node worklist status --config fvlm-node.yaml")
def status(
    limit: Annotated[int, typer.Option(help="Workitems shown, newest first.", min=1)] = 20,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")
    ] = None,
) -> None:
    """Show the worklists, whether they answer, and which workitems the node holds and has ended, and why."""
    from node.status import open_existing
    from node.worklist.table import claims_table, worklists_table

    settings = Settings.load(config)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    if not settings.worklists:
        console.print("No worklist is set; name one under `worklists` in the configuration.")
    with open_existing(settings).reading() as session:
        if settings.worklists:
            console.print(worklists_table(session, settings))
        for table in claims_table(session, limit):
            console.print(table)
