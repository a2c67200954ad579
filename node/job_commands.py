"""The commands of `fvlm-node` about jobs: jobs, prioritise, cancel, retry, rerun."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config import Priority, Settings
from config.priority import PriorityName

commands = typer.Typer()

_FILE_WIDTH = 160
"""Characters a line of tables that go into a file or a pipe."""
_ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")]
_Which = Annotated[
    str, typer.Argument(metavar="JOB|SERIES-UID", help="Number of a job, or a series, as `fvlm-node jobs` shows them.")
]


@commands.command(epilog="Example: fvlm-node jobs --state QUEUED --state FAILED --config fvlm-node.yaml")
def jobs(
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only jobs in this state, such as QUEUED, RUNNING, FAILED; repeat for more."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most rows shown.", min=1)] = 50,
    config: _ConfigFile = None,
) -> None:
    """List jobs: what runs, what waits in the order in which it is taken, then the rest, newest first."""
    from node.job_list import jobs_table, states_named
    from node.retry import database_answers
    from node.status import open_existing

    states = states_named(state or ())
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    with database_answers():
        console.print(jobs_table(open_existing(Settings.load(config)), states, limit))


@commands.command(epilog="Example: fvlm-node prioritise 17 stat --config fvlm-node.yaml")
def prioritise(
    which: _Which,
    priority: Annotated[PriorityName, typer.Argument(help="stat, urgent, routine or research.")],
    config: _ConfigFile = None,
) -> None:
    """Make a job that waits more or less urgent."""
    from node.job_control import prioritise as change
    from node.status import open_existing

    typer.echo(f"job {change(open_existing(Settings.load(config)), which, Priority.named(priority))} is {priority}")


@commands.command(epilog="Example: fvlm-node cancel 17 --config fvlm-node.yaml")
def cancel(which: _Which, config: _ConfigFile = None) -> None:
    """Cancel a job that waits or runs: it ends as FAILED (CANCELLED), and nothing of it is written or sent.

    A worker notices before its next stage.
    """
    from node.job_control import cancel as end
    from node.status import open_existing

    typer.echo(f"job {end(open_existing(Settings.load(config)), which)} is cancelled")


@commands.command(epilog="Example: fvlm-node retry 17 --config fvlm-node.yaml")
def retry(which: _Which, config: _ConfigFile = None) -> None:
    """Run a FAILED, cancelled or QUARANTINED job again, with all its attempts; refused deliveries are sent again."""
    from node.retry import retry as run_again
    from node.status import open_existing

    typer.echo(f"job {run_again(open_existing(Settings.load(config)), which)} is queued again")


@commands.command(epilog="Example: fvlm-node rerun 1.2.840.99.1 --config fvlm-node.yaml")
def rerun(which: _Which, config: _ConfigFile = None) -> None:
    """Read a finished series again, with the release in force, and send its results again.

    The release that has read it before writes the same objects under the same UIDs.
    """
    from node.job_control import rerun as run_again
    from node.releases.binding import others_of_study
    from node.status import open_existing

    settings = Settings.load(config)
    records = open_existing(settings)
    job_id = run_again(records, settings, which)
    typer.echo(f"job {job_id} is queued again")
    with records.reading() as session:
        others = others_of_study(session, job_id)
    if others:
        typer.echo(f"Other series of its study were read with another release: jobs {', '.join(map(str, others))}.")
