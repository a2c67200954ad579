"""The agreement of the release in shadow with the current one, for a terminal and for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from node.releases.agreement import Agreement, Said


def as_json(agreement: Agreement) -> dict[str, Any]:
    """Everything, as plain values."""
    return asdict(agreement)


def headline(agreement: Agreement) -> list[str]:
    """How much was compared, and how it went as a whole."""
    counts = ", ".join(f"{count} {state}" for state, count in agreement.progress.items() if count)
    lines = [
        f"Release {agreement.shadow[:12]} in shadow of {agreement.current[:12]}: "
        f"{agreement.studies} series read by both",
        f"Readings in shadow: {counts or 'none yet'}",
    ]
    if agreement.same_verdict is not None:
        lines.append(f"Same verdict: {agreement.same_verdict:.1%} of all findings")
    if agreement.seconds is not None:
        current, shadow = agreement.seconds
        lines.append(
            f"Median seconds of the stage `read`: current {current:.2f}, shadow {shadow:.2f} "
            "(on the CPU, after everything else)"
        )
    return lines


def tables(agreement: Agreement) -> Iterator[Table]:
    """By finding, what only the shadow did not assess, and cases to look at; empty ones are left out."""
    if agreement.findings:
        table = Table(title="By finding", title_justify="left")
        table.add_column("Finding", overflow="fold")
        for name in (
            "Series",
            "Same verdict",
            "Kappa",
            "Correlation",
            "Mean difference",
            "Only current",
            "Only shadow",
        ):
            table.add_column(name, justify="right")
        for row in agreement.findings:
            table.add_row(
                row.finding,
                str(row.studies),
                f"{row.same_verdict:.1%}" if row.studies else "-",
                _number(row.kappa),
                _number(row.correlation),
                f"{row.mean_difference:+.3f}" if row.studies else "-",
                str(row.only_current),
                str(row.only_shadow),
            )
        yield table
    if agreement.not_assessed:
        table = Table("Anatomy and reason", "Series", title="Not assessed in shadow only", title_justify="left")
        for what, count in agreement.not_assessed.items():
            table.add_row(what, str(count))
        yield table
    if agreement.cases:
        table = Table("Job", "Finding", "Current", "Shadow", title="Cases to look at", title_justify="left")
        for case in agreement.cases:
            table.add_row(str(case.job_id), case.finding, _said(case.current), _said(case.shadow))
        yield table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _said(said: Said) -> str:
    return f"{said.verdict}, {said.probability:.1%}"
