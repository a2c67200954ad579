"""`fvlm-node pull`."""

from pathlib import Path
from typing import Annotated

import typer

from config import Settings

pull_app = typer.Typer()


@pull_app.command(epilog="Example: fvlm-node pull --study 1.2.840.113619.2.5 --from pacs --config fvlm-node.yaml")
def pull(
    study: Annotated[str, typer.Option(metavar="UID", help="Study Instance UID.")],
    source: Annotated[str, typer.Option("--from", metavar="SOURCE", help="A name of `sources` in the configuration.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")
    ] = None,
) -> None:
    """Fetch the CT series of a study from an archive, to be read: by WADO-RS, C-GET or C-MOVE.

    What is there already is not fetched again. Exit status 2 if anything did not come through.
    """
    from node.retrieve.run import pull_study

    done = pull_study(Settings.load(config), study, source)
    for problem in sorted(set(done.problems)):
        typer.echo(f"{problem} ({done.problems.count(problem)} times)", err=True)
    typer.echo(f"{done.fetched} images of {done.series} CT series fetched; {done.known} were there")
    if done.problems or done.known + done.fetched < done.images:
        raise typer.Exit(2)
