"""A report as statements: what is said of which anatomies, and of which findings."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from config import WHOLE_SCAN, Vocabulary
from training.report_text.clauses import Clause, clauses_of, wording
from training.report_text.lexicon import Hit, Lexicon, Token, tokens_of
from training.report_text.places import Gazetteer, Place, said_of
from training.report_text.polarity import Polarity, polarities, scopes_of
from training.report_text.sentences import SECTIONS, SectionName, sections_of, sentences_of
from training.report_text.texts import Mention
from training.report_text.words import ELSEWHERE, load_words

_MENTIONS = {
    Polarity.AFFIRMED: Mention.PRESENT,
    Polarity.UNCERTAIN: Mention.UNCERTAIN,
    Polarity.DENIED: Mention.ABSENT,
}
_Cue = Literal["normal", "abnormal", "neutral"]
_Opening = Literal["carries_on", "says_nothing"]


@dataclass(frozen=True)
class Statement:
    """One clause."""

    section: SectionName
    text: str
    """The sentence, or the part of it that speaks of these anatomies."""
    anatomies: frozenset[str]
    """Of the vocabulary; empty: of none of them."""
    abnormal: frozenset[str]
    """Those of the anatomies of which something abnormal is said."""
    mentions: tuple[tuple[str, Mention], ...]
    """Finding and what is said of it."""


@dataclass(frozen=True)
class _Pattern:
    """One way to say a finding."""

    finding: str
    kind: Literal["alone", "here", "denied"]
    parts: tuple[str, ...]
    """All of them stand in the clause."""


class Statements:
    """The rules for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._gazetteer = Gazetteer(vocabulary)
        self._by_part: dict[str, list[_Pattern]] = defaultdict(list)
        for pattern in _patterns(vocabulary):
            self._by_part[pattern.parts[0]].append(pattern)
        parts = {part for patterns in self._by_part.values() for pattern in patterns for part in pattern.parts}
        self._parts = Lexicon((part, part) for part in parts)

    def read(self, report: str) -> Iterator[Statement]:
        """The statements of Findings and Impression, in order."""
        sections = sections_of(report)
        for section in SECTIONS:
            before: frozenset[str] = frozenset()
            for sentence in sentences_of(sections[section]):
                text = _without_opening(sentence.text, self._gazetteer)
                label = _all(self._gazetteer.places(tokens_of(sentence.label)))
                for statement in self._sentence(section, text, label, before):
                    yield statement
                    before = statement.anatomies

    def _sentence(
        self, section: SectionName, text: str, label: frozenset[str], before: frozenset[str]
    ) -> Iterator[Statement]:
        tokens = tokens_of(text)
        if not tokens:
            return
        places, scopes = self._gazetteer.places(tokens), scopes_of(text, tokens)
        polarity = polarities(len(tokens), scopes)
        cues, parts = _cues().longest(tokens), self._parts.all(tokens)
        carries_on = any(hit.first == 0 and hit.value == "carries_on" for hit in _openings().longest(tokens))
        for clause in clauses_of(text, tokens, places, scopes):
            own = clause.places(places)
            if all(place.beside for place in own) and label:
                own = []
            anatomies = _all(own)
            said = [hit for hit in parts if _within(hit, clause)]
            if not anatomies:
                anatomies = label or (before if carries_on else before & self._could_be_of(said))
            view = _View(clause, tokens, own, anatomies, polarity, [hit for hit in cues if _within(hit, clause)])
            mentions = self._mentions(view, said)
            mine = anatomies - {ELSEWHERE}
            abnormal = frozenset(name for name in mine if _is_abnormal(view, name, mentions, inherited=not own))
            yield Statement(section, wording(text, tokens, clause), mine, abnormal, tuple(mentions))

    def _could_be_of(self, hits: Sequence[Hit[str]]) -> frozenset[str]:
        """Anatomies that have findings by these words: "No perforation." after a sentence on the colon."""
        patterns = (pattern for hit in hits for pattern in self._by_part.get(hit.value, ()))
        return frozenset(p.finding.split(".")[0] for p in patterns if p.kind == "here" and len(p.parts) == 1)

    def _mentions(self, view: "_View", hits: Sequence[Hit[str]]) -> list[tuple[str, Mention]]:
        at: dict[str, list[Hit[str]]] = defaultdict(list)
        for hit in hits:
            if not view.is_normal_phrase(hit.first, hit.last):
                at[hit.value].append(hit)
        found = []
        for part, where in at.items():
            for pattern in self._by_part.get(part, ()):
                if all(other in at for other in pattern.parts):
                    others = [at[other][0] for other in pattern.parts[1:]]
                    found += [(pattern.finding, m) for hit in where if (m := view.mention(pattern, [hit, *others]))]
        return found


