"""Report text without the people in it: what headers say of them is searched for, then what looks like a name, a
number, an address, a day.

What is taken out leaves `___` behind, as in the public report collections that clinical text encoders were trained on.
Rules do not find everything: a name that only the report knows and that no title, label or signature marks, a short
one that is misspelt. `docs/researcher/collecting.md` says what to look at by hand.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from training.archive.identifiers import Known

BLANK = "___"
LONGEST = 100_000
"""Characters of a report that is scrubbed; no report is longer, and every rule reads every character."""

_CAPITAL = "A-ZÀ-ÖØ-ÞŁŚŻŠČŽ"
_PARTICLES = r"(?:(?:von|van|de|der|den|del|di|da|la|le|of)[ \t]+){0,3}"
_NAMED = (
    rf"{_PARTICLES}[{_CAPITAL}][\w'’.-]{{0,40}}"
    rf"(?:[ \t,]+{_PARTICLES}[{_CAPITAL}][\w'’-]{{0,40}}){{0,3}}"
)
_WORD = re.compile(r"[^\W\d_]{5,40}")
_LONG_NAME = 6
"""Letters of a name that is also found misspelt; shorter ones are too near to other words."""
_SHORT_NAME = 3
"""Letters of a name that is looked for only where it is capitalised: small words are as short."""
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "aa", "ø": "oe", "æ": "ae"})
_TWO_LETTERS = re.compile("ae|oe|ue|ss|aa")
_ONE_LETTER = {"ae": "a", "oe": "o", "ue": "u", "ss": "ß", "aa": "a"}


@dataclass(frozen=True)
class Scrubbed:
    """A text after scrubbing."""

    text: str
    counts: Counter[str] = field(default_factory=Counter)
    """How often what kind of thing was taken out."""


@dataclass(frozen=True)
class _Rule:
    kind: str
    pattern: re.Pattern[str]
    least_digits: int


class Scrubber:
    """For one study: its rules know the people around it."""

    def __init__(self, known: Known) -> None:
        single = {one for one in known.numbers if one.isalpha() and len(one.split()) == 1}
        self._numbers = _any_of(_number_pattern(one) for one in known.numbers - single)
        bound = {name for name in known.names if fold(name) in _words("findings")}
        single -= {name for name in single if fold(name) in _words("findings")}
        names = (known.names | single) - bound
        ambiguous = {
            name for name in names if (len(name) <= _SHORT_NAME and name.isascii()) or fold(name) in _words("words")
        }
        plain = names - ambiguous
        self._beside = _beside(bound, names | bound)
        self._names = _any_of(pattern for name in plain for pattern in _name_patterns(name))
        self._ambiguous = _any_of(pattern for name in ambiguous for pattern in _name_patterns(name))
        self._near = {cut for name in plain if len(name) >= _LONG_NAME for cut in _one_off(fold(name))}
        squashed = {_squash(one) for one in known.numbers - single}
        self._squashed = {one for one in squashed if len(one) >= 5}

    def scrub(self, text: str) -> Scrubbed:
        """`text` without people. Raises ValueError if it is longer than `LONGEST`."""
        if len(text) > LONGEST:
            raise ValueError(f"more than {LONGEST} characters")
        counts: Counter[str] = Counter()
        text = unicodedata.normalize("NFC", text)
        if self._beside is not None:
            text = self._beside.sub(BLANK, text)
        text = self._known(text, counts)
        for rule in _rules():
            text = _apply(rule, text, counts)
        return Scrubbed(self._known(text, counts), counts)

    def remains(self, text: str) -> bool:
        """Whether anything known is still there, however it is separated: the last look before a text is kept."""
        folded, squashed = fold(text), _squash(text)
        if any(pattern is not None and pattern.search(folded) for pattern in (self._numbers, self._names)):
            return True
        return any(one in squashed for one in self._squashed)

    def _known(self, text: str, counts: Counter[str]) -> str:
        """Folding keeps every character in its place: what is found in the folded text is cut out of the text."""
        for kind, pattern, capital in (
            ("known number", self._numbers, False),
            ("known name", self._names, False),
            ("known name", self._ambiguous, True),
        ):
            if pattern is None:
                continue
            spans = [
                found.span() for found in pattern.finditer(fold(text)) if not capital or text[found.start()].isupper()
            ]
            counts[kind] += len(spans)
            text = _cut(text, spans)
        spans = [found.span() for found in _WORD.finditer(text) if self._misspelt(found[0])]
        counts["misspelt name"] += len(spans)
        return _cut(text, spans)

    def _misspelt(self, word: str) -> bool:
        """Whether a capitalised word is a long known name but for one letter too many, too few, or wrong."""
        return word[0].isupper() and not self._near.isdisjoint(_one_off(fold(word)))


def _one_off(word: str) -> set[str]:
    """The word, and the word without each of its letters: two that share one of these differ by little."""
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def fold(text: str) -> str:
    """Lower case without accents, character by character: the length stays."""
    return "".join(map(_folded, text))


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character)[0].lower()
    return plain if len(plain) == 1 else character


def _squash(text: str) -> str:
    return re.sub(r"[\W_]", "", fold(text))


def _name_patterns(name: str) -> Iterable[str]:
    """How a part of a name may be written: with accents or without, umlauts as one letter or two."""
    lowered = name.lower()
    forms = {fold(name), fold(lowered.translate(_UMLAUTS))}
    forms |= {_TWO_LETTERS.sub(lambda found: _ONE_LETTER[found[0]], form) for form in set(forms)}
    for form in forms:
        if len(form) < 2:
            continue
        if re.fullmatch(r"[^\W\d_]+", form) and ord(max(form)) >= 0x2E80:  # scripts without spaces between words
            yield re.escape(form)
        else:
            yield rf"(?<![^\W_]){re.escape(form)}(?:['’]?s)?(?![^\W_])"


def _beside(bound: Iterable[str], names: Iterable[str]) -> re.Pattern[str] | None:
    """Words of reports that are parts of a name, where they stand beside another part of it."""
    other = "|".join(sorted({re.escape(name) for name in names}, key=len, reverse=True))
    either = "|".join(re.escape(name) for name in sorted(bound))
    if not either:
        return None
    pattern = rf"\b(?:{other})(?:[-\s,]{{1,3}}(?:{either}))+\b|\b(?:(?:{either})[-\s,]{{1,3}})+(?:{other})\b"
    return re.compile(pattern, re.IGNORECASE)


def _number_pattern(number: str) -> str:
    """A number or an address, its parts separated by anything or nothing, leading zeros or none."""
    parts = re.findall(r"[^\W_]+", fold(number))
    if all(part.isdigit() for part in parts):
        digits = "".join(parts).lstrip("0") or "0"
        return r"(?<![^\W_])0*" + r"[\W_]{0,2}".join(digits) + r"(?![^\W_])"
    return r"(?<![^\W_])" + r"[\W_]{0,3}".join(map(re.escape, parts)) + r"(?![^\W_])"


def _any_of(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """The longest first, so that the whole goes before its part."""
    unique = sorted({one for one in patterns if one}, key=len, reverse=True)
    return re.compile("|".join(unique)) if unique else None


def _apply(rule: _Rule, text: str, counts: Counter[str]) -> str:
    spans = []
    for found in rule.pattern.finditer(text):
        span = found.span("x") if "x" in rule.pattern.groupindex else found.span()
        taken = text[span[0] : span[1]]
        if taken.strip(f"{BLANK} \t.,") and sum(map(str.isdigit, taken)) >= rule.least_digits:
            spans.append(span)
    counts[rule.kind] += len(spans)
    return _cut(text, spans)


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    kept, end = list[str](), 0
    for first, last in spans:
        kept += [text[end:first], BLANK]
        end = last
    return "".join([*kept, text[end:]])


@cache
def _document() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("scrub_rules.yaml").read_bytes())
    return content


@cache
def _words(kind: str) -> frozenset[str]:
    """A list of words of the rules, folded."""
    return frozenset(fold(word) for line in _document()[kind] for word in line.split())


@cache
def _rules() -> tuple[_Rule, ...]:
    months = [month.strip() for line in _document()["months"] for month in line.split(",")]
    either = "|".join(sorted(set(months), key=len, reverse=True))

    def fill(pattern: str) -> str:
        return pattern.replace("{NAMED}", _NAMED).replace("{MONTH}", f"(?:{either})")

    return tuple(
        _Rule(
            one["kind"],
            re.compile(fill(one["pattern"]), re.IGNORECASE if one.get("any_case") else 0),
            one.get("least_digits", 0),
        )
        for one in _document()["rules"]
    )
