"""Readings for the terminal: the same tables for `analyze` and `demo`."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from config import Vocabulary, load_vocabulary
from fvlm.reading import AnatomyReading, Finding, Reading, Verdict

_STYLES = {
    Verdict.PRESENT: "bold red",
    Verdict.UNDETERMINED: "yellow",
    Verdict.ABSENT: "dim",
    Verdict.NO_OPERATING_POINT: "",
}


def reading_table(title: str, reading: Reading) -> Table:
    """One row an anatomy: its findings with probability and verdict, or why it was not assessed."""
    vocabulary = load_vocabulary()
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left", expand=False)
    table.add_column("Anatomy", no_wrap=True)
    table.add_column("Volume", justify="right", no_wrap=True)
    table.add_column(f"Findings: verdict, probability ({reading.calibration})", overflow="fold")
    for anatomy in reading.anatomies:
        table.add_row(
            vocabulary.anatomy(anatomy.anatomy).title, f"{anatomy.volume_ml:,.0f} ml", _findings(anatomy, vocabulary)
        )
    for left_out in reading.not_assessed:
        why = f"not assessed: {left_out.reason} - {left_out.reason.meaning}"
        table.add_row(vocabulary.anatomy(left_out.anatomy).title, "", Text(why, style="yellow"))
    table.caption = f"Summary: {_summary(reading, vocabulary)}"
    return table


def seconds_table(columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Wall seconds: one row a stage, one column a patient or series."""
    table = Table(title="Wall time, seconds", title_justify="left", title_style="bold")
    table.add_column("Stage")
    for name in columns:
        table.add_column(name, justify="right")
    stages = dict.fromkeys(stage for seconds in columns.values() for stage in seconds)
    for stage in stages:
        cells = [f"{seconds[stage]:.1f}" if stage in seconds else "" for seconds in columns.values()]
        table.add_row(stage.replace("_", " "), *cells)
    return table


def _summary(reading: Reading, vocabulary: Vocabulary) -> str:
    """What is present; a negative only where something was judged."""
    if reading.positives:
        return ", ".join(vocabulary.finding(finding.key).title for finding in reading.positives)
    every = [finding for anatomy in reading.anatomies for finding in anatomy.findings]
    judged = [finding for finding in every if finding.verdict is not Verdict.NO_OPERATING_POINT]
    if not every:
        return "nothing was assessed: nothing is said about this series"
    if not judged:
        return f"{len(every)} findings asked; none has an operating point, nothing is concluded"
    anatomies = len({finding.anatomy for finding in judged})
    unsure = sum(finding.verdict is Verdict.UNDETERMINED for finding in judged)
    told = f", {unsure} undetermined" if unsure else ""
    return f"nothing present among {len(judged)} judged findings in {anatomies} assessed anatomies{told}"


def _findings(anatomy: AnatomyReading, vocabulary: Vocabulary) -> Text:
    if not anatomy.findings:
        return Text("nothing asked", style="dim")
    return Text("\n").join(_line(group, vocabulary) for group in _by_verdict(anatomy.findings))


def _by_verdict(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Present findings a line each, then all others of one verdict on one line."""
    lines = [[finding] for finding in findings if finding.verdict is Verdict.PRESENT]
    for verdict in (Verdict.UNDETERMINED, Verdict.NO_OPERATING_POINT, Verdict.ABSENT):
        lines.append([finding for finding in findings if finding.verdict is verdict])
    return [line for line in lines if line]


def _line(findings: Sequence[Finding], vocabulary: Vocabulary) -> Text:
    verdict = findings[0].verdict
    parts = ", ".join(f"{vocabulary.finding(f.key).title} {100 * f.probability:.0f} %" for f in findings)
    return Text(f"{verdict}: {parts}", style=_STYLES[verdict])
