"""Words and phrases found in a text: by their first letters, so that hundreds of phrases cost little."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_WORD = re.compile(r"[a-zà-ÿ0-9]+(?:['’][a-z]+)?", re.IGNORECASE)
_KEY = 3
Value = TypeVar("Value")


@dataclass(frozen=True)
class Token:
    """One word, in lower case, and where it stands in the text."""

    word: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The words and numbers of a text; a hyphen parts words."""
    return [Token(match[0].lower(), match.start(), match.end()) for match in _WORD.finditer(text)]


@dataclass(frozen=True)
class Hit(Generic[Value]):
    """A phrase found at the tokens `first` .. `last` - 1."""

    first: int
    last: int
    value: Value


class Lexicon(Generic[Value]):
    """Phrases with what they stand for. A final `*` of a word is any ending; plurals in s and es are known."""

    def __init__(self, entries: Iterable[tuple[str, Value]]) -> None:
        phrases: dict[tuple[str, ...], list[Value]] = defaultdict(list)
        for phrase, value in entries:
            phrases[tuple(re.findall(r"[a-zà-ÿ0-9']+\*?", phrase.lower()))].append(value)
        self._index: dict[str, list[tuple[tuple[str, ...], list[Value]]]] = defaultdict(list)
        for words in sorted(phrases, key=lambda words: (len(words), sum(map(len, words))), reverse=True):
            self._index[words[0].rstrip("*")[:_KEY]].append((words, phrases[words]))

    def all(self, tokens: Sequence[Token]) -> list[Hit[Value]]:
        """Every phrase that stands in the text, in order of its first word."""
        return [hit for at in range(len(tokens)) for hits in self._at(tokens, at) for hit in hits]

    def longest(self, tokens: Sequence[Token]) -> list[Hit[Value]]:
        """From left to right the longest phrase at each place, none inside another.

        Several hits share a place where one phrase stands for several things.
        """
        taken: list[Hit[Value]] = []
        for at in range(len(tokens)):
            if not taken or at >= taken[-1].last:
                taken += next(self._at(tokens, at), [])
        return taken

    def _at(self, tokens: Sequence[Token], at: int) -> Iterator[list[Hit[Value]]]:
        """The phrases that begin at a token, longest first."""
        for words, values in self._index.get(tokens[at].word[:_KEY], ()):
            end = at + len(words)
            if end <= len(tokens) and all(_same(w, t.word) for w, t in zip(words, tokens[at:end], strict=True)):
                yield [Hit(at, end, value) for value in values]


def _same(pattern: str, word: str) -> bool:
    if pattern[-1] == "*":
        return word.startswith(pattern[:-1])
    return word == pattern or (len(pattern) >= _KEY and word in (pattern + "s", pattern + "es"))
