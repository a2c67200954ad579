"""`fvlm-node calibrate`"""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(subcommand_metavar="")


@app.callback(
    invoke_without_command=True,
    epilog="Example: fvlm-node calibrate --labels labels.csv --predictions run/predictions.csv --release fvlm-release "
    "--out fvlm-release-calibrated",
)
def calibrate(
    labels: Annotated[
        Path, typer.Option(help="CSV: volumes in the first column, 0 or 1 in columns named by findings.")
    ],
    predictions: Annotated[Path, typer.Option(help="predictions.csv of fvlm-node evaluate with the same release.")],
    release: Annotated[Path, typer.Option(help="Folder of the release.")],
    out: Annotated[Path, typer.Option(help="Folder of the new release; it must not exist.")],
    method: Annotated[str, typer.Option(help="`platt` (slope and intercept) or `temperature` (slope only).")] = "platt",
    specificity: Annotated[float, typer.Option(min=0, max=1, help="Of the verdict present.")] = 0.95,
    sensitivity: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the positives that are not to be called absent.")
    ] = 0.95,
    youden: Annotated[bool, typer.Option("--youden", help="Present from Youden's threshold on instead.")] = False,
) -> None:
    """Fit calibration and operating points of a release on labelled volumes; writes a new release."""
    from fvlm import ReleaseError
    from training.evaluation.data_set import DataError
    from training.recalibrate import Wish, recalibrate, rows

    console = Console(stderr=True)
    try:
        if method not in ("platt", "temperature"):
            raise DataError(f"--method {method}: there are platt and temperature")
        wish = Wish(cast(Literal["platt", "temperature"], method), None if youden else specificity, sensitivity)
        found = recalibrate(release, labels, predictions, out, wish)
    except (DataError, ReleaseError) as error:
        console.print(f"[red]Problem:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from error
    except OSError as error:
        where = f"{error.filename or out}: {error.strerror}; name another folder with --out"
        console.print(f"[red]Problem:[/red] {escape(where)}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from error
    table = Table(
        title="Calibration and operating points",
        title_justify="left",
        caption="Sensitivity to Brier: on patients that the fit did not see; missed: positives called absent.",
        caption_justify="left",
    )
    for title in (
        "Finding", "Positive", "AUC", "Absent below", "Present from", "Sensitivity", "Specificity", "Missed",
        "Undetermined", "Brier before, after",
    ):  # fmt: skip
        table.add_column(title, justify="left" if title == "Finding" else "right")
    for row in rows(found.fits):
        table.add_row(*row)
    Console().print(table)
    for finding, why in found.unchanged.items():
        console.print(f"[yellow]unchanged:[/yellow] {finding}: {escape(why)}", soft_wrap=True, highlight=False)
    console.print(f"{out} written, digest {found.digest}", soft_wrap=True, highlight=False)
