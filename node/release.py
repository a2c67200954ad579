"""Where the model release of the settings lies and what identifies it, without loading it (no torch)."""

import hashlib
from pathlib import Path

import fvlm

BUNDLED = Path(fvlm.__file__).parent / "releases" / "phantom"
"""The release that is shipped: trained on synthetic phantoms, not for clinical use."""


def release_folder(release: str) -> Path:
    """The folder of a release as the settings name it: `bundled`, or a path."""
    return BUNDLED if release == "bundled" else Path(release)


def release_digest(release: str) -> str:
    """SHA-256 of the release's SHA256SUMS, hex: its identity (`fvlm.release`). Raises OSError."""
    return hashlib.sha256((release_folder(release) / "SHA256SUMS").read_bytes()).hexdigest()
