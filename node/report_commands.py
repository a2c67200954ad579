"""`fvlm-node report`: reports of others, read."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.errors import CommandError

report_app = typer.Typer(help="Reports that others wrote.", no_args_is_help=True)


@report_app.callback()
def _group() -> None:
    """Keeps `read` a command of its own."""


@report_app.command("read", epilog="Example: fvlm-node report read report.hl7 --json")
def read(
    file: Annotated[Path, typer.Argument(help="DICOM SR, encapsulated PDF or CDA, HL7 ORU, FHIR JSON, CDA or PDF.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what is understood of a report: identifiers, status, sections, coded findings. It may show patient data."""
    from dicom_sr.reports_in import LARGEST, Report, ReportError, read_report

    try:
        with file.open("rb") as stream:
            report: Report = read_report(stream.read(LARGEST + 1))
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", "Name a file with one report.") from error
    except ReportError as error:
        raise CommandError(f"{file}: {error}.", error.reason.cure) from error
    if as_json:
        typer.echo(json.dumps(asdict(report), default=str, ensure_ascii=False, indent=1))
        return
    for name in ("source", "status", "title", "study_instance_uid", "accession_number", "patient_id", "document_id",
                 "issued", "language", "observer", "observer_name"):  # fmt: skip
        if value := getattr(report, name):
            typer.echo(f"{name.replace('_', ' ')}: {value}")
    for section in report.sections:
        typer.echo(f"\n[{section.title or 'text'}]\n{section.text}")
    if report.findings:
        typer.echo("\n[coded findings]")
    for finding in report.findings:
        code, site = finding.code, finding.site
        parts = [f"{code.meaning} ({code.value}, {code.scheme_designator})", finding.presence and str(finding.presence)]
        parts += [f"in {site.meaning}" if site else "", f"tracking UID {uid}" if (uid := finding.tracking_uid) else ""]
        if finding.certainty_percent is not None:
            parts.append(f"certainty {finding.certainty_percent:g} %")
        typer.echo(", ".join(part for part in parts if part))
