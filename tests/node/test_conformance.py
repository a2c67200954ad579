"""The conformance statement says what the code does."""

import re
from pathlib import Path

import pytest
from pynetdicom import ALL_TRANSFER_SYNTAXES

from config import Reason
from dicom_sr.identity import Kind
from node import dimse
from node.conformance import page
from node.negotiation import STORAGE_CLASSES

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "conformance.md"


def test_the_page_is_up_to_date() -> None:
    """If not: python -m node.conformance docs/conformance.md"""
    assert FILE.read_text(encoding="utf-8") == page()


def test_nothing_that_is_offered_or_written_is_left_out() -> None:
    told = page()
    assert all(f"`{uid}`" in told for uid in (*STORAGE_CLASSES, *ALL_TRANSFER_SYNTAXES))
    assert all(f"| {kind.series_number} |" in told for kind in Kind)
    assert all(f"`{reason}`" in told for reason in (Reason.UNKNOWN_AE, Reason.WRONG_CALLED_AE))


@pytest.mark.parametrize(
    ("heading", "files"),
    [
        ("### Answers to N-ACTION", ("commitment_action",)),
        ("### Answers to N-CREATE", ("announced", "announced_files", "announced_request")),
    ],
)
def test_every_status_in_the_code_is_told(heading: str, files: tuple[str, ...]) -> None:
    sources = "".join((ROOT / "node" / f"{name}.py").read_text(encoding="utf-8") for name in files)
    used = {getattr(dimse, name) for name in re.findall(r"dimse\.([A-Z_]+)\b", sources) if not name.startswith("N_")}
    told = page().split(heading)[1].split("\n###")[0].split("\n## ")[0]
    assert {int(code, 16) for code in re.findall(r"^\| `0x([0-9A-F]{4})`", told, re.MULTILINE)} == used
