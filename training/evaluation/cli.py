"""`fvlm-node evaluate …`"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from config.settings import Settings, SettingsError
from training.evaluation.data_set import DataError, DataSet

app = typer.Typer(no_args_is_help=True, help="Measure a release on public data sets. Offline; needs no running node.")

Data = Annotated[Path, typer.Option(help="Folder of the data set, in its published layout.")]
Release = Annotated[Path, typer.Option(help="Folder of the model release.")]
Out = Annotated[Path, typer.Option(help="Folder for predictions and report; an interrupted run goes on from there.")]
Masks = Annotated[
    Path | None, typer.Option(help="Folder with ready label maps NAME.nii.gz; none: the configured segmenter.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="The node's configuration: its segmenter.")]


@app.callback()
def _group() -> None:
    """Measure a release on public data sets. Offline; needs no running node."""


@app.command(
    "ct-rate", epilog="Example: fvlm-node evaluate ct-rate --data CT-RATE --release fvlm-release --out ct-rate"
)
def ct_rate(
    data: Data,
    release: Release,
    out: Out,
    masks: Masks = None,
    split: Annotated[str, typer.Option(help="`valid` (3,039 volumes) or `train`.")] = "valid",
    config: ConfigFile = None,
) -> None:
    """CT-RATE: 16 findings by the published protocol, and with thresholds from other patients."""
    from training.evaluation.ct_rate import read_ct_rate

    if split not in ("valid", "train"):
        _fail(Console(stderr=True), f"--split {split}: there are valid and train")
    _run(lambda: read_ct_rate(data, split), release, out, masks, config)


@app.command(
    "rad-chestct", epilog="Example: fvlm-node evaluate rad-chestct --data RAD --release fvlm-release --out rad-chestct"
)
def rad_chestct(data: Data, release: Release, out: Out, masks: Masks = None, config: ConfigFile = None) -> None:
    """Rad-ChestCT: 14 labels by the published protocol, and with thresholds from other patients."""
    from training.evaluation.rad_chestct import read_rad_chestct

    _run(lambda: read_rad_chestct(data), release, out, masks, config)


def _run(read: Callable[[], DataSet], release: Path, out: Path, masks: Path | None, config: Path | None) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        settings = Settings.load(config)
        data = read()
        from ct.anatomy import SegmenterWeightsError
        from fvlm import ReleaseError
        from training.evaluation.report import tables, write
        from training.evaluation.run import evaluate

        try:
            with Progress(*columns, console=console) as bars:
                task = bars.add_task(data.name, total=len(data.cases))
                result = evaluate(
                    data,
                    release,
                    masks,
                    settings,
                    out,
                    lambda done, total: bars.update(task, completed=done, total=total),
                )
            files = write(result, out)
        except (ReleaseError, SegmenterWeightsError) as error:
            _fail(console, str(error))
    except (DataError, SettingsError) as error:
        _fail(console, str(error))
    except OSError as error:
        _fail(console, f"{error.filename or out}: {error.strerror}; name another folder with --out")
    for table in tables(result):
        Console().print(table)
    for name, why in result.problems.items():
        console.print(f"[yellow]not read:[/yellow] {escape(name)}: {escape(why)}", soft_wrap=True, highlight=False)
    console.print(f"Report: {', '.join(map(str, files))}", soft_wrap=True, highlight=False)


def _fail(console: Console, text: str) -> NoReturn:
    console.print(f"[red]Problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)
