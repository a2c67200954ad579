"""Validators that only the tests need: DCMTK's dsrdump and PixelMed's SR validator (Debian dcmtk, libpixelmed-java)."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dicom_sr.validate import Validation, judge

_JAR = Path("/usr/share/java/pixelmed.jar")
_UNLIMITED = [f"-Djdk.xml.xpath{limit}=0" for limit in ("ExprGrpLimit", "ExprOpLimit", "TotalOpLimit")]
"""The validator's XPath is longer than what Java allows by default (JAXP0801003)."""


def dsrdump(file: Path) -> Validation:
    """What dsrdump says while it prints an SR document."""
    done = subprocess.run(["dsrdump", file], capture_output=True, timeout=60, check=False)
    said = done.stderr.decode("utf-8", errors="replace")
    said = re.sub(r"^[EF]:", "Error:", said, flags=re.MULTILINE)
    said = re.sub(r"^W:", "Warning:", said, flags=re.MULTILINE)
    failed = f"Error: exit status {done.returncode}\n" if done.returncode else ""
    return judge("dsrdump", f"{failed}{said}\n{done.stdout.decode('utf-8', errors='replace').splitlines()[:1]}")


def sr_check(files: Sequence[Path]) -> dict[Path, Validation]:
    """What PixelMed's DicomSRValidator says about SR documents: their templates. Java is started once."""
    assert _JAR.is_file(), "apt-get install libpixelmed-java default-jdk-headless (deploy/debian-test-packages.txt)"
    source = Path(__file__).with_name("SrCheck.java")
    command = ["java", "-XX:+UseSerialGC", *_UNLIMITED, "-cp", str(_JAR), str(source), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=570, check=True)
    said = done.stdout.split("== ")[1:]
    printed = {Path(name): text for name, _, text in (part.partition("\n") for part in said)}
    whole = {file: text for file, text in printed.items() if "IOD validation complete" in text}
    assert whole.keys() == set(files), f"not validated: {set(files) - whole.keys()}"
    return {file: judge("DicomSRValidator", _known(text)) for file, text in whole.items()}


def _known(text: str) -> str:
    """A document whose root template the tool does not know was not checked by it: an error."""
    return text if "Found Root Template" in text else f"{text}\nError: no root template was found"
