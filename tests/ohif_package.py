"""The OHIF viewer, ready built as its publisher puts it on the npm registry. Nothing of it is committed.

`python tests/ohif_package.py` (or the first test that needs it) takes the package with `npm pack` into `.test-data/`,
checked by SHA-256.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from real_ct import FOLDER, FetchError

PACKAGE, VERSION = "@ohif/app", "3.12.10"
SHA256 = "fbabd410be33e5b9898931b725229b9da9553aac339914b5c29796d3aa5d4b2d"


def fetch(folder: Path = FOLDER) -> Path:
    """The folder with the viewer's `index.html`; downloads once. Raises FetchError."""
    viewer = folder / f"ohif-{VERSION}"
    if not (viewer / "index.html").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _unpack(_download(Path(temporary)), Path(temporary))
            shutil.rmtree(viewer, ignore_errors=True)
            (Path(temporary) / "package" / "dist").rename(viewer)
    return viewer


def _download(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is not installed (apt-get install npm)")
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    files = list(folder.glob("*.tgz"))
    if done.returncode or len(files) != 1:
        raise FetchError(f"npm pack {PACKAGE}@{VERSION} failed: {done.stderr.strip()[-500:]}")
    if hashlib.sha256(files[0].read_bytes()).hexdigest() != SHA256:
        raise FetchError(f"{PACKAGE}@{VERSION} is not the package it was")
    return files[0]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")


if __name__ == "__main__":
    try:
        fetch()
    except FetchError as error:
        sys.exit(f"OHIF cannot be had: {error}")
