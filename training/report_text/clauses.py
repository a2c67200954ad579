"""A sentence cut into clauses that speak of different anatomies: "the liver is enlarged and the spleen is normal"."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from training.report_text.lexicon import Lexicon, Token
from training.report_text.places import Place
from training.report_text.polarity import Scope
from training.report_text.words import load_words


@dataclass(frozen=True)
class Clause:
    """The tokens `first` .. `last` - 1 of a sentence."""

    first: int
    last: int

    def holds(self, first: int, last: int) -> bool:
        return self.first <= first and last <= self.last

    def places(self, places: Sequence[Place]) -> list[Place]:
        """Those of the clause; without what only says where, if there is anything else."""
        inside = [place for place in places if self.holds(place.first, place.last)]
        return [place for place in inside if not place.beside] or inside


@cache
def _connects() -> Lexicon[bool]:
    cues = load_words().cues
    phrases = [(phrase, True) for phrase in cues.connects] + [(phrase, False) for phrase in cues.connects_nothing]
    return Lexicon(phrases)


@cache
def _predicates() -> Lexicon[None]:
    """What makes a clause out of a name: something is said of it."""
    words = load_words()
    said = {*words.cues.normal, *words.cues.abnormal, *words.cues.negates, *words.cues.negates_before}
    for entry in words.findings.values():
        said.update(part.strip() for phrase in (*entry.alone, *entry.here) for part in phrase.split("&"))
    named = {phrase for entry in words.anatomies.values() for phrase in entry.words}
    return Lexicon((phrase, None) for phrase in said - named)


def clauses_of(text: str, tokens: Sequence[Token], places: Sequence[Place], scopes: Sequence[Scope]) -> list[Clause]:
    """The clauses of a sentence, in order; a single one where it speaks of one anatomy, or of several together.

    It is cut at "and", "with" and the like, at commas and semicolons, where on both sides an anatomy is named and
    something is said of it, unless one denial or doubt holds for both sides ("no hernia or gallstones").
    """
    said = _predicates().all(tokens)

    def names(clause: Clause) -> bool:
        return any(clause.holds(place.first, place.last) and not place.beside for place in places)

    def says(clause: Clause) -> bool:
        return any(clause.holds(hit.first, hit.last) for hit in said)

    whole: list[Clause] = []
    pending: Clause | None = None
    for part in _parts(text, tokens, scopes):
        clause = part
        if pending and (tokens[part.first].word == "and" or not says(part)):
            clause = Clause(pending.first, part.last)
        elif pending:
            whole[-1] = Clause(whole[-1].first, pending.last)
        pending = None
        if not whole:
            whole.append(clause)
        elif not names(part) or not (names(whole[-1]) and says(whole[-1])):
            whole[-1] = Clause(whole[-1].first, part.last)
        elif not says(part):
            pending = clause
        else:
            whole.append(clause)
    if pending:
        whole[-1] = Clause(whole[-1].first, pending.last)
    merged: list[Clause] = []
    for clause in whole:
        if merged and _anatomies(merged[-1], places) == _anatomies(clause, places):
            merged[-1] = Clause(merged[-1].first, clause.last)
        else:
            merged.append(clause)
    return merged


def wording(text: str, tokens: Sequence[Token], clause: Clause) -> str:
    """A clause as a sentence of its own; the sentence itself where it is the only one."""
    if clause.first == 0 and clause.last == len(tokens):
        return text
    first = clause.first
    for hit in _connects().longest(tokens):
        if hit.value and hit.first == first and hit.last < clause.last:
            first = hit.last
    last_of_all = clause.last == len(tokens)
    words = text[tokens[first].start : len(text) if last_of_all else tokens[clause.last - 1].end].strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _anatomies(clause: Clause, places: Sequence[Place]) -> frozenset[str]:
    return frozenset[str]().union(*(place.anatomies for place in clause.places(places)))


def _parts(text: str, tokens: Sequence[Token], scopes: Sequence[Scope]) -> list[Clause]:
    """All that could be clauses."""
    starts, connectors = [0], {hit.first for hit in _connects().longest(tokens) if hit.value}
    for at in range(1, len(tokens)):
        gap = text[tokens[at - 1].end : tokens[at].start]
        boundary = any(mark in gap for mark in ",;:") or at in connectors
        shared = any(scope.first < at and at + 1 < scope.last for scope in scopes)
        if boundary and not shared:
            starts.append(at)
    return [Clause(a, b) for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True) if b > a]
