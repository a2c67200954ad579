"""The rules file: checked as a whole when it is loaded, each error with file, line, column, cause and cure."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config import Settings
from config.expressions import FACTS
from config.rules import Rules, RulesError, load_rules
from config.settings import SettingsError

GOOD = """\
version: 3
rules:
  - name: too thick
    when: slice_thickness > 3 mm
    skip: thicker than 3 mm
  - name: chest
    when: >
      body_part == "CHEST" and
      not (kernel matches "B[67]*")
    read: {priority: urgent, destinations: [pacs], release: bundled}
    best_of_study: {prefer: "kernel == 'B30f'", wait_s: 5}
  - name: nothing is sent
    when: slices > 1000
    read: {destinations: []}
    best_of_study: true
  - name: the rest
    read:
"""
LATER = (
    GOOD
    + """\
after_segmentation:
  - name: a liver
    when: anatomies == "liver" and slices > 40
    read: {preset: ct-rate}
"""
)


def _load(tmp_path: Path, text: str) -> Rules:
    file = tmp_path / "routing.yaml"
    file.write_text(text)
    return load_rules(file, ["pacs"])


def test_a_good_file(tmp_path: Path) -> None:
    rules = _load(tmp_path, GOOD)
    assert rules.version == "3"
    assert len(rules.digest) == 64
    assert [(rule.name, rule.action) for rule in rules.rules] == [
        ("too thick", "skip: thicker than 3 mm"),
        ("chest", "read, priority urgent, to pacs, release bundled, best of study"),
        ("nothing is sent", "read, to no destination, best of study"),
        ("the rest", "read"),
    ]
    assert rules.rules[2].prefer is not None
    assert rules.rules[2].prefer.text == "soft_kernel"


def test_the_first_rule_that_fits_decides_and_unknown_does_not_fit(tmp_path: Path) -> None:
    rules = _load(tmp_path, GOOD)
    names = [
        rule and rule.name
        for rule in (
            rules.decide({"slice_thickness": 5.0, "body_part": ("CHEST",)}),
            rules.decide({"body_part": ("CHEST",), "kernel": ("B30f",)}),
            rules.decide({"body_part": ("CHEST",)}),
            rules.decide({}),
        )
    ]
    assert names == ["too thick", "chest", "the rest", "the rest"]
    said = rules.ask({"slice_thickness": 1.0, "slices": 2000.0})
    assert [(one.rule.name, one.trace.truth) for one in said] == [
        ("too thick", False),
        ("chest", None),
        ("nothing is sent", True),
    ]


def test_rules_for_after_the_segmentation_ask_what_was_segmented_beside_the_rest(tmp_path: Path) -> None:
    rules = _load(tmp_path, LATER)
    truths = [
        rules.ask_after(values)[-1].trace.truth
        for values in (
            {"slices": 50.0, "anatomies": ("lung", "liver")},
            {"slices": 50.0, "anatomies": ()},
            {"slices": 50.0},
        )
    ]
    assert truths == [True, False, None]
    assert rules.ask_after({"slices": 50.0, "anatomies": ()})[0].trace.terms[0].value == "none"
    assert _load(tmp_path, GOOD).ask_after({}) == []


def test_without_a_last_rule_for_all_a_series_may_fit_none(tmp_path: Path) -> None:
    assert _load(tmp_path, "version: 1\nrules: [{name: a, when: contrast, read: {}}]").decide({}) is None


def _with(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "where", "cause", "cure"),
    [
        (_with("slice_thickness > 3 mm", "slice_thikness > 3 mm"), (4, 11), "no fact `slice_thikness`", "did you mean"),
        (_with("not (kernel", "not (colour"), (9, 12), "no fact `colour`", "rules facts"),
        (_with("kernel == 'B30f'", "kernel = 'B30f'"), (11, 37), "`=` is no comparison", "write `==`"),
        (_with("[pacs]", "[pacs, vna]"), (10, 51), "no destination `vna`", "one of them (pacs)"),
        (_with("urgent", "now"), (10, 22), "priority", "routing.md"),
        (_with("skip: thicker than 3 mm", ""), (3, 5), "say `read:` or `skip: why not`", "routing.md"),
        (_with("skip: thicker", "read: {}\n    skip: thicker"), (3, 5), "one of them", "routing.md"),
        (_with("skip: thicker than 3 mm", "skips: x"), (5, 12), "there is no such key", "routing.md"),
        (_with("name: chest", "name: too thick"), (6, 11), "two rules are called `too thick`", "name of its own"),
        (_with("    when: slices > 1000\n", ""), (12, 5), "no rule after it is ever asked", "put it last"),
        (_with("wait_s: 5", "wait_s: -5"), (11, 57), "wait_s", "routing.md"),
        (_with("    when: slices > 1000\n", "    name: x\n"), (13, 5), "name: stands there twice", "remove one"),
        (_with("version: 3\n", ""), (1, 1), "version: is missing", "add it"),
        (_with("slices > 1000", "anatomies == 'liver'"), (13, 11), "not known before", "after_segmentation"),
        (LATER.replace('"liver"', '"livr"'), (20, 24), '`anatomies` is never "livr"', "esophagus, liver"),
        (LATER.replace("ct-rate", "ct"), (21, 20), "no preset `ct`", "ct-rate, phantom"),
        (LATER.replace("preset: ct-rate", "release: bundled"), (21, 21), "there is no such key", "routing.md"),
        (LATER.replace("a liver", "chest"), (19, 11), "two rules are called `chest`", "name of its own"),
        (_with("rules:\n", "rules: [\n"), None, "cannot be read as YAML: line", "mend it"),
        ("version: 1\nrules: []\n", (2, 8), "rules", "routing.md"),
        ("", (1, 1), "holds no rules", "begin with"),
        ("- a\n", (1, 1), "holds no rules", "begin with"),
        ("version: &a [*a]\nrules: 1\n", None, "", ""),
        ("version: 1\nrules: !!python/object:os.system {}\n", None, "", ""),
        ("version: 1\nrules: [{name: 2020-99-99, when: !!int x, skip: a}]\n", None, "", ""),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, text: str, where: tuple[int, int] | None, cause: str, cure: str
) -> None:
    with pytest.raises(RulesError) as caught:
        _load(tmp_path, text)
    error = caught.value
    assert error.cause.startswith(f"{tmp_path}/routing.yaml: ")
    if where is not None:
        assert f": line {where[0]}, column {where[1]}: " in error.cause
    assert cause in error.cause
    assert cure in error.cure
    assert error.cure


def test_aliases_cannot_blow_it_up(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(RulesError):
        _load(tmp_path, "\n".join(lines))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"none\.yaml: cannot be read: No such file"):
        load_rules(tmp_path / "none.yaml", [])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(GOOD)), length=st.integers(0, 12), new=st.text(max_size=6))
def test_no_damage_breaks_the_loader(tmp_path: Path, at: int, length: int, new: str) -> None:
    damaged = GOOD[:at] + new + GOOD[at + length :]
    file = tmp_path / "routing.yaml"
    file.write_bytes(damaged.encode("utf-8", "surrogatepass"))
    try:
        assert load_rules(file, ["pacs"]).rules
    except RulesError as error:
        told = error
        assert told.cure


def test_the_settings_name_the_file_from_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("routing: {rules: rules/routing.yaml}\n")
    assert Settings.load(tmp_path / "node.yaml").routing.rules == tmp_path / "rules" / "routing.yaml"
    assert Settings.load().routing.rules is None
    (tmp_path / "node.yaml").write_text("routing: {rules: [1]}\n")
    with pytest.raises(SettingsError, match=r"routing\.rules"):
        Settings.load(tmp_path / "node.yaml")


def test_the_documentation_names_every_fact_and_its_example_is_good(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations" / "routing.md").read_text()
    for fact in FACTS.values():
        assert f"| `{fact.name}` | {fact.kind} | {fact.meaning}" in page
    (example,) = [part for part in page.split("```") if "\nversion: " in part]
    rules = _load(tmp_path, example.removeprefix("yaml"))
    assert [rule.name for rule in rules.rules][-1] == "everything else"
