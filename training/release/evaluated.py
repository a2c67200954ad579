"""What `fvlm-node evaluate` (`results.json`) or `train evaluate` (`evaluation.json`) found, read back for a card."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

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
    missing: int = 0
    release: Identity
    masks: Identity | None = None
    """None: those of the shards."""
    problems: dict[str, Any]
    sections: tuple[Section, ...]

    @model_validator(mode="before")
    @classmethod
    def _of_assessment(cls, found: Any) -> Any:
        """`train evaluate` names its parts otherwise."""
        if not isinstance(found, dict) or "zero_shot" not in found:
            return found
        names = {"data_set": found.get("data"), "volumes": found.get("studies")}
        return found | names | {"sections": [found["zero_shot"], *found.get("protocol", [])]}


def read_evaluation(file: Path) -> Evaluated:
    """Raises ReleaseError."""
    try:
        return Evaluated.model_validate(json.loads(file.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ReleaseError(
            f"{file}: no results.json of fvlm-node evaluate, nor evaluation.json of train evaluate ({reason})"
        ) from error
