"""A Reading as DICOM objects (SEG, SR and companions); our SR read back; objects validated."""

from dicom_sr.companions import output_of
from dicom_sr.errors import ReadError, WriteError
from dicom_sr.identity import NOT_VERIFIED, TEST_MARKER, WriteContext
from dicom_sr.parse import ParsedReport, as_text, open_report, read
from dicom_sr.validate import ToolMissingError, Validation, validate_set
from dicom_sr.writer import write

__all__ = [
    "NOT_VERIFIED",
    "TEST_MARKER",
    "ParsedReport",
    "ReadError",
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
