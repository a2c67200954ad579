"""What a sentence affirms, denies or leaves open, word by word."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import pairwise
from typing import Literal

from training.report_text.lexicon import Hit, Lexicon, Token
from training.report_text.words import load_words

_Cue = Literal["negates", "negates_word", "negates_before", "doubts", "doubts_before", "turns_nothing"]
_LISTS = frozenset({"or", "nor"})


class Polarity(IntEnum):
    """The greater one wins where scopes meet."""

    AFFIRMED = 0
    UNCERTAIN = 1
    DENIED = 2


@dataclass(frozen=True)
class Scope:
    """The tokens `first` .. `last` - 1 are denied or doubted together."""

    first: int
    last: int
    polarity: Polarity


@cache
def _cues() -> Lexicon[_Cue]:
    cues = load_words().cues
    kinds: tuple[_Cue, ...] = ("negates", "negates_word", "negates_before", "doubts", "doubts_before", "turns_nothing")
    return Lexicon((phrase, kind) for kind in kinds for phrase in getattr(cues, kind))


@cache
def _marks(name: Literal["ends", "affirms"]) -> Lexicon[None]:
    return Lexicon((phrase, None) for phrase in getattr(load_words().cues, name))


def scopes_of(text: str, tokens: Sequence[Token]) -> list[Scope]:
    """What each cue of a sentence reaches, in order of the cues.

    A denial goes on to the end of the sentence, a word that ends it ("but"), a semicolon, a colon, a comma that no
    "or" follows, another cue, or an "and" before an affirmed thing. A doubt ends at the next comma.
    """
    sentence = _Sentence(text, tokens)
    scopes = []
    for hit in sentence.cues:
        match hit.value:
            case "negates":
                scopes.append(Scope(hit.last, sentence.forward(hit.last, lists=True), Polarity.DENIED))
            case "negates_word":
                scopes.append(Scope(hit.last, min(hit.last + 1, len(tokens)), Polarity.DENIED))
            case "doubts":
                scopes.append(Scope(hit.last, sentence.forward(hit.last, lists=False), Polarity.UNCERTAIN))
            case "negates_before":
                scopes.append(Scope(sentence.backward(hit.first), hit.first, Polarity.DENIED))
            case "doubts_before":
                scopes.append(Scope(sentence.backward(hit.first), hit.first, Polarity.UNCERTAIN))
            case "turns_nothing":
                pass
    return scopes


def polarities(count: int, scopes: Sequence[Scope]) -> list[Polarity]:
    """Of each of `count` tokens. A thing that is denied to be uncertain is denied."""
    found = [Polarity.AFFIRMED] * count
    for scope in scopes:
        for at in range(scope.first, scope.last):
            found[at] = max(found[at], scope.polarity)
    return found


class _Sentence:
    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.gaps = [text[a.end : b.start] for a, b in pairwise(tokens)]
        self.cues: list[Hit[_Cue]] = _cues().longest(tokens)
        self._starts = {hit.first for hit in self.cues}
        self._ends = {hit.first for hit in _marks("ends").longest(tokens)}
        self._affirms = {hit.first for hit in _marks("affirms").longest(tokens)}

    def _gap(self, at: int) -> str:
        """What stands before a token."""
        return self.gaps[at - 1] if at else ""

    def forward(self, start: int, *, lists: bool) -> int:
        """Where the scope of a cue ends whose own last token is before `start`."""
        for at in range(start, len(self.tokens)):
            gap, word = self._gap(at), self.tokens[at].word
            if at in self._ends or any(mark in gap for mark in ";:("):
                return at
            if "," in gap and (not lists or at in self._starts or not self._list_goes_on(at)):
                return at
            if word in ("and", "with") and (at + 1 in self._starts or self._affirmed(at + 1)):
                return at
        return len(self.tokens)

    def _list_goes_on(self, start: int) -> bool:
        """Whether the comma before a token is one of a list that "or" closes."""
        for at in range(start, len(self.tokens)):
            if at in self._ends or ";" in self._gap(at) or at in self._starts:
                return False
            if self.tokens[at].word in _LISTS:
                return True
        return False

    def _affirmed(self, at: int) -> bool:
        return at < len(self.tokens) and (at in self._affirms or self.tokens[at].word.isdigit())

    def backward(self, end: int) -> int:
        """Where the scope of a cue begins whose own first token is `end`."""
        listed = any(self.tokens[at].word in _LISTS for at in range(end))
        for at in range(end - 1, -1, -1):
            if any(mark in self._gap(at) for mark in ";:") or ("," in self._gap(at) and not listed):
                return at
            if at in self._ends:
                return at + 1
        return 0
