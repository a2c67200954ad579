"""The end of the demo: what the archive holds, checked, written out and shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from rich.console import Console
from rich.markup import escape

from config import Output, load_vocabulary
from dicom_sr import TEST_MARKER, ReadError, output_of, read
from dicom_sr.validate import validate
from fvlm.reading import Reading
from node.errors import CommandError
from node.folder_scan import Problems
from node.results import write_results
from node.show import reading_table, seconds_table
from node.states import State
from node.watch import ArchiveView, SeriesState

_NEGATIVES = ("No finding of the model's list is present", "None of the ")
"""How the SR's sentence begins that says nothing is present: of the whole list, or of what was judged."""


@dataclass(frozen=True)
class Outcome:
    """What the node made of one series."""

    name: str
    series_uid: str
    ct_folder: Path
    place: str
    """How many images in that folder, and where."""
    drawn: tuple[str, ...] | None
    """Findings drawn into a phantom, () for a healthy one; None for anybody's CT."""
    state: SeriesState
    seconds: dict[str, float]


class _Trouble:
    """Prints one line a problem and counts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.count = 0

    def tell(self, text: str) -> None:
        self.count += 1
        self._console.print(f"[red]Problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)


def show_outcomes(
    outcomes: Sequence[Outcome], archive: ArchiveView, out: Path, console: Console, problems: Problems
) -> int:
    """Read every result back from the archive, check it, write it below `out`, show it. 0 if all is well, else 2.

    Somebody's own series that the node refuses (a localizer, say) is one of the `problems`, and no failure as long as
    one was read.
    """
    trouble = _Trouble(console)
    seconds = {}
    written: list[Path] = []
    for number, outcome in enumerate(outcomes, 1):
        if not outcome.state.sent:
            _tell_refusal(outcome, trouble, problems)
            continue
        folder = out / (f"patient-{number}" if outcome.drawn is not None else f"series-{number}")
        found = _fetch(outcome, archive, trouble)
        if found is None:
            continue
        with console.status(f"{outcome.name}: dciodvfy"):
            reading = _check(outcome, found, trouble)
            written += write_results(folder, found)
        seconds[outcome.name] = outcome.seconds
        console.print(reading_table(_title(outcome), reading))
        for note in outcome.state.notes:
            console.print(f"{outcome.name}: {escape(note)}", soft_wrap=True, highlight=False)
    if any(outcome.drawn is None for outcome in outcomes):
        console.print(f"Series read: {len(seconds)} of {len(outcomes)}. Problems: {problems.count}.", highlight=False)
    if seconds:
        console.print(seconds_table(seconds))
        _say_where(out, written, console)
    return 2 if trouble.count or not seconds else 0


def _tell_refusal(outcome: Outcome, trouble: _Trouble, problems: Problems) -> None:
    state = outcome.state
    if outcome.drawn is None and state.state == State.REJECTED and state.reason is not None:
        problems.report(f"{outcome.name} ({outcome.place})", state.reason, state.detail)
        return
    reason = "no reason" if state.reason is None else f"{state.reason}: {state.detail or state.reason.meaning}"
    trouble.tell(f"{outcome.name} ended as {state.state}, {reason}")


def _fetch(outcome: Outcome, archive: ArchiveView, trouble: _Trouble) -> list[Dataset] | None:
    """The results of a series from the archive, its SR last; None if there is no SR."""
    found = archive.results_of(outcome.series_uid)
    kinds = [output_of(dataset) for dataset in found]
    wanted = [Output.SR] if outcome.drawn is None else [Output.SEG, Output.SR]
    for kind in wanted:
        if kind not in kinds:
            trouble.tell(f"{outcome.name}: the archive holds no {kind} for it")
    return found if Output.SR in kinds else None


def _check(outcome: Outcome, found: list[Dataset], trouble: _Trouble) -> Reading:
    """Everything the objects must fulfil; the reading as the SR tells it."""
    for dataset in found:
        for error in validate(dataset).errors:
            trouble.tell(f"{outcome.name}: {output_of(dataset)}: dciodvfy: {error}")
    try:
        report = read(found[-1])
    except ReadError as error:
        raise CommandError(f"{outcome.name}: the SR in the archive cannot be read: {error}", "Report it.") from error
    if report.reading.test_only and TEST_MARKER not in report.statements:
        trouble.tell(f"{outcome.name}: the SR is not marked as made by a test model")
    if outcome.drawn == () and not any(said.startswith(_NEGATIVES) for said in report.statements):
        named = ", ".join(finding.key for finding in report.reading.positives) or "nothing"
        trouble.tell(f"{outcome.name} is healthy, and its SR does not say so; it names: {named}")
    return report.reading


def _title(outcome: Outcome) -> str:
    if outcome.drawn is None:
        return outcome.name
    titles = [load_vocabulary().finding(key).title.lower() for key in outcome.drawn]
    return f"{outcome.name} (phantom, drawn: {', '.join(titles) or 'healthy'})"


def _say_where(out: Path, written: Sequence[Path], console: Console) -> None:
    pictures = [file for file in written if file.suffix == ".png"]
    lines = [
        "Read back from the archive, and written:",
        *(f"  {file}" for file in written),
        "",
        "Next:",
        f"  1. Look at {pictures[0]}",
        f"  2. Your own CT:          fvlm-node demo --input DIR --out {out}",
        "  3. A node that stays:    fvlm-node init node.yaml, then fvlm-node serve --config node.yaml",
        "(fvlm-node is .venv/bin/fvlm-node)",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
