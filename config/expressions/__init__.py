"""The language of routing rules: `slice_thickness <= 1.5 mm and not (body_part in ["HEAD", "NECK"])`.

Small and typed: every name, type and unit is checked when a rule is loaded, and nothing is ever executed. What an image
does not say is unknown, and what depends on it is unknown too: never quietly true.
"""

from config.expressions.evaluating import Told, Trace, evaluate
from config.expressions.facts import FACTS, Fact, Kind, Value, Values
from config.expressions.lexing import ExpressionError, Source
from config.expressions.parsing import Expression, parse

__all__ = [
    "FACTS",
    "Expression",
    "ExpressionError",
    "Fact",
    "Kind",
    "Source",
    "Told",
    "Trace",
    "Value",
    "Values",
    "evaluate",
    "parse",
]
