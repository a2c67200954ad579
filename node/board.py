"""Progress of a run with several steps at once: moving bars on a terminal, one line a finished step elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Board:
    """A context manager; steps appear in the order in which they are first told of."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._rows: dict[str, TaskID] = {}
        self._finished: set[str] = set()
        self.current = ""
        """The first step that is not finished."""
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/dim]"),
            console=console,
            disable=not console.is_terminal,
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds since the board was made."""
        return time.monotonic() - self._started

    def tell(self, step: str, done: int, total: int, note: str = "") -> None:
        """How far a step is; `done == total` finishes it for good."""
        if step in self._finished:
            return
        if step not in self._rows:
            self._rows[step] = self._progress.add_task(step, total=total, note="")
        self._progress.update(self._rows[step], completed=done, total=total, note=note)
        if total and done >= total:
            self._finished.add(step)
            if not self._console.is_terminal:
                line = f"[{self.elapsed_s:5.1f} s] {step}: {done} of {total}"
                self._console.print(line, markup=False, highlight=False)
        self.current = next((row for row in self._rows if row not in self._finished), "")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
