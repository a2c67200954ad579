"""Tokens to a checked expression: every name is a fact, every value of its fact's type and unit.

expression = both ("or" both)*          both = one ("and" one)*
one        = "not" one | "(" expression ")" | fact | fact test
test       = ("==" | "!=" | "<" | "<=" | ">" | ">=") value | ["not"] "in" "[" value ("," value)* "]"
           | ["not"] "matches" text | "is" ("known" | "missing")
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum

from config.expressions.facts import FACTS, UNITS, Fact, Kind
from config.expressions.lexing import Sort, Source, Token, tokens

MAX_DEPTH = 30
"""Brackets within brackets."""
_KEYWORDS = frozenset({"and", "or", "not", "in", "matches", "is", "known", "missing"})

Literal = float | str


class Test(StrEnum):
    """What a term does with its fact."""

    YES = "is so"
    EQUAL = "=="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    IN = "in"
    MATCHES = "matches"
    KNOWN = "is known"


_COMPARISONS = {str(test): test for test in Test if test.value[0] in "=!<>"}


@dataclass(frozen=True)
class Term:
    """One question to one fact."""

    fact: Fact
    test: Test
    values: tuple[Literal, ...]
    """Numbers in the unit of the fact's kind; texts in lower case."""
    text: str
    """As the rule writes it."""
    negated: bool = False
    """`not in`, `not matches`."""


@dataclass(frozen=True)
class Not:
    inner: "Node"


