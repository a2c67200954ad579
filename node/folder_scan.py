"""Somebody's folder of DICOM files: its series, and one line for each thing in it that cannot be used."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from config import Reason
from ct.series import Series, scan_folder


class Problems:
    """Prints one line a problem, as it is met, and counts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.count = 0

    def report(self, what: str, reason: Reason, detail: str) -> None:
        """`detail` empty: the meaning of the reason."""
        self.count += 1
        text = f"[red]{reason}[/red]  {escape(what)}: {escape(detail or reason.meaning)} → {escape(reason.cure)}"
        self._console.print(text, soft_wrap=True, highlight=False)


def progress_bar(console: Console) -> Progress:
    """A bar that vanishes when it is done; nothing where nobody watches."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def find_series(folder: Path, console: Console, problems: Problems) -> list[Series]:
    """Every series below a folder; files that cannot be used, and a folder without DICOM, are problems."""
    files = 0
    with progress_bar(console) as progress:
        bar = progress.add_task("looking through the folder", total=None)

        def looked(done: int, total: int) -> None:
            nonlocal files
            files = total
            progress.update(bar, completed=done, total=total)

        scan = scan_folder(folder, looked)
    for problem in scan.problems:
        problems.report(str(problem.path.relative_to(folder)), problem.reason, problem.detail)
    if not scan.series and not scan.problems:
        problems.report(str(folder), Reason.NOT_DICOM, f"none of its {files} files is DICOM")
    other = files - len(scan.problems) - sum(len(series.headers) for series in scan.series)
    if other and scan.series:
        left_out = "1 file is no DICOM image and was" if other == 1 else f"{other} files are no DICOM images and were"
        console.print(f"{left_out} passed over", highlight=False)
    return scan.series


def place_of(series: Series, folder: Path) -> str:
    """Where a series lies in the folder, for a person."""
    return f"{len(series.headers)} images, the first {series.headers[0].source.path.relative_to(folder)}"
