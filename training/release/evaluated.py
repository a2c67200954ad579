"""What `fvlm-node evaluate` found (`results.json`), read back for a card."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fvlm.release import ReleaseError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Estimate(_Part):
    """A figure with its 95 % interval, 0..1; None: it cannot be told."""

    value: float | None
    low: float | None
    high: float | None


class Row(_Part):
    """One finding."""

    target: str
    volumes: int
    positives: int
    metrics: dict[str, Estimate]


class Section(_Part):
    """One protocol."""

    title: str
    protocol: str
    rows: tuple[Row, ...]
    macro: dict[str, Estimate]


class Identity(_Part):
    """Which release or segmenter it was."""

    name: str
    version: str
    digest: str


class Evaluated(_Part):
    """One evaluation."""

    data_set: str
    volumes: int
    patients: int
    missing: int
    release: Identity
    masks: Identity
    problems: dict[str, Any]
    sections: tuple[Section, ...]


def read_evaluation(file: Path) -> Evaluated:
    """Raises ReleaseError."""
    try:
        return Evaluated.model_validate(json.loads(file.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ReleaseError(f"{file}: no results.json of fvlm-node evaluate ({reason}); name that file") from error
