"""The fast engine: a report decomposed and labelled by rules."""

from config import Vocabulary
from training.report_text.sentences import SECTIONS
from training.report_text.statements import statements_of
from training.report_text.texts import AnatomyText, Mention

_PRECEDENCE = (Mention.PRESENT, Mention.UNCERTAIN, Mention.ABSENT)


def decompose(report: str, vocabulary: Vocabulary) -> dict[str, AnatomyText]:
    """What a report says of each anatomy of a vocabulary, in its order; one that is not mentioned is normal.

    A sentence that speaks of several anatomies goes to each of them, cut into clauses where each has its own. What is
    said of none of them is left out, as are history, technique and comparison.
    """
    names = [anatomy.name for anatomy in vocabulary.anatomies]
    texts: dict[tuple[str, str], list[str]] = {(name, section): [] for name in names for section in SECTIONS}
    abnormal: set[str] = set()
    for statement in statements_of(vocabulary).read(report):
        for name in statement.anatomies:
            texts[name, statement.section].append(statement.text)
        abnormal |= statement.abnormal
    return {
        name: AnatomyText(
            name, " ".join(texts[name, "findings"]), " ".join(texts[name, "impression"]), name not in abnormal
        )
        for name in names
    }


def label(report: str, vocabulary: Vocabulary) -> dict[str, Mention]:
    """What a report says of each finding of a vocabulary, in its order.

    Where it says several things, present wins over uncertain, and that over absent. "The lungs are unremarkable" is a
    word on the anatomy (`decompose`), not on each of its findings: they stay unmentioned.
    """
    said: dict[str, set[Mention]] = {finding.key: set() for finding in vocabulary.findings}
    for statement in statements_of(vocabulary).read(report):
        for finding, mention in statement.mentions:
            said[finding].add(mention)
    return {
        key: next((mention for mention in _PRECEDENCE if mention in found), Mention.UNMENTIONED)
        for key, found in said.items()
    }
