"""Typed settings and the vocabulary: anatomies, findings, prompts, codes, reason codes."""

from config.outputs import Output, Plan, outputs_of
from config.priority import Priority
from config.reader_verdict import ReaderVerdict
from config.reasons import Reason
from config.settings import Settings
from config.vocabulary import WHOLE_SCAN, Anatomy, Code, FindingType, Preset, Prompt, Vocabulary, load_vocabulary

__all__ = [
    "WHOLE_SCAN",
    "Anatomy",
    "Code",
    "FindingType",
    "Output",
    "Plan",
    "Preset",
    "Priority",
    "Prompt",
    "ReaderVerdict",
    "Reason",
    "Settings",
    "Vocabulary",
    "load_vocabulary",
    "outputs_of",
]
