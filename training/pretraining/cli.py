"""`fvlm-node train pretrain` and `fvlm-node train preset`"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from training.pretraining.config import PRESETS, PretrainError, load_config

_errors = Console(stderr=True)
_out = Console()


def preset(name: Annotated[str, typer.Argument(help="Of the preset; none lists them.")] = "") -> None:
    """Print a configuration to start from."""
    known = {file.stem: file for file in sorted(PRESETS.glob("*.yaml"))}
    if not name:
        for each, file in known.items():
            title = file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            _out.print(f"{each}: {title}", highlight=False, soft_wrap=True)
    elif name in known:
        typer.echo(known[name].read_text(encoding="utf-8"), nl=False)
    else:
        _errors.print(f"[red]no preset {escape(name)}; there are {', '.join(known)}[/]")
        raise typer.Exit(2)


def pretrain(
    config: Annotated[Path, typer.Argument(help="The run's YAML file; `fvlm-node train preset` prints one.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on from there.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check configuration, data and weights, show the plan, train nothing.")
    ] = False,
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="None: a GPU where there is one.")] = None,
) -> None:
    """Pretrain on an archive: fVLM, or one of its baselines.

    On several GPUs: torchrun --nproc-per-node 4 -m training.pretraining run.yaml --out runs/ct-rate
    """
    with _user_errors():
        settings = load_config(config)
        from training.pretraining.distributed import joined
        from training.pretraining.plan import plan
        from training.pretraining.run import open_run
        from training.pretraining.run import pretrain as train

        with joined(device) as world, _bars(world.is_first) as bars:
            preparing = bars.add_task("data", total=None, loss="")
            run = open_run(
                settings, out, world, lambda done, total: bars.update(preparing, completed=done, total=total)
            )
            bars.update(preparing, visible=False)
            if dry_run:
                table = Table("what", "how much", title=f"{settings.name}: {settings.method}", title_justify="left")
                for row in plan(run, world).lines():
                    table.add_row(*row)
                if world.is_first:
                    _out.print(table)
                return
            training = bars.add_task("training", total=None, loss="")

            def update(done: int, total: int, loss: float | None) -> None:
                bars.update(training, completed=done, total=total, loss=f"loss {loss:.3f}" if loss is not None else "")

            result = train(run, out, world, update)
        if world.is_first:
            _errors.print(f"Result: {result}", highlight=False, soft_wrap=True)


@contextmanager
def _user_errors() -> Iterator[None]:
    """A PretrainError becomes its text and exit status 2."""
    try:
        yield
    except PretrainError as error:
        _errors.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(2) from error


def _bars(shown: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=_errors, disable=not shown)
