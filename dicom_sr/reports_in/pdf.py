"""The text of a PDF, out of a child process with limits (`pdf_child`): it cannot hang or eat up the caller."""

import json
import subprocess
import sys

from config import Reason
from dicom_sr.reports_in import pdf_child, text
from dicom_sr.reports_in.parts import ReportError, Section

_COMMAND = (sys.executable, "-P", pdf_child.__file__)
"""`-P`: the folder of the script is no place to import from."""
_WAIT_S = 120.0
"""Longest wait, seconds; the child's limit of processor time comes first unless it sleeps."""
_REASONS = {
    pdf_child.ENCRYPTED: (Reason.REPORT_ENCRYPTED, "the PDF asks for a password"),
    pdf_child.DAMAGED: (Reason.REPORT_DAMAGED, "the PDF cannot be read"),
    pdf_child.TOO_LARGE: (Reason.REPORT_TOO_LARGE, "the PDF needs more than a report may"),
}


def sections(data: bytes) -> list[Section]:
    """The text of all pages, by its headings. Raises ReportError; without text (a scan): REPORT_NO_TEXT."""
    try:
        done = subprocess.run(_COMMAND, input=data, capture_output=True, timeout=_WAIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ReportError(Reason.REPORT_DAMAGED, f"the PDF was not read within {_WAIT_S:g} s") from error
    if done.returncode:
        raise ReportError(Reason.REPORT_DAMAGED, f"reading the PDF ended its process (status {done.returncode})")
    answer = json.loads(done.stdout)
    if isinstance(answer, dict):
        raise ReportError(*_REASONS[answer["error"]])
    whole = text.plain("\n".join(answer))
    if not whole:
        raise ReportError(Reason.REPORT_NO_TEXT, "the PDF has no text; it may be a scan")
    return text.split("", whole)
