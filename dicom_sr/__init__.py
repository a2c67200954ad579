"""A Reading as DICOM objects (SEG, SR) and as a summary page; our SR read back; objects validated.

The names below are loaded on first use: whoever reads reports needs no encoder, and the other way round.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_sr.errors import ReadError, WriteError
    from dicom_sr.identity import NOT_VERIFIED, TEST_MARKER, Predecessor, WriteContext
    from dicom_sr.parse import ParsedReport, as_text, open_report, read
    from dicom_sr.summary_image import summary_page, write_summary_page
    from dicom_sr.validate import ToolMissingError, Validation, validate_set
    from dicom_sr.writer import write

__all__ = [
    "NOT_VERIFIED",
    "TEST_MARKER",
    "ParsedReport",
    "Predecessor",
    "ReadError",
    "ToolMissingError",
    "Validation",
    "WriteContext",
    "WriteError",
    "as_text",
    "open_report",
    "read",
    "summary_page",
    "validate_set",
    "write",
    "write_summary_page",
]

_HOMES = {
    "errors": ("ReadError", "WriteError"),
    "identity": ("NOT_VERIFIED", "TEST_MARKER", "Predecessor", "WriteContext"),
    "parse": ("ParsedReport", "as_text", "open_report", "read"),
    "summary_image": ("summary_page", "write_summary_page"),
    "validate": ("ToolMissingError", "Validation", "validate_set"),
    "writer": ("write",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"dicom_sr.{home}"), name)
    raise AttributeError(f"module 'dicom_sr' has no attribute {name!r}")
