"""A Reading as DICOM objects (SEG, SR) and as a summary page; our SR read back; objects validated."""

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
