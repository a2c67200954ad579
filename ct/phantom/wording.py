"""How radiologists say it: the sentences of `wording.yaml`, several for each disease and each normal anatomy."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

Texts = tuple[str, ...]


@dataclass(frozen=True)
class Phrases:
    """The templates for one disease; see the head of `wording.yaml` for what is filled in."""

    one: Texts
    """Findings, a single lesion."""
    many: Texts
    """Findings, several lesions or both sides; empty where `one` serves."""
    impression: Texts
    absent: Texts
    """The finding denied."""


@dataclass(frozen=True)
class Wording:
    """All sentences."""

    findings: dict[str, Phrases]
    """By finding key."""
    normal: dict[str, Texts]
    """By anatomy."""
    healthy: Texts
    """Impressions of a patient without disease."""


@cache
def load_wording() -> Wording:
    """The sentences that ship with the project."""
    text = (Path(__file__).parent / "wording.yaml").read_text(encoding="utf-8")
    tables = yaml.safe_load(text)
    findings = {
        key: Phrases(*(tuple(forms.get(name, ())) for name in ("one", "many", "impression", "absent")))
        for key, forms in tables["findings"].items()
    }
    return Wording(findings, {key: tuple(v) for key, v in tables["normal"].items()}, tuple(tables["healthy"]))
