"""`fvlm-node check-sr`: an SR as text, and what dciodvfy says of it."""

from pathlib import Path

from dicom_sr import ReadError, ToolMissingError, as_text, open_report
from dicom_sr.validate import validate
from node.errors import CommandError


def check(file: Path) -> tuple[str, str, bool]:
    """The content tree, what the validator said, and whether it found no error. Raises CommandError."""
    try:
        text = as_text(open_report(file))
        found = validate(file)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", "Name a DICOM SR.") from error
    except ReadError as error:
        raise CommandError(f"{file} is {error}.", "Name a DICOM SR.") from error
    except ToolMissingError as error:
        raise CommandError("dciodvfy is missing.", str(error)) from error
    lines = [f"dciodvfy: {line}" for line in (*found.errors, *found.warnings)]
    return text, "\n".join(lines) or "dciodvfy: no errors", found.ok
