"""`fvlm-node train …`"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

app = typer.Typer(no_args_is_help=True, help="Train models. Offline; needs no running node.")


@app.callback()
def _group() -> None:
    """Train models. Offline; needs no running node."""


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on from there.")],
    patients: Annotated[int, typer.Option(min=32, help="Phantoms to train on.")] = 2000,
    trunk_steps: Annotated[int, typer.Option(min=1, help="Supervised steps of the image trunk.")] = 360,
    token_steps: Annotated[int, typer.Option(min=1, help="More of them, that ask each token too.")] = 150,
    steps: Annotated[int, typer.Option(min=1, help="Steps that align fVLM, and as many for the CLIP baseline.")] = 150,
    segmenter_steps: Annotated[int, typer.Option(min=1, help="Steps of the segmenter.")] = 720,
    validation: Annotated[int, typer.Option(min=10, help="Phantoms for the operating points.")] = 200,
    test: Annotated[int, typer.Option(min=10, help="Held-out phantoms for the metrics.")] = 500,
    processes: Annotated[int, typer.Option(min=1, help="Processes that render phantoms.")] = 2,
) -> None:
    """Train the two bundled networks on synthetic patients and write a release with its card.

    Example: fvlm-node train phantom --out runs/phantom

    Quick trial: fvlm-node train phantom --out runs/try --patients 64 --trunk-steps 4 --token-steps 4 --steps 4
    --segmenter-steps 4 --validation 16 --test 16
    """
    from training.card import Size
    from training.phantom import train_phantom

    console = Console(stderr=True)
    size = Size(patients, trunk_steps, token_steps, steps, segmenter_steps, validation, test, processes)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:

        @contextmanager
        def stage(title: str) -> Iterator[Callable[[int, int, float | None], None]]:
            task = bars.add_task(title, total=None, loss="")

            def update(done: int, total: int, loss: float | None) -> None:
                shown = f"loss {loss:.3f}" if loss is not None else ""
                bars.update(task, completed=done, total=total, loss=shown)

            yield update

        try:
            release = train_phantom(out, size, stage)
        except ValueError as error:
            console.print(f"[red]{error}[/]")
            raise typer.Exit(2) from error
    console.print(f"Release: {release}\nSegmenter: {out / 'segmenter'}\nMetrics: {out / 'metrics.json'}")
