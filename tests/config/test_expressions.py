"""The language of routing rules: whatever is written, it is either understood or refused with place and cure."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.expressions import FACTS, Expression, ExpressionError, Kind, Source, Value, evaluate, parse
from config.expressions.lexing import MAX_LENGTH
from config.expressions.parsing import MAX_DEPTH

VALUES: dict[str, Value | None] = {
    "slices": 300.0,
    "slice_thickness": 1.25,
    "kernel": ("Br40d", "3"),
    "contrast": True,
    "body_part": ("CHEST",),
    "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
    "series_description": ("Thorax  nativ",),
    "time": 60.0 * 18 + 30,
    "weekday": ("sat",),
    "patient_age": 0.25,
    "soft_kernel": None,
}


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("slices > 299", True),
        ("slices >= 300 and slices <= 300 and slices == 300", True),
        ("slices != 300", False),
        ("slice_thickness <= 1.25 mm", True),
        ("slice_thickness < 0.13 cm", True),
        ("slice_thickness in [1 mm, 1.25mm]", True),
        ('kernel == "br40d"', True),
        ('kernel == "3"', True),
        ('kernel != "B60f"', True),
        ('kernel != "3"', False),
        ("kernel matches 'Br4*'", True),
        ("kernel not matches 'Br[45]*'", False),
        ("kernel not in ['B60f', 'B70f']", True),
        ('image_type == "AXIAL" and not image_type matches "*MPR*"', True),
        ('series_description == "thorax nativ"', True),
        ("contrast", True),
        ("not not contrast", True),
        ("not contrast or slices > 1", True),
        ("contrast and (slices > 1000 or body_part == 'CHEST')", True),
        ("time >= 18:00 or time < 7:00", True),
        ("weekday in ['sat', 'sun']", True),
        ("patient_age < 1 year", True),
        ("patient_age >= 3 months", True),
        # what is not known is neither true nor false
        ("soft_kernel", None),
        ("not soft_kernel", None),
        ("spacing < 3 mm", None),
        ("spacing < 3 mm or contrast", True),
        ("spacing < 3 mm and not contrast", False),
        ("spacing not in [3 mm]", None),
        ("spacing is missing and slices is known and soft_kernel is missing", True),
        ("spacing is known", False),
    ],
)
def test_what_an_expression_says(text: str, truth: bool | None) -> None:
    assert evaluate(parse(text), VALUES).truth is truth


def test_and_binds_tighter_than_or_and_lines_mean_nothing() -> None:
    assert evaluate(parse("contrast or contrast\n  and not contrast"), VALUES).truth is True
    assert evaluate(parse("(contrast or contrast)\n  and not contrast"), VALUES).truth is False


def test_the_trace_has_every_term_with_its_value_even_those_that_could_not_matter() -> None:
    trace = evaluate(parse("contrast or (slice_thickness > 3 mm and not time < 7:00) or spacing > 1 mm"), VALUES)
    assert [(term.text, term.value, term.truth) for term in trace.terms] == [
        ("contrast", "yes", True),
        ("slice_thickness > 3 mm", "1.25 mm", False),
        ("time < 7:00", "18:30", False),
        ("spacing > 1 mm", "not known", None),
    ]


@pytest.mark.parametrize(
    ("text", "line", "column", "cause", "cure"),
    [
        ("", 1, 1, "a fact is expected", "slice_thickness <= 3 mm"),
        ("slices > 3 and\n  thickness < 3 mm", 2, 3, "no fact `thickness`", "did you mean `slice_thickness`?"),
        ("frobnicate", 1, 1, "no fact `frobnicate`", "rules facts"),
        ("slices = 3", 1, 8, "`=` is no comparison", "`==`"),
        ("slice_thickness < 3", 1, 20, "unit is missing before the end", "mm, cm"),
        ("slice_thickness < 3 years", 1, 21, "unit is missing", "mm, cm"),
        ("slices < 3 mm", 1, 12, "has no unit", "remove `mm`"),
        ("slices < '3'", 1, 10, 'compared with "3"', "like 40"),
        ("kernel < 'B'", 1, 8, "has no `<`", "==, !=, in or matches"),
        ("kernel == B60f", 1, 11, "compared with `B60f`", '"CHEST"'),
        ("slices matches '3*'", 1, 8, "cannot be followed by `matches`", "slices >= 40"),
        ("contrast == 'yes'", 1, 10, "has no `==`", "`not contrast`"),
        ("weekday == 'monday'", 1, 12, 'never "monday"', "mon, tue"),
        ("time < 25:00", 1, 8, "no time of day", "00:00 to 23:59"),
        ("time < 5", 1, 8, "compared with `5`", "18:30"),
        ("kernel in 'B60f'", 1, 11, "`in` needs a list", "in ["),
        ("kernel in ['B60f'", 1, 18, "not closed before the end", "`]`"),
        ("(contrast", 1, 10, "not closed before the end", "`)`"),
        ("contrast)", 1, 9, "does not follow here", "remove it"),
        ("contrast slices > 3", 1, 10, "`slices` does not follow here", "`and` or `or`"),
        ("kernel == 'B60", 1, 11, "does not end on its line", "close it"),
        ("contrast && slices > 3", 1, 10, "`&` means nothing", "`and`"),
        ("kernel is there", 1, 11, "followed by `there`", "`is known`"),
        ("__import__('os')", 1, 1, "no fact `__import__`", "rules facts"),
    ],
)
def test_what_is_wrong_is_named_with_place_cause_and_cure(
    text: str, line: int, column: int, cause: str, cure: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    error = caught.value
    assert (error.line, error.column) == (line, column)
    assert cause in error.cause
    assert cure in error.cure


def test_places_count_from_where_the_text_begins_in_its_file() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(Source("contrast and\n    slices", 7, 11))
    assert (caught.value.line, caught.value.column) == (8, 11)
    with pytest.raises(ExpressionError) as caught:
        parse(Source("nothing", 7, 11))
    assert (caught.value.line, caught.value.column) == (7, 11)


def _parsed(text: str) -> Expression | ExpressionError:
    try:
        return parse(text)
    except ExpressionError as error:
        return error


@pytest.mark.parametrize(
    "text", ["(" * (MAX_DEPTH + 1) + "contrast" + ")" * (MAX_DEPTH + 1), "contrast and " * MAX_LENGTH + "contrast"]
)
def test_nesting_and_length_have_an_end(text: str) -> None:
    assert isinstance(_parsed(text), ExpressionError)


def test_what_is_just_short_enough_is_understood() -> None:
    for text in ("(" * MAX_DEPTH + "contrast" + ")" * MAX_DEPTH, "not " * 900 + "contrast"):
        assert evaluate(parse(text), VALUES).truth is True


def test_a_glob_with_many_stars_takes_no_time() -> None:
    pattern = "*a" * 300 + "b"
    assert (
        evaluate(parse(f"series_description matches '{pattern}'"), {"series_description": ("a" * 200,)}).truth is False
    )


_PIECES = st.sampled_from(
    [*FACTS, *"()[],<>", "<=", "==", "!=", "and", "or", "not", "in", "matches", "is", "known", "missing", "mm", "years",
     "3", "1.5", "18:30", "'A*'", '"x"', "'", "=", "\n", "é", "\0", "--", "3.", "99:99", "nothing"]
)  # fmt: skip
_values = st.fixed_dictionaries(
    {},
    optional={
        name: st.none()
        | (st.booleans() if fact.kind is Kind.YES_NO else st.floats(0, 1e6) if fact.kind.ordered else
           st.lists(st.text(max_size=8), min_size=1, max_size=3).map(tuple))
        for name, fact in FACTS.items()
    },
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(_PIECES, max_size=24).map(" ".join), _values)
def test_no_text_and_no_values_break_it(text: str, values: dict[str, Value | None]) -> None:
    expression = _parsed(text)
    if isinstance(expression, ExpressionError):
        lines = text.split("\n")
        assert 1 <= expression.line <= len(lines)
        assert 1 <= expression.column <= len(lines[expression.line - 1]) + 1
        assert expression.cause
        assert expression.cure
        return
    trace = evaluate(expression, values)
    assert trace.truth in (True, False, None)
    assert trace.terms
    assert evaluate(expression, values) == trace


_terms = st.sampled_from(
    ["contrast", "soft_kernel", "slices > 10", "spacing < 2 mm", "kernel matches 'B*'", "body_part in ['CHEST']"]
)
_expressions = st.recursive(
    _terms,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda text: f"not {text}")
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(_expressions, _expressions, _values)
def test_de_morgan_holds_for_what_is_unknown_too(one: str, other: str, values: dict[str, Value | None]) -> None:
    left = evaluate(parse(f"not ({one} and {other})"), values).truth
    right = evaluate(parse(f"not ({one}) or not ({other})"), values).truth
    assert left is right
