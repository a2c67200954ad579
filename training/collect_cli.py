"""`fvlm-node train collect`"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from training.archive.collecting import Summary
    from training.archive.entries import Archive
    from training.archive.settings import CollectSettings

_BAD_END, _INTERRUPTED = 2, 130
_STRANGERS = ("pydicom", "pynetdicom", "dicomweb_client", "urllib3", "requests", "pypdf", "ct")
"""Loggers that may quote values of headers, or URLs with UIDs."""


def collect(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the collection; an interrupted one is gone on with.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML with any of the settings.")] = None,
    pacs: Annotated[str | None, typer.Option(metavar="AET@HOST:PORT", help="Archive that is a DICOM node.")] = None,
    calling: Annotated[str | None, typer.Option(help="AE title to call it with; it has to know it.")] = None,
    retrieve: Annotated[str | None, typer.Option(help="`get` (C-GET) or `move` (C-MOVE to --listen).")] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen for C-MOVE.")] = None,
    dicomweb: Annotated[str | None, typer.Option(metavar="URL", help="Archive with QIDO-RS and WADO-RS.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Archive that is a folder with DICOM files.")] = None,
    reports: Annotated[
        list[Path] | None,
        typer.Option(
            help="File or folder with reports: HL7, FHIR, CDA, SR, CSV. Those in the archive are found anyway."
        ),
    ] = None,
    feedback: Annotated[Path | None, typer.Option(help="File that `fvlm-node feedback export` wrote.")] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="Earliest day of study.")
    ] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Latest day of study.")] = None,
    rate: Annotated[float | None, typer.Option(help="Images a second at most, on average.")] = None,
    night: Annotated[str | None, typer.Option(metavar="HH:MM-HH:MM", help="Fetch only then, local time.")] = None,
    private: Annotated[
        Path | None, typer.Option(help="Folder of salt, ledger and images on their way; none: OUT.private.")
    ] = None,
) -> None:
    """Collect de-identified pairs of CT and report from the archive, for training.

    Exit status 2 if it could not go on; the same command then goes on where it was.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from training.archive.entries import ArchiveAwayError, CollectError
    from training.collection import CollectionError

    console = Console(stderr=True)
    options: dict[str, Any] = {
        "out": out,
        "private": private,
        "folder": folder,
        "reports": tuple(reports) if reports else None,
        "feedback": feedback,
        "first": first.date() if first else None,
        "last": last.date() if last else None,
        "dicomweb": {"url": dicomweb} if dicomweb else None,
    }
    try:
        options["pacs"] = _pacs(pacs, calling, retrieve, listen)
        options["pace"] = _pace(rate, night)
        with _silence():
            summary = _run(config, options, console)
    except (CollectError, CollectionError, ArchiveAwayError) as error:
        _problem(console, str(error))
        raise typer.Exit(_BAD_END) from None
    except OSError as error:
        _problem(console, f"{error.filename or out}: {error.strerror}; name another folder, or make room")
        raise typer.Exit(_BAD_END) from None
    except SQLAlchemyError as error:
        cause = f"the ledger in the private folder cannot be used ({type(error).__name__})"
        _problem(console, f"{cause}: the disk is full, or the file is damaged")
        raise typer.Exit(_BAD_END) from None
    except KeyboardInterrupt:
        _problem(console, "stopped; the same command goes on from here")
        raise typer.Exit(_INTERRUPTED) from None
    _show(summary)
    if summary.stopped:
        _problem(console, f"{summary.stopped}. The same command goes on from here")
        raise typer.Exit(_BAD_END)


def _run(config: Path | None, options: dict[str, Any], console: Console) -> "Summary":
    from training.archive.collecting import Collector
    from training.archive.pace import Pace
    from training.archive.settings import load

    settings = load(config, options)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def update(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        def waiting(until: datetime) -> None:
            bars.print(f"Waiting until {until:%H:%M}: images are fetched at night only")

        archive = _archive(settings, update)
        try:
            return Collector(settings, archive, Pace(settings.pace, waiting=waiting), update).run()
        finally:
            archive.close()


def _archive(settings: "CollectSettings", update: Any) -> "Archive":
    if settings.pacs is not None:
        from training.archive.dimse import DimseArchive
        from training.archive.private import staging

        return DimseArchive(settings.pacs, staging(settings.private_folder))
    if settings.dicomweb is not None:
        from training.archive.dicomweb import DicomWebArchive

        return DicomWebArchive(settings.dicomweb)
    from training.archive.folder import FolderArchive

    assert settings.folder is not None
    archive = FolderArchive(settings.folder, lambda done, total: update("reading headers", done, total))
    if archive.unreadable:
        update("unreadable files (.dcm)", archive.unreadable, archive.unreadable)
    return archive


def _pacs(pacs: str | None, calling: str | None, retrieve: str | None, listen: str | None) -> dict[str, Any] | None:
    """Raises CollectError."""
    from training.archive.entries import CollectError

    if pacs is None:
        if calling or retrieve or listen:
            raise CollectError("--calling, --retrieve and --listen belong to --pacs; in a configuration set pacs there")
        return None
    title, _, where = pacs.rpartition("@")
    host, port = _host_port(where, f"--pacs {pacs} is not AET@HOST:PORT")
    found: dict[str, Any] = {"ae_title": title, "host": host, "port": port, "calling": calling, "retrieve": retrieve}
    if listen is not None:
        found["listen_host"], found["listen_port"] = _host_port(listen, f"--listen {listen} is not HOST:PORT")
    return {key: value for key, value in found.items() if value is not None}


def _host_port(text: str, problem: str) -> tuple[str, int]:
    from training.archive.entries import CollectError

    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise CollectError(problem)
    return host, int(port)


def _pace(rate: float | None, night: str | None) -> dict[str, Any] | None:
    """Raises CollectError."""
    from training.archive.entries import CollectError

    found: dict[str, Any] = {} if rate is None else {"images_per_second": rate}
    if night is not None:
        opens, dash, closes = night.partition("-")
        if not dash:
            raise CollectError(f"--night {night} is not HH:MM-HH:MM")
        found |= {"night_from": opens.strip(), "night_to": closes.strip()}
    return found or None


@contextmanager
def _silence() -> Iterator[None]:
    """What libraries say of odd values quotes them."""
    loggers = [logging.getLogger(name) for name in _STRANGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _show(summary: "Summary") -> None:
    from config import Reason

    table = Table(title="Collection", title_justify="left")
    for title in ("What", "Number", "Why"):
        table.add_column(title, justify="right" if title == "Number" else "left")
    table.add_row("pairs", str(summary.kept), "")
    for reason, count in sorted(summary.studies.items()):
        meaning = Reason(reason).meaning if reason in Reason.__members__ else ""
        table.add_row(f"studies: {reason}", str(count), meaning)
    for reason, count in sorted(summary.reports.items()):
        table.add_row(f"reports: {reason or 'joined'}", str(count), Reason(reason).meaning if reason else "")
    for what, count in zip(("verdicts beside pairs", "verdicts without a pair"), summary.feedback, strict=True):
        if count:
            table.add_row(what, str(count), "")
    console = Console()
    console.print(table)
    console.print(f"What was not taken, row by row: {summary.rows}", soft_wrap=True, highlight=False)


def _problem(console: Console, text: str) -> None:
    console.print(f"[red]Problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)
