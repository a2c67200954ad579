"""`fvlm-node feedback`: what readers said of results, taken from files and given to training."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.settings import Settings
from node.errors import CommandError

if TYPE_CHECKING:
    from pydicom import Dataset

feedback_app = typer.Typer(help="What readers said of results.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; none: the defaults.")]
_BAD_END = 2


@feedback_app.command("import", epilog="Example: fvlm-node feedback import exported-sr --config fvlm-node.yaml")
def import_feedback(
    where: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="SR and Key Object Selections, as DICOM files.")],
    config: ConfigFile = None,
) -> None:
    """Take readers' verdicts from edited SR (with our tracking UIDs) and Key Object Selections that refer to results.

    A file that was taken before changes nothing. Exit status 2 if one was refused or none was taken.
    """
    from dicom_sr.reports_in import ReportError
    from dicom_sr.verdicts import read_statement
    from node.feedback_taking import FeedbackError, FeedbackTaker
    from node.pseudonyms import Pseudonyms
    from node.status import open_existing

    if not where.exists():
        raise CommandError(f"{where} is not there.", "Name a DICOM file or a folder with such files.")
    settings = Settings.load(config)
    records = open_existing(settings)
    taker = FeedbackTaker(Pseudonyms(settings.data_dir), settings.results_dir)
    good = refused = 0
    for file, dataset in _datasets(where):
        try:
            statement = read_statement(dataset)
            with records.session() as session:
                taken = taker.take(session, statement)
        except (ReportError, FeedbackError) as error:
            refused += isinstance(error, FeedbackError)
            typer.echo(f"{file}: {error} → {error.reason.cure}")
            continue
        good += 1
        extra = f", {taken.unknown} findings are not ours" if taken.unknown else ""
        typer.echo(f"{file}: {taken.new} new verdicts, {taken.known} known{extra}")
    typer.echo(f"{good} files taken, {refused} refused")
    if refused or not good:
        raise typer.Exit(_BAD_END)


@feedback_app.command("export", epilog="Example: fvlm-node feedback export --out feedback.jsonl")
def export_feedback(
    out: Annotated[Path, typer.Option(help="File to write, one JSON object a line; it is replaced.")],
    config: ConfigFile = None,
) -> None:
    """Write all verdicts for training: study, series, finding, what we said, what the reader said. No patient data."""
    from node.feedback_rows import export
    from node.status import open_existing

    count = 0
    records = open_existing(Settings.load(config))
    draft = out.with_name(f"{out.name}.part")
    try:
        with draft.open("w", encoding="utf-8") as file, records.reading() as session:
            for line in export(session):
                file.write(json.dumps(asdict(line), default=lambda moment: moment.isoformat()) + "\n")
                count += 1
        draft.replace(out)
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}.", "Name another file with --out.") from error
    typer.echo(f"{count} verdicts in {out}")


def _datasets(where: Path) -> "Iterator[tuple[Path, Dataset]]":
    """The DICOM files there, with the ones of subfolders; what is no DICOM is passed over in a folder."""
    from dicom_sr import ReadError, open_report

    for file in sorted(path for path in where.rglob("*") if path.is_file()) if where.is_dir() else [where]:
        try:
            yield file, open_report(file)
        except ReadError as error:
            if not where.is_dir():
                raise CommandError(f"{file} is {error}.", "Name a DICOM SR or Key Object Selection.") from error
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}.", "Make it readable.") from error
