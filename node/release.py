"""Where a model release lies and what identifies it, without loading it (no torch)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import fvlm

BUNDLED_NAME = "bundled"
BUNDLED = Path(fvlm.__file__).parent / "releases" / "phantom"
"""The release that is shipped: trained on synthetic phantoms, not for clinical use."""


@dataclass(frozen=True)
class Facts:
    """What identifies a release on disk."""

    digest: str
    path: str
    """Folder, absolute, or `bundled`."""
    name: str
    """Name and version, as its config.json says."""
    test_only: bool


def release_folder(release: str) -> Path:
    """The folder of a release as the settings name it: `bundled`, or a path."""
    return BUNDLED if release == BUNDLED_NAME else Path(release)


def release_digest(release: str) -> str:
    """SHA-256 of the release's SHA256SUMS, hex: its identity (`fvlm.release`). Raises OSError."""
    return hashlib.sha256((release_folder(release) / "SHA256SUMS").read_bytes()).hexdigest()


def facts_of(release: str, digest: str) -> Facts:
    """What a release says of itself; one that cannot be read has no name and is for tests only."""
    name, test_only = "unreadable", True
    try:
        config = json.loads((release_folder(release) / "config.json").read_bytes())
        name, test_only = f"{config['name']} {config['version']}", bool(config.get("test_only", False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # whoever loads it finds out what is wrong with it
    return Facts(digest, release if release == BUNDLED_NAME else str(Path(release).absolute()), name, test_only)
