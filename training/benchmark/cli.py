"""`fvlm-node train phantom-benchmark`"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from training.benchmark.learn import Stages

_errors = Console(stderr=True)
_out = Console()


def phantom_benchmark(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on from there.")],
    preset: Annotated[
        Literal["cpu", "gpu"], typer.Option(help="How much: an hour of one core, or a GPU's night.")
    ] = "cpu",
    seeds: Annotated[int | None, typer.Option(min=1, max=20, help="Trainings a method; none: the preset's.")] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Folder of the page, its plots and numbers; none: OUT/page.")
    ] = None,
    why: Annotated[
        bool, typer.Option("--why", help="Instead: half of the patients, with one thing changed at a time.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that render patients.")] = 2,
) -> None:
    """Compare seven ways to learn from reports on synthetic patients, and write the page.

    CLIP, supervised, fVLM, and fVLM with the corrections of false negatives, each with several seeds, on the same
    patients and with the same architecture. No scans, no downloads.
    """
    import torch

    from training.benchmark.page import write_page
    from training.benchmark.run import machine, prepared, run
    from training.benchmark.size import PRESETS
    from training.benchmark.why import ablations
    from training.benchmark.why_page import write_why
    from training.pretraining.config import PretrainError

    size = PRESETS[preset]
    if seeds is not None:
        size = replace(size, seeds=tuple(range(seeds)))
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder, about = docs or out / "page", {"preset": preset, "out": str(out), "machine": machine()}
    try:
        with _stages() as stages:
            if why:
                size = size.halved()
                rows = ablations(prepared(out / "why", size, processes, stages, device), out / "why", stages)
                page = write_why(folder, rows, size, about)
                shown = [(f"{row.method}: {row.change}", row.macro) for row in rows]
            else:
                figures = run(out, size, processes, stages, device)
                page = write_page(folder, figures, size, about)
                shown = [(name, row.macro) for name, row in figures.methods.items()]
    except (PretrainError, ValueError, OSError) as error:
        _errors.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(2) from error
    table = Table("method", "macro AUC", "95 % interval")
    for name, macro in shown:
        table.add_row(name, f"{macro.value:.3f}", f"{macro.low:.3f} to {macro.high:.3f}")
    _out.print(table)
    _out.print(f"Page: {escape(str(page))}", highlight=False, soft_wrap=True)


@contextmanager
def _stages() -> Iterator["Stages"]:
    """A progress bar for each stage on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_errors) as bars:

        @contextmanager
        def stage(title: str) -> Iterator[Callable[[int, int, float | None], None]]:
            task = bars.add_task(title, total=None, loss="")

            def update(done: int, total: int, loss: float | None) -> None:
                shown = f"loss {loss:.3f}" if loss is not None else ""
                bars.update(task, completed=done, total=total, loss=shown)

            yield update
            bars.update(task, visible=False)

        yield stage
