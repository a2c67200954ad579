"""Text of an expression to tokens, each with its place in the file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

MAX_LENGTH = 4000
"""Characters of one expression."""


class ExpressionError(ValueError):
    """An expression is wrong: where, why, and what to write instead."""

    def __init__(self, line: int, column: int, cause: str, cure: str) -> None:
        super().__init__(f"line {line}, column {column}: {cause} → {cure}")
        self.line, self.column, self.cause, self.cure = line, column, cause, cure


@dataclass(frozen=True)
class Source:
    """The text of an expression and where in its file it begins (both from 1)."""

    text: str
    line: int = 1
    column: int = 1

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of a character."""
        before = self.text[:offset]
        lines = before.count("\n")
        if not lines:
            return self.line, self.column + offset
        return self.line + lines, offset - before.rindex("\n")

    def error(self, offset: int, cause: str, cure: str) -> ExpressionError:
        return ExpressionError(*self.place(offset), cause, cure)


class Sort(Enum):
    """What a token is."""

    NUMBER = auto()
    TIME = auto()
    TEXT = auto()
    WORD = auto()
    SIGN = auto()
    """A comparison, a bracket or a comma."""
    END = auto()


@dataclass(frozen=True)
class Token:
    """A piece of an expression."""

    sort: Sort
    text: str
    """As written; of a TEXT without its quotes."""
    start: int
    end: int


_TOKEN = re.compile(
    r"""(?P<TIME>[0-9]{1,2}:[0-9]{2}(?![0-9:]))
      | (?P<NUMBER>[0-9]{1,9}(?:\.[0-9]{1,9})?(?![0-9.:]))
      | (?P<TEXT>"[^"\n]*"|'[^'\n]*')
      | (?P<WORD>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<SIGN>==|!=|<=|>=|[<>()\[\],])""",
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")


def tokens(source: Source) -> Iterator[Token]:
    """The tokens, the last one an END. Raises ExpressionError."""
    text = source.text
    if len(text) > MAX_LENGTH:
        raise source.error(MAX_LENGTH, f"longer than {MAX_LENGTH} characters", "split it into several rules")
    at = _skip(text, 0)
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise source.error(at, *_why_not(text, at))
        sort = Sort[str(found.lastgroup)]
        written = found.group()
        yield Token(sort, written[1:-1] if sort is Sort.TEXT else written, at, found.end())
        at = _skip(text, found.end())
    yield Token(Sort.END, "", len(text), len(text))


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _why_not(text: str, at: int) -> tuple[str, str]:
    """Cause and cure of what is no token."""
    wrong = text[at]
    if wrong == "=":
        return "`=` is no comparison", "write `==`"
    if wrong in "\"'":
        return "the text does not end on its line", f"close it with {wrong}"
    if wrong in "&|!":
        return f"`{wrong}` means nothing here", "write `and`, `or`, `not`, `!=`"
    if wrong.isdigit() and wrong.isascii():
        return "this is no number and no time of day", "write it like 40, 1.5 or 18:30"
    return f"the character {wrong!a} means nothing here", "put texts between quotes"
