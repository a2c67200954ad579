"""What an expression says of one series, and why: every term with its value and whether it holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from config.expressions.facts import Value, Values
from config.expressions.parsing import Both, Either, Expression, Node, Not, Term, Test

Truth = bool | None
"""None: not known, because a fact is not (Kleene's logic: unknown is neither true nor false, `not` leaves it so)."""


@dataclass(frozen=True)
class Told:
    """One term, asked."""

    text: str
    """As the rule writes it."""
    value: str
    """Of its fact, for a person; it may hold what somebody typed at the scanner."""
    truth: Truth


@dataclass(frozen=True)
class Trace:
    """The answer and its grounds."""

    truth: Truth
    terms: tuple[Told, ...]
    """Every term, in the order in which they are written; none is passed over."""


def evaluate(expression: Expression, values: Values) -> Trace:
    """Ask an expression about a series. Time grows with the length of both only."""
    terms = tuple(
        Told(term.text, term.fact.show(values.get(term.fact.name)), _holds(term, values.get(term.fact.name)))
        for term in _terms(expression.root)
    )
    return Trace(_truth(expression.root, values), terms)


def _terms(node: Node) -> Iterator[Term]:
    if isinstance(node, Term):
        yield node
    elif isinstance(node, Not):
        yield from _terms(node.inner)
    else:
        for part in node.parts:
            yield from _terms(part)


def _truth(node: Node, values: Values) -> Truth:
    if isinstance(node, Term):
        return _holds(node, values.get(node.fact.name))
    if isinstance(node, Not):
        inner = _truth(node.inner, values)
        return None if inner is None else not inner
    found = [_truth(part, values) for part in node.parts]
    decisive = isinstance(node, Either)
    """What settles it, whatever the others are."""
    if decisive in found:
        return decisive
    return None if None in found else isinstance(node, Both)


def _holds(term: Term, value: Value | None) -> Truth:
    if term.test is Test.KNOWN:
        return (value is not None) == (term.values[0] == "known")
    if value is None:
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, tuple):
        found = _text_holds(term, [" ".join(text.lower().split()) for text in value])
    else:
        found = _number_holds(term, value)
    return found != term.negated


def _text_holds(term: Term, texts: list[str]) -> bool:
    """One of several values is enough; `!=` wants that none is equal."""
    if term.test is Test.MATCHES:
        # fnmatch compiles `*` to atomic groups: it does not backtrack into what it has passed.
        return any(fnmatchcase(text, str(term.values[0])) for text in texts)
    found = any(text in term.values for text in texts)
    return not found if term.test is Test.UNEQUAL else found


_SAME = 1e-6
"""Decimal texts and thirds of a millimetre: numbers closer than this are equal."""


def _number_holds(term: Term, value: float) -> bool:
    numbers = [number for number in term.values if isinstance(number, float)]
    equal = any(abs(value - number) <= _SAME for number in numbers)
    below = not equal and value < numbers[0]
    match term.test:
        case Test.EQUAL | Test.IN:
            return equal
        case Test.UNEQUAL:
            return not equal
        case Test.LESS:
            return below
        case Test.AT_MOST:
            return below or equal
        case Test.MORE:
            return not below and not equal
        case _:
            return not below
