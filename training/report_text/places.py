"""Which anatomies a sentence names, and which of them a word in it is said of."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from config import WHOLE_SCAN, Vocabulary
from training.report_text.lexicon import Lexicon, Token
from training.report_text.words import ELSEWHERE, NOWHERE, load_words

_JOINS = frozenset(("or", "and", "nor", "the", "both", "left", "right", "bilateral", "a", "an", "no", "of", "in"))
"""Words between the anatomies of one list."""
_INTO = frozenset(["in", "of", "at", "within", "on", "to"])
_REACH = 7
"""Words from "in" to the anatomy: "in the posterior part of the right lower lobe"."""
_NAMED_BY_A_FINDING = 3
"""Words by which "gallstones" is a weaker anchor for its neighbours than "gallbladder"."""


@dataclass(frozen=True)
class Place:
    """An anatomy that is named at the tokens `first` .. `last` - 1."""

    first: int
    last: int
    anatomies: frozenset[str]
    """Of the vocabulary: usually one, with what it is a part of; or `ELSEWHERE`."""
    list_number: int
    """Places with the same number are one list, "liver, spleen and pancreas"."""
    by_finding: bool
    """Named by a finding that is found nowhere else, as "gallstones" name the gallbladder."""
    beside: bool
    """It only says where something else is, as in "adjacent to the aorta"."""


class Gazetteer:
    """The words of a vocabulary's anatomies."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        words, known = load_words(), {anatomy.name for anatomy in vocabulary.anatomies}
        named = [
            (phrase, (name if name in known | {NOWHERE} else ELSEWHERE, False))
            for anatomy, entry in words.anatomies.items()
            for name in (anatomy, *entry.also)
            for phrase in entry.words
        ]
        by_finding = [
            (phrase, (name if (name := key.split(".")[0]) in known else ELSEWHERE, True))
            for key, entry in words.findings.items()
            if not key.startswith(f"{WHOLE_SCAN}.")
            for phrase in entry.alone
        ]
        self._names = Lexicon(named)
        self._findings = Lexicon(by_finding)
        self._beside = Lexicon((phrase, None) for phrase in words.cues.beside)

    def places(self, tokens: Sequence[Token]) -> list[Place]:
        """The anatomies that a sentence names, in order."""
        spans: dict[tuple[int, int, bool], set[str]] = defaultdict(set)
        for hit in self._names.longest(tokens):
            spans[hit.first, hit.last, False].add(hit.value[0])
        taken = {at for first, last, _ in spans for at in range(first, last)}
        for hit in self._findings.longest(tokens):
            if taken.isdisjoint(range(hit.first, hit.last)):
                spans[hit.first, hit.last, True].add(hit.value[0])
        after = {hit.last for hit in self._beside.longest(tokens)}
        found: list[Place] = []
        for (first, last, by_finding), names in sorted(spans.items(), key=lambda item: item[0]):
            if NOWHERE in names:
                continue
            between = tokens[found[-1].last : first] if found else ()
            joined = bool(found) and not (by_finding or found[-1].by_finding)
            joined = joined and all(token.word in _JOINS for token in between)
            number = found[-1].list_number + (not joined) if found else 0
            beside = any(at in after for at in range(max(0, first - 2), first + 1)) or (joined and found[-1].beside)
            found.append(Place(first, last, frozenset(names), number, by_finding, beside))
        return found


def said_of(places: Sequence[Place], tokens: Sequence[Token], first: int, last: int) -> frozenset[str]:
    """The anatomies that the words `first` .. `last` - 1 are said of, of the places of their clause; none without any.

    That is the place that they name or follow at once; else the one that an "in" after them leads to; else the
    nearest. A list goes together.
    """
    if not places:
        return frozenset()
    inside = [place for place in places if place.first < last and place.last >= first]
    following = [place for place in places if last <= place.first <= last + _REACH]
    if inside:
        chosen = inside[-1]
    elif following and tokens[last].word in _INTO:
        chosen = following[0]
    else:
        chosen = min(places, key=lambda place: _distance(place, first, last))
    return frozenset[str]().union(*(p.anatomies for p in places if p.list_number == chosen.list_number))


def _distance(place: Place, first: int, last: int) -> int:
    words = first - place.last if place.last <= first else place.first - last
    return words + _NAMED_BY_A_FINDING * place.by_finding
