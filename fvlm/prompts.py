"""Prompts that a person types: made into the pair of sentences whose softmax is a zero-shot probability. No torch."""

from collections import Counter
from collections.abc import Iterable

from fvlm.config import FindingConfig

DEFAULT_NEGATION = "Not"
"""As the prompts of the public model begin ("Not Emphysema." against "Emphysema.")."""


def sentence(text: str) -> str:
    """The text as prompts are written: one space between words, a capital first, a full stop last."""
    words = " ".join(text.split())
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) or not words else ".")


def negative_of(positive: str, findings: Iterable[FindingConfig]) -> str:
    """The negative prompt as a release writes it: the word that most of its own put before the positive one.

    "Pericardial effusion." with a release that pairs "No pleural effusion." with "Pleural effusion." gives "No
    pericardial effusion.". `DEFAULT_NEGATION` where no finding of the release is written so.
    """
    seen: Counter[tuple[str, bool]] = Counter()
    for finding in findings:
        word, _, rest = finding.negative.partition(" ")
        if rest.lower() == finding.positive.lower():
            seen[word, rest[:1].isupper()] += 1
    word, capital = seen.most_common(1)[0][0] if seen else (DEFAULT_NEGATION, True)
    first = positive[:1].upper() if capital else positive[:1].lower()
    return f"{word} {first}{positive[1:]}"
