"""`fvlm-node train …`"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.assessment.cli import evaluate
from training.benchmark.cli import phantom_benchmark
from training.collect_cli import collect
from training.pretraining.cli import preset, pretrain
from training.release.cli import release
from training.shards.cli import check_shards, shards
from training.size import Size

if TYPE_CHECKING:
    from training.phantom import Stages

_console = Console(stderr=True)
app = typer.Typer(no_args_is_help=True, help="Train models. Offline; needs no running node.")

app.command(
    epilog="Example: fvlm-node train collect --out collection --pacs PACS@pacs.example.org:104 --from 2021-01-01 "
    "--to 2021-12-31 --reports /srv/hl7-drop --night 20:00-06:00"
)(collect)


app.command("pretrain", epilog="Example: fvlm-node train pretrain run.yaml --out runs/ct-rate")(pretrain)
app.command("preset", epilog="Example: fvlm-node train preset ct-rate > run.yaml")(preset)
app.command("shards", epilog="Example: fvlm-node train shards --from ct-rate --data CT-RATE --out shards --workers 8")(
    shards
)
app.command("evaluate", epilog="Example: fvlm-node train evaluate fvlm-release shards --out evaluation --device cuda")(
    evaluate
)
app.command(
    "release", epilog='Example: fvlm-node train release runs/ct-rate --out release --name site --version 1 --data "..."'
)(release)
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
    preset: Annotated[
        str | None,
        typer.Option(help="kipa22, kipa22-phantom, or a YAML file as they are: a segmenter of the renal structures."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --preset: the folder with train/image and train/label, as KiPA22 has it.")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="With --preset. None: a GPU where there is one.")
    ] = None,
) -> None:
    """Train the bundled anatomy segmenter on synthetic patients: the first half of `train phantom`, on one core.

    With --preset, train a segmenter of renal vein, kidney, renal artery and tumor on images and labels of yours,
    measure it on held-out cases, and write it as a provider of the node (docs/researcher/kipa22.md).

    Example: fvlm-node train segmenter --out runs/phantom &   (and `train phantom` beside it, on the other core)

    Example: fvlm-node train segmenter --preset kipa22 --data KiPA22 --out runs/kipa22
    """
    if preset is not None or data is not None:
        with _stages() as stages:
            from training.kipa22.run import train_preset

            if steps != Size.segmenter_steps:
                raise ValueError("--steps is of the bundled segmenter; with --preset it stands in the YAML file")
            report = train_preset(preset, data, out, device, stages)
        typer.echo(report.table(), nl=False)
        _console.print(f"Provider: {out / 'bundle'}\nReport: {out / 'report.json'}", soft_wrap=True)
        return
    with _stages() as stages, stages("segmenter: training") as update:
        from training.segmenter import train_segmenter

        weights = train_segmenter(out / "segmenter", steps, update)
    _console.print(f"Segmenter: {weights}")


@app.command("renal-phantoms")
def renal_phantoms(
    out: Annotated[Path, typer.Option(help="Gets train/ and test/ with image/ and label/ in each.")],
    cases: Annotated[int, typer.Option(min=1, help="Phantoms to train on.")] = 80,
    held_out: Annotated[int, typer.Option(min=1, help="Others, to measure on.")] = 12,
) -> None:
    """Write synthetic renal CT angiograms with a tumor, cysts and labelled vessels, for `train segmenter --preset`.

    Example: fvlm-node train renal-phantoms --out phantoms
    """
    with _stages() as stages, stages("phantoms") as update:
        from training.kipa22.run import write_phantoms

        write_phantoms(out, cases, held_out, lambda done, total: update(done, total, None))
    _console.print(f"Cases: {out}", soft_wrap=True)


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

        folder = train_phantom(out, size, stages, start)
    _console.print(f"Release: {folder}\nSegmenter: {out / 'segmenter'}\nMetrics: {out / 'metrics.json'}")


@app.command("text-agreement")
def text_agreement(
    reports: Annotated[int, typer.Option(min=1, help="Phantom reports to compare.")] = 1000,
    first: Annotated[int, typer.Option(min=0, help="Seed of the first of them.")] = 900_000,
    sentences: Annotated[
        Path | None, typer.Option(help="YAML file of annotated sentences; compare these, not phantoms.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a local language model that decomposes; none: the rules.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the language model's answers.")] = None,
    device: Annotated[str, typer.Option(help="Of the language model.")] = "cpu",
) -> None:
    """Measure how reports are decomposed by anatomy and labelled by finding (docs/researcher/report-text.md).

    Example: fvlm-node train text-agreement --reports 1000
    """
    with _stages() as stages, stages("reports") as update:
        from training.report_text.agreement_run import table

        found = table(
            range(first, first + reports), sentences, model, cache, device, lambda done: update(done, reports, None)
        )
    Console().print(found)


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