@dataclass(frozen=True)
class _View:
    """A clause with all that was found in it."""

    clause: Clause
    tokens: Sequence[Token]
    places: Sequence[Place]
    anatomies: frozenset[str]
    """Named in it, or those that the sentence before or the label names."""
    polarity: Sequence[Polarity]
    cues: Sequence[Hit[_Cue]]

    def said_of(self, first: int, last: int) -> frozenset[str]:
        return said_of(self.places, self.tokens, first, last) if self.places else self.anatomies

    def is_normal_phrase(self, first: int, last: int) -> bool:
        """Whether the words are part of a phrase such as "well distended"."""
        return any(
            c.value == "normal" and c.last - c.first > 1 and c.first <= first < last <= c.last for c in self.cues
        )

    def polarity_of(self, hits: Sequence[Hit[str]]) -> Polarity:
        return max(self.polarity[at] for hit in hits for at in range(hit.first, hit.last))

    def mention(self, pattern: _Pattern, hits: Sequence[Hit[str]]) -> Mention | None:
        anatomy = pattern.finding.split(".")[0]
        if pattern.kind != "alone" and not any(anatomy in self.said_of(hit.first, hit.last) for hit in hits):
            return None
        polarity = self.polarity_of(hits)
        if pattern.kind == "denied":
            return None if polarity == Polarity.DENIED else Mention.ABSENT
        return _MENTIONS[polarity]


def _is_abnormal(view: _View, anatomy: str, mentions: Sequence[tuple[str, Mention]], *, inherited: bool) -> bool:
    """A finding, or a word such as "lesion", that is not denied; or a clause that says neither good nor bad."""
    if any(m != Mention.ABSENT for finding, m in mentions if finding.startswith(f"{anatomy}.")):
        return True
    for hit in view.cues:
        affirmed = hit.value == "abnormal" and view.polarity[hit.last - 1] != Polarity.DENIED
        if affirmed and anatomy in view.said_of(hit.first, hit.last):
            return True
    span = range(view.clause.first, view.clause.last)
    reassures = any(hit.value != "abnormal" for hit in view.cues) or any(
        view.polarity[at] == Polarity.DENIED for at in span
    )
    return not (reassures or inherited or any(finding.startswith(f"{anatomy}.") for finding, _ in mentions))


def _all(places: Sequence[Place]) -> frozenset[str]:
    return frozenset[str]().union(*(place.anatomies for place in places))


def _within(hit: Hit[str] | Hit[_Cue], clause: Clause) -> bool:
    return clause.holds(hit.first, hit.last)


def _patterns(vocabulary: Vocabulary) -> Iterator[_Pattern]:
    words = load_words().findings
    for finding in vocabulary.findings:
        entry, whole = words.get(finding.key), finding.anatomy == WHOLE_SCAN
        names = {name.lower() for name in (finding.title, finding.ct_rate, finding.radar) if name}
        yield from (_Pattern(finding.key, "alone" if whole else "here", (name,)) for name in sorted(names))
        if entry is None:
            continue
        for kind in ("alone", "here", "denied"):
            for phrase in getattr(entry, kind):
                yield _Pattern(finding.key, kind, tuple(part.strip() for part in phrase.split("&")))


@cache
def _cues() -> Lexicon[_Cue]:
    cues = load_words().cues
    kinds: tuple[_Cue, ...] = ("normal", "abnormal", "neutral")
    return Lexicon((phrase, kind) for kind in kinds for phrase in getattr(cues, kind))


@cache
def _openings() -> Lexicon[_Opening]:
    cues = load_words().cues
    kinds: tuple[_Opening, ...] = ("carries_on", "says_nothing")
    return Lexicon((phrase, kind) for kind in kinds for phrase in getattr(cues, kind))


def _without_opening(text: str, gazetteer: Gazetteer) -> str:
    """The sentence without "Compared with the study of 2020,"; "" if it says nothing of this scan."""
    if not any(hit.first == 0 and hit.value == "says_nothing" for hit in _openings().longest(tokens_of(text))):
        return text
    rest = text.partition(",")[2].strip()
    return rest[:1].upper() + rest[1:] if gazetteer.places(tokens_of(rest)) else ""


@lru_cache(maxsize=4)
def statements_of(vocabulary: Vocabulary) -> Statements:
    """The rules for a vocabulary, made once."""
    return Statements(vocabulary)
