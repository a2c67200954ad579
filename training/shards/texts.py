"""The text side of a shard: what a study's report says of each anatomy and finding, by rules or by a language model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from config import load_vocabulary
from training.report_text import AnatomyText, Mention, decompose, label
from training.report_text.language_model import LanguageModelEngine
from training.study import Study

RULES = "rules"
_BATCH = 32

Texts = Mapping[str, AnatomyText]
"""What a report says, by anatomy of the vocabulary."""


@dataclass(frozen=True)
class Engine:
    """A language model that takes reports apart, in the place of the rules."""

    identity: str
    """Changes whenever the answers could."""
    model: LanguageModelEngine


def with_texts(studies: Sequence[Study], engine: Engine | None) -> Iterator[tuple[Study, Texts | None]]:
    """Each study with what the language model made of its report, a batch at a time; None leaves it to the rules."""
    if engine is None:
        yield from ((study, None) for study in studies)
        return
    waiting = iter(studies)
    while batch := list(islice(waiting, _BATCH)):
        yield from zip(batch, engine.model.decompose([study.report for study in batch]).texts, strict=True)


def anatomy_texts(study: Study, anatomies: Sequence[str], texts: Texts | None) -> dict[str, AnatomyText]:
    """What is said of each of `anatomies`; what the source itself says of one goes before what was found."""
    found = decompose(study.report, load_vocabulary()) if texts is None else texts
    return {name: _said(study, name, found[name]) for name in anatomies}


def labels(study: Study) -> dict[str, Mention]:
    """Findings that are present, absent or uncertain; what the source knows goes before what is read off the report."""
    said = dict(label(study.report, load_vocabulary()))
    said |= {finding: Mention.PRESENT if there else Mention.ABSENT for finding, there in study.known.items()}
    return {finding: mention for finding, mention in sorted(said.items()) if mention is not Mention.UNMENTIONED}


def _said(study: Study, name: str, found: AnatomyText) -> AnatomyText:
    if name not in study.regions:
        return found
    vocabulary, text = load_vocabulary(), study.regions[name]
    own = decompose(f"Findings: {vocabulary.anatomy(name).title}: {text}", vocabulary)[name]
    return AnatomyText(name, text, found.impression, own.normal and found.normal)