@dataclass(frozen=True)
class Both:
    """All of them (`and`)."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Either:
    """One of them at least (`or`)."""

    parts: tuple["Node", ...]


Node = Term | Not | Both | Either


@dataclass(frozen=True)
class Expression:
    """A checked expression."""

    text: str
    root: Node


def parse(source: Source | str, late: bool = False) -> Expression:
    """Parse and check; `late`: it is asked after segmentation. Raises ExpressionError."""
    found = source if isinstance(source, Source) else Source(source)
    return Expression(" ".join(found.text.split()), _Parser(found, late).whole())


class _Parser:
    def __init__(self, source: Source, late: bool) -> None:
        self._source, self._late = source, late
        self._tokens = list(tokens(source))
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        root = self._either()
        if self._next.sort is not Sort.END:
            cure = "join two terms with `and` or `or`" if self._next.sort is Sort.WORD else "remove it"
            raise self._error(self._next, f"{_named(self._next)} does not follow here", cure)
        return root

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._next
        if token.sort is not Sort.END:
            self._at += 1
        return token

    def _took(self, *texts: str) -> bool:
        """Take the next token if it is one of these words or signs."""
        found = self._next.sort in (Sort.WORD, Sort.SIGN) and self._next.text in texts
        if found:
            self._at += 1
        return found

    def _error(self, token: Token, cause: str, cure: str) -> Exception:
        return self._source.error(token.start, cause, cure)

    def _either(self) -> Node:
        parts = [self._both()]
        while self._took("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _both(self) -> Node:
        parts = [self._one()]
        while self._took("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _one(self) -> Node:
        negated = False
        while self._took("not"):
            negated = not negated
        node = self._bracket() if self._next.text == "(" and self._next.sort is Sort.SIGN else self._term()
        return Not(node) if negated else node

    def _bracket(self) -> Node:
        opening = self._take()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(opening, f"more than {MAX_DEPTH} brackets within each other", "split the rule")
        inner = self._either()
        if not self._took(")"):
            raise self._error(self._next, f"a bracket is not closed before {_named(self._next)}", "close it with `)`")
        self._depth -= 1
        return inner

    def _term(self) -> Node:
        name = self._take()
        fact = self._fact(name)
        if fact.kind is Kind.YES_NO and self._next.text not in ("is", *_COMPARISONS, "in", "matches"):
            return self._made(name, fact, Test.YES, ())
        negated = self._took("not")
        return replace(self._test(name, fact, negated), negated=negated)

    def _fact(self, name: Token) -> Fact:
        if name.sort is not Sort.WORD or name.text in _KEYWORDS:
            cure = "begin a term with a fact, such as `slice_thickness <= 3 mm`"
            raise self._error(name, f"a fact is expected here, not {_named(name)}", cure)
        fact = FACTS.get(name.text)
        if fact is None:
            near = get_close_matches(name.text.lower(), FACTS, n=1, cutoff=0.7)
            cure = f"did you mean `{near[0]}`?" if near else "see them all: fvlm-node rules facts"
            raise self._error(name, f"there is no fact `{name.text[:40]}`", cure)
        if fact.late and not self._late:
            cure = "put the rule under `after_segmentation:`"
            raise self._error(name, f"`{fact.name}` is not known before the series is segmented", cure)
        return fact

    def _test(self, name: Token, fact: Fact, negated: bool) -> Term:
        sign = self._take()
        if sign.sort is Sort.SIGN and sign.text in _COMPARISONS and not negated:
            test = _COMPARISONS[sign.text]
            if fact.kind is Kind.YES_NO or (test not in (Test.EQUAL, Test.UNEQUAL) and not fact.kind.ordered):
                cure = (
                    f"write `{fact.name}` or `not {fact.name}`"
                    if fact.kind is Kind.YES_NO
                    else "use ==, !=, in or matches"
                )
                raise self._error(sign, f"`{fact.name}` is {_article(fact.kind)} and has no `{sign.text}`", cure)
            return self._made(name, fact, test, (self._value(fact),))
        if sign.sort is Sort.WORD and sign.text == "in" and fact.kind is not Kind.YES_NO:
            return self._made(name, fact, Test.IN, self._list(fact))
        if sign.sort is Sort.WORD and sign.text == "matches" and fact.kind is Kind.TEXT:
            return self._made(name, fact, Test.MATCHES, (self._value(fact),))
        if sign.sort is Sort.WORD and sign.text == "is" and not negated:
            word = self._take()
            if word.text not in ("known", "missing"):
                raise self._error(word, f"`is` is followed by {_named(word)}", "write `is known` or `is missing`")
            return self._made(name, fact, Test.KNOWN, (word.text,))
        if fact.kind is Kind.YES_NO:
            cure = f"write `{fact.name}` or `not {fact.name}`"
        else:
            cure = (
                f"compare it with a value, such as `{fact.name} {'>=' if fact.kind.ordered else '=='} {fact.example}`"
            )
        raise self._error(sign, f"`{fact.name}` ({fact.kind}) cannot be followed by {_named(sign)}", cure)

    def _list(self, fact: Fact) -> tuple[Literal, ...]:
        if not self._took("["):
            raise self._error(self._next, "`in` needs a list", f"write `in [{fact.example}, ...]`")
        values = [self._value(fact)]
        while self._took(","):
            values.append(self._value(fact))
        if not self._took("]"):
            raise self._error(self._next, f"the list is not closed before {_named(self._next)}", "close it with `]`")
        return tuple(values)

    def _value(self, fact: Fact) -> Literal:
        token = self._take()
        expected = Sort.TIME if fact.kind is Kind.TIME else Sort.NUMBER if fact.kind.ordered else Sort.TEXT
        if token.sort is not expected:
            cause = f"`{fact.name}` is {_article(fact.kind)}; it cannot be compared with {_named(token)}"
            raise self._error(token, cause, f"write it like {fact.example}")
        if fact.kind is Kind.TIME:
            hours, minutes = (int(part) for part in token.text.split(":"))
            if hours > 23 or minutes > 59:
                raise self._error(token, f"{token.text} is no time of day", "write 00:00 to 23:59")
            return 60.0 * hours + minutes
        if expected is Sort.NUMBER:
            return float(token.text) * self._unit(fact)
        text = " ".join(token.text.lower().split())
        if fact.choices and text not in fact.choices:
            raise self._error(
                token, f"`{fact.name}` is never {_named(token)}", f"it is one of {', '.join(fact.choices)}"
            )
        return text

    def _unit(self, fact: Fact) -> float:
        units = UNITS.get(fact.kind, {})
        token = self._next
        if not units:
            if token.sort is Sort.WORD and token.text not in _KEYWORDS:
                raise self._error(token, f"`{fact.name}` has no unit", f"remove `{token.text[:40]}`")
            return 1.0
        if token.sort is not Sort.WORD or token.text not in units:
            cause = f"`{fact.name}` is {_article(fact.kind)}: its unit is missing before {_named(token)}"
            raise self._error(token, cause, f"write one of {', '.join(units)} after the number")
        self._at += 1
        return units[token.text]

    def _made(self, name: Token, fact: Fact, test: Test, values: tuple[Literal, ...]) -> Term:
        written = self._source.text[name.start : self._tokens[self._at - 1].end]
        return Term(fact, test, values, " ".join(written.split()))


def _named(token: Token) -> str:
    if token.sort is Sort.END:
        return "the end"
    return f'"{token.text[:40]}"' if token.sort is Sort.TEXT else f"`{token.text[:40]}`"


def _article(kind: Kind) -> str:
    return f"an {kind}" if kind is Kind.AGE else f"a {kind}"
