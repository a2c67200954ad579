"""A Reading as DICOM objects (SEG, SR and companions); our SR read back; objects validated.

The names below are loaded on first use: whoever reads reports needs no encoder, and the other way round.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_sr.errors import ReadError, WriteError
    from dicom_sr.identity import NOT_VERIFIED, TEST_MARKER, Predecessor, WriteContext
    from dicom_sr.outputs import output_of
    from dicom_sr.parse import ParsedReport, as_text, open_report, read
    from dicom_sr.prior import Change, Prior, Said
    from dicom_sr.validate import ToolMissingError, Validation, validate_set
    from dicom_sr.writer import write

__all__ = [
    "NOT_VERIFIED",
    "TEST_MARKER",
    "Change",
    "ParsedReport",
    "Predecessor",
    "Prior",
    "ReadError",
    "Said",
    "ToolMissingError",
    "Validation",
    "WriteContext",
    "WriteError",
    "as_text",
    "open_report",
    "output_of",
    "read",
    "validate_set",
    "write",
]

_HOMES = {
    "outputs": ("output_of",),
    "errors": ("ReadError", "WriteError"),
    "identity": ("NOT_VERIFIED", "TEST_MARKER", "Predecessor", "WriteContext"),
    "parse": ("ParsedReport", "as_text", "open_report", "read"),
    "prior": ("Change", "Prior", "Said"),
    "validate": ("ToolMissingError", "Validation", "validate_set"),
    "writer": ("write",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"dicom_sr.{home}"), name)
    raise AttributeError(f"module 'dicom_sr' has no attribute {name!r}")
