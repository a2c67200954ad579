"""The word lists beside this file, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

_HERE = Path(__file__).parent
ELSEWHERE, NOWHERE = "elsewhere", "nowhere"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnatomyWords(_Entry):
    """Entry of `anatomy_words.yaml`."""

    words: tuple[str, ...]
    also: tuple[str, ...] = ()
    """Anatomies that it is a part of."""


class FindingWords(_Entry):
    """Entry of `finding_words.yaml`."""

    alone: tuple[str, ...] = ()
    here: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


class Cues(_Entry):
    """`cues.yaml`; what each list is for stands there."""

    negates: tuple[str, ...]
    negates_word: tuple[str, ...]
    negates_before: tuple[str, ...]
    doubts: tuple[str, ...]
    doubts_before: tuple[str, ...]
    turns_nothing: tuple[str, ...]
    ends: tuple[str, ...]
    affirms: tuple[str, ...]
    connects: tuple[str, ...]
    connects_nothing: tuple[str, ...]
    normal: tuple[str, ...]
    beside: tuple[str, ...]
    abnormal: tuple[str, ...]
    carries_on: tuple[str, ...]
    neutral: tuple[str, ...]
    says_nothing: tuple[str, ...]


@dataclass(frozen=True)
class Words:
    """All lists."""

    sections: Mapping[str, str]
    """Heading in lower case -> findings, impression or left_out."""
    cues: Cues
    anatomies: Mapping[str, AnatomyWords]
    """By name; `ELSEWHERE` and `NOWHERE` are among them."""
    findings: Mapping[str, FindingWords]
    """By key."""


@cache
def load_words() -> Words:
    """The lists that ship with the project."""
    sections = TypeAdapter(dict[str, tuple[str, ...]]).validate_python(_read("sections"))
    return Words(
        {title: kind for kind, titles in sections.items() for title in titles},
        Cues.model_validate(_read("cues")),
        TypeAdapter(dict[str, AnatomyWords]).validate_python(_read("anatomy_words")),
        TypeAdapter(dict[str, FindingWords]).validate_python(_read("finding_words")),
    )


def _read(name: str) -> object:
    return yaml.safe_load((_HERE / f"{name}.yaml").read_text(encoding="utf-8"))
