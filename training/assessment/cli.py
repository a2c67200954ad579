"""`fvlm-node train evaluate`."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from training.study import Split

_console = Console(stderr=True)


def evaluate(
    release: Annotated[Path, typer.Argument(help="Folder of the model release.")],
    data: Annotated[str, typer.Argument(help="Folder of shards made with its --release; or: phantoms")],
    out: Annotated[Path, typer.Option(help="Folder for the figures; an interrupted run goes on from there.")],
    split: Annotated[Split, typer.Option(help="Of the shards.")] = "test",
    probe_split: Annotated[
        Split | None,
        typer.Option(
            help="Of the shards: what the linear probe learns from; none: cross-validation.", show_default=False
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many phantoms.")] = 200,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom.")] = 500_000,
    templates: Annotated[
        Path | None, typer.Option(help="YAML file of prompt templates; none: those that ship.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Zero-shot, linear probe, retrieval, prompt robustness, calibration, subgroups: JSON and a Markdown report."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_console,
    )
    from fvlm import ReleaseError
    from training.assessment.report import summary, write
    from training.assessment.run import Data, assess
    from training.evaluation.data_set import DataError
    from training.shards.format import ShardError

    try:
        out.mkdir(parents=True, exist_ok=True)
        asked = Data(data, split, count, first_seed, probe_split)
        with bars:
            task = bars.add_task("studies", total=None)
            found = assess(
                release,
                asked,
                out,
                device,
                templates,
                lambda done, total: bars.update(task, completed=done, total=total),
            )
        files = write(found, out)
    except (DataError, ReleaseError, ShardError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or out}: {error.strerror or error}; give room or another folder with --out")
    table = Table(title=f"{found.release.name} {found.release.version} on {found.data}", title_justify="left", box=None)
    table.add_column("Figure")
    table.add_column("Value", justify="right")
    for row in summary(found):
        table.add_row(*row)
    Console().print(table)
    for key, why in list(found.problems.items())[:10]:
        _console.print(f"[yellow]not read:[/yellow] {escape(key)}: {escape(why)}", soft_wrap=True, highlight=False)
    _console.print(f"Report: {', '.join(map(str, files))}", soft_wrap=True, highlight=False)


def _fail(text: str) -> NoReturn:
    _console.print(f"[red]Problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)
