"""`fvlm-node check-sr`: an SR as text, what dciodvfy says of it, and what viewers would make of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_sr import ReadError, ToolMissingError, as_text, open_report
from dicom_sr.validate import validate
from dicom_sr.viewer_check import Result, check_for
from dicom_sr.viewers import Viewer
from node.errors import CommandError


@dataclass(frozen=True)
class Checked:
    """What was found about one report."""

    text: str
    """The content tree."""
    verdict: str
    """What the validator and the viewers' rules say, line by line."""
    ok: bool
    """No error of the validator and no rule broken that keeps a viewer from opening it."""


def check(file: Path, viewers: Sequence[Viewer] = ()) -> Checked:
    """Check one file. Raises CommandError if it cannot be read as an SR."""
    try:
        dataset = open_report(file)
        text = as_text(dataset)
        results = [(viewer, result) for viewer in viewers for result in check_for(dataset, viewer)]
        found = validate(file)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", "Name a DICOM SR.") from error
    except ReadError as error:
        raise CommandError(f"{file} is {error}.", "Name a DICOM SR.") from error
    except ToolMissingError as error:
        raise CommandError("dciodvfy is missing.", str(error)) from error
    lines = [f"dciodvfy: {line}" for line in (*found.errors, *found.warnings)] or ["dciodvfy: no errors"]
    lines += [line for viewer, result in results for line in _told(viewer, result)]
    broken = any(result.check.fatal and not result.holds for _, result in results)
    return Checked(text, "\n".join(lines), found.ok and not broken)


def _told(viewer: Viewer, result: Result) -> list[str]:
    if result.holds:
        return [f"{viewer}: ok       {result.check.name}"]
    word = "broken  " if result.check.fatal else "shows less"
    return [
        f"{viewer}: {word} {result.check.name}: {result.check.why}",
        f"{viewer}:          -> {result.check.cure}",
    ]
