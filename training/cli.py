"""`fvlm-node train …`"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.benchmark.cli import phantom_benchmark
from training.pretraining.cli import preset, pretrain
from training.shards.cli import check_shards, shards
from training.size import Size

if TYPE_CHECKING:
    from training.phantom import Stages

_console = Console(stderr=True)
app = typer.Typer(no_args_is_help=True, help="Train models. Offline; needs no running node.")
app.command("pretrain", epilog="Example: fvlm-node train pretrain run.yaml --out runs/ct-rate")(pretrain)
app.command("preset", epilog="Example: fvlm-node train preset ct-rate > run.yaml")(preset)
app.command("shards", epilog="Example: fvlm-node train shards --from ct-rate --data CT-RATE --out shards --workers 8")(
    shards
)
app.command(
    "phantom-benchmark",
    epilog="Example: fvlm-node train phantom-benchmark --out runs/phantom-benchmark --docs docs/research",
)(phantom_benchmark)
app.command("check-shards", epilog="Example: fvlm-node train check-shards shards")(check_shards)


@app.callback()
def _group() -> None:
    """Train models. Offline; needs no running node."""


@app.command()
def segmenter(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on from there.")],
    steps: Annotated[int, typer.Option(min=1, help="One phantom each.")] = Size.segmenter_steps,
) -> None:
    """Train the bundled anatomy segmenter on synthetic patients: the first half of `train phantom`, on one core.

    Example: fvlm-node train segmenter --out runs/phantom &   (and `train phantom` beside it, on the other core)
    """
    with _stages() as stages, stages("segmenter: training") as update:
        from training.segmenter import train_segmenter

        weights = train_segmenter(out / "segmenter", steps, update)
    _console.print(f"Segmenter: {weights}")


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on from there.")],
    patients: Annotated[int, typer.Option(min=32, help="Phantoms to train on.")] = Size.patients,
    aligned: Annotated[
        int, typer.Option(min=32, help="How many of them teach queries, projections and text encoder.")
    ] = Size.aligned,
    stem_steps: Annotated[int, typer.Option(min=1, help="Supervised steps of the image stem.")] = Size.stem_steps,
    trunk_steps: Annotated[int, typer.Option(min=1, help="Of the whole image trunk.")] = Size.trunk_steps,
    cell_steps: Annotated[int, typer.Option(min=1, help="Of the cells, the finest level.")] = Size.cell_steps,
    query_steps: Annotated[int, typer.Option(min=1, help="Of the anatomies' queries.")] = Size.query_steps,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps that align fVLM, and as many for the CLIP baseline.")
    ] = Size.steps,
    segmenter_steps: Annotated[int, typer.Option(min=1, help="Steps of the segmenter.")] = Size.segmenter_steps,
    validation: Annotated[int, typer.Option(min=10, help="Phantoms for the operating points.")] = Size.validation,
    test: Annotated[int, typer.Option(min=10, help="Held-out phantoms for the metrics.")] = Size.test,
    processes: Annotated[int, typer.Option(min=1, help="Processes that render phantoms.")] = Size.processes,
    start: Annotated[
        Path | None,
        typer.Option(help="Take the image trunk of this release and the bundled segmenter: no stem and trunk steps."),
    ] = None,
) -> None:
    """Train the two bundled networks on synthetic patients and write a release with its card.

    It computes on one thread, so that the same command gives the same weights.

    Example: fvlm-node train phantom --out runs/phantom

    Quick trial: fvlm-node train phantom --out runs/try --patients 64 --stem-steps 4 --trunk-steps 4 --cell-steps 4
    --query-steps 4 --steps 4 --segmenter-steps 4 --validation 16 --test 16
    """
    size = Size(
        patients,
        min(aligned, patients),
        stem_steps,
        trunk_steps,
        cell_steps,
        query_steps,
        steps,
        segmenter_steps,
        validation,
        test,
        processes,
    )
    with _stages() as stages:
        from training.phantom import train_phantom

        release = train_phantom(out, size, stages, start)
    _console.print(f"Release: {release}\nSegmenter: {out / 'segmenter'}\nMetrics: {out / 'metrics.json'}")


@contextmanager
def _stages() -> Iterator["Stages"]:
    """Progress bars on standard error; a ValueError becomes its text and exit status 2."""
    import torch

    torch.set_num_threads(1)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console) as bars:

        @contextmanager
        def stage(title: str) -> Iterator[Callable[[int, int, float | None], None]]:
            task = bars.add_task(title, total=None, loss="")

            def update(done: int, total: int, loss: float | None) -> None:
                shown = f"loss {loss:.3f}" if loss is not None else ""
                bars.update(task, completed=done, total=total, loss=shown)

            yield update

        try:
            yield stage
        except ValueError as error:
            _console.print(f"[red]{error}[/]")
            raise typer.Exit(2) from error
