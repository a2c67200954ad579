"""The conformance statement says what the code does."""

from pathlib import Path

from pynetdicom import ALL_TRANSFER_SYNTAXES

from config import Reason
from dicom_sr.identity import Kind
from node.conformance import page
from node.negotiation import STORAGE_CLASSES

FILE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_the_page_is_up_to_date() -> None:
    """If not: python -m node.conformance docs/conformance.md"""
    assert FILE.read_text(encoding="utf-8") == page()


def test_nothing_that_is_offered_or_written_is_left_out() -> None:
    told = page()
    assert all(f"`{uid}`" in told for uid in (*STORAGE_CLASSES, *ALL_TRANSFER_SYNTAXES))
    assert all(f"| {kind.series_number} |" in told for kind in Kind)
    assert all(f"`{reason}`" in told for reason in (Reason.UNKNOWN_AE, Reason.WRONG_CALLED_AE))
