"""A report as text: its sections, what it says of each anatomy, and of each finding of the vocabulary.

    decompose(report, vocabulary) -> {anatomy: AnatomyText}     every anatomy of the vocabulary has an entry
    label(report, vocabulary) -> {finding: Mention}             every finding of the vocabulary has an entry

Both take the report's plain text in English and never raise on it. `decompose` and `label` are rules, with their words
in the YAML files of this folder; `language_model` does the decomposition with a local language model.
"""

from training.report_text.rules import decompose, label
from training.report_text.texts import AnatomyText, Mention

__all__ = ["AnatomyText", "Mention", "decompose", "label"]
