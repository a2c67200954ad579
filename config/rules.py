"""The routing rules of a site: a YAML file of ordered rules, the first that fits a series decides.

    version: "2026-11"
    rules:
      - name: too thick
        when: slice_thickness > 3 mm
        skip: thicker than 3 mm
      - name: chest
        when: body_part == "CHEST"
        read: {priority: urgent, destinations: [pacs]}
        best_of_study: {prefer: soft_kernel, wait_s: 120}
    after_segmentation:
      - name: no abdomen
        when: anatomies not in ["liver", "spleen"]
        read: {preset: ct-rate}

Everything is checked when it is loaded; an error names file, line, column, cause and cure.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from config.expressions import Expression, ExpressionError, Source, Trace, Values, evaluate, parse
from config.rule_parts import Rule, Written, WrittenFile, WrittenLater
from config.vocabulary import load_vocabulary

LARGEST = 2**20
"""Bytes of a rules file."""
Path_ = tuple[str | int, ...]
"""Keys and positions from the top of the file down to something in it."""
FIRST, AFTER = "rules", "after_segmentation"
"""The two lists of rules in it."""


class RulesError(ValueError):
    """A rules file is wrong. The text names file, line, column, cause and cure."""

    def __init__(self, cause: str, cure: str) -> None:
        """`cause` begins with the file, and where it is known with line and column."""
        super().__init__(f"{cause} → {cure}")
        self.cause, self.cure = cause, cure


@dataclass(frozen=True)
class Said:
    """What one rule says of a series."""

    rule: Rule
    trace: Trace


@dataclass(frozen=True)
class Rules:
    """A checked rules file."""

    version: str
    digest: str
    """SHA-256 of the file, hex."""
    rules: tuple[Rule, ...]
    after: tuple[Rule, ...] = ()
    """Asked again once the series is segmented (`after_segmentation`): the first that fits changes what was ordered,
    or skips the series; without one everything stays."""
    places: dict[Path_, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)
    """Where things stand in the file: line, column."""

    def ask(self, values: Values) -> list[Said]:
        """What each rule says, up to the first that fits; without one, the last is the last rule's `no`."""
        return _asked(self.rules, values)

    def ask_after(self, values: Values) -> list[Said]:
        """The same of `after`; empty if there are none."""
        return _asked(self.after, values)

    def decide(self, values: Values) -> Rule | None:
        """The first rule that fits; None if none does."""
        return decisive(self.ask(values))

    def releases(self) -> Iterator[tuple[int, str]]:
        """Position of a rule, and the release that it names, for each that names one."""
        for at, rule in enumerate(self.rules):
            if rule.order.release:
                yield at, rule.order.release

    def error(self, file: Path | str, path: Path_, cause: str, cure: str) -> RulesError:
        """An error at a place of the file."""
        return _error(file, self.places, path, cause, cure)


def decisive(said: Sequence[Said]) -> Rule | None:
    """The rule that fits, which is the last one asked; None if none does."""
    return said[-1].rule if said and said[-1].trace.truth else None


def _asked(rules: Sequence[Rule], values: Values) -> list[Said]:
    said = []
    for rule in rules:
        trace = evaluate(rule.when, values) if rule.when else Trace(True, ())
        said.append(Said(rule, trace))
        if trace.truth:
            break
    return said


def load_rules(file: Path, destinations: Collection[str]) -> Rules:
    """Load and check a rules file; `destinations` are the names that may be used. Raises RulesError."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise RulesError(f"{file}: cannot be read: {error.strerror}", "correct the name (routing.rules)") from error
    return read_rules(content, file, destinations)


def read_rules(content: bytes, file: Path | str, destinations: Collection[str] | None) -> Rules:
    """Check the content of a rules file, which errors call `file`. `destinations` None: whatever they name is taken.

    Raises RulesError.
    """
    if len(content) > LARGEST:
        raise RulesError(f"{file}: larger than {LARGEST} bytes", "name a rules file")
    try:
        text = content.decode("utf-8-sig")
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RulesError(f"{file}: cannot be read as YAML: {_at(error)}", "mend it there") from error
    walk = _Walk(file, text)
    data = walk.value(top, (), 0) if top is not None else None
    if not isinstance(data, dict):
        raise RulesError(f"{file}: line 1, column 1: holds no rules", "begin with `version:` and `rules:`")
    try:
        written = WrittenFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise _error(file, walk.places, first["loc"], *_told(first)) from error
    digest, names = hashlib.sha256(content).hexdigest(), set[str]()
    first_rules = tuple(_checked(walk, FIRST, written.rules, names))
    after = tuple(_checked(walk, AFTER, written.after_segmentation, names))
    rules = Rules(written.version, digest, first_rules, after, walk.places)
    for part, listed in ((FIRST, first_rules), (AFTER, after)):
        for at, rule in enumerate(listed):
            _check_names(rules, file, (part, at, "read"), rule, destinations)
    return rules


def _check_names(rules: Rules, file: Path | str, path: Path_, rule: Rule, destinations: Collection[str] | None) -> None:
    """What a rule names is known. Raises RulesError."""
    for n, name in enumerate(rule.order.destinations or ()):
        if destinations is not None and name not in destinations:
            known = ", ".join(sorted(destinations)) or "none is set"
            cure = f"add it under `destinations` in the settings, or name one of them ({known})"
            raise rules.error(file, (*path, "destinations", n), f"there is no destination `{name}`", cure)
    if preset := rule.order.preset:
        presets = [one.name for one in load_vocabulary().presets]
        if preset not in presets:
            cure = f"name one of them: {', '.join(presets)}"
            raise rules.error(file, (*path, "preset"), f"there is no preset `{preset}`", cure)


def _checked(walk: "_Walk", part: str, written: Sequence[WrittenLater], names: set[str]) -> Iterator[Rule]:
    for at, rule in enumerate(written):
        if rule.name in names:
            cause = f"two rules are called `{rule.name}`"
            raise _error(walk.file, walk.places, (part, at, "name"), cause, "give each a name of its own")
        names.add(rule.name)
        when = walk.expression((part, at, "when"), rule.when, part == AFTER) if rule.when.strip() else None
        if when is None and at + 1 < len(written):
            cause = f"`{rule.name}` fits every series, so that no rule after it is ever asked"
            raise _error(walk.file, walk.places, (part, at), cause, "put it last, or give it a `when:`")
        best = rule.best_of_study if isinstance(rule, Written) else None
        prefer = walk.expression((part, at, "best_of_study", "prefer"), best.prefer) if best else None
        yield Rule(rule.name, when, rule.read, rule.skip or "", best, prefer)


def _at(error: Exception) -> str:
    """What the YAML parser says, and where."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else str(problem)


def _told(error: Any) -> tuple[str, str]:
    """Cause and cure of what pydantic found."""
    key = ".".join(str(part) for part in error["loc"] if isinstance(part, str)) or "the file"
    if error["type"] == "extra_forbidden":
        return f"{key}: there is no such key", "see docs/operations/routing.md"
    if error["type"] == "missing":
        return f"{key}: is missing", "add it"
    return f"{key}: {str(error['msg']).removeprefix('Value error, ')}", "see docs/operations/routing.md"


def _error(file: Path | str, places: dict[Path_, tuple[int, int]], path: Path_, cause: str, cure: str) -> RulesError:
    at = tuple(path)
    while at and at not in places:
        at = at[:-1]
    line, column = places.get(at, (1, 1))
    return RulesError(f"{file}: line {line}, column {column}: {cause}", cure)


class _Walk:
    """YAML nodes to plain values, with the place of each; a key that stands twice is an error."""

    DEEPEST, MOST = 20, 20_000
    """Levels, and values in all: aliases can stand for any number of them."""

    def __init__(self, file: Path | str, text: str) -> None:
        self.file, self._text = file, text
        self.places: dict[Path_, tuple[int, int]] = {}
        self._scalars: dict[Path_, yaml.ScalarNode] = {}
        self._plain = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: Path_, depth: int) -> Any:
        """Raises RulesError."""
        self.places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if depth > self.DEEPEST or len(self.places) > self.MOST:
            raise _error(self.file, self.places, path, "nested too deeply", "see docs/operations/routing.md")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, n), depth + 1) for n, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key, child in node.value:
                name = str(key.value)
                if name in found:
                    self.places[path] = (key.start_mark.line + 1, key.start_mark.column + 1)
                    raise _error(self.file, self.places, path, f"{name[:64]}: stands there twice", "remove one")
                found[name] = self.value(child, (*path, name), depth + 1)
                self.places.setdefault((*path, name), (key.start_mark.line + 1, key.start_mark.column + 1))
            return found
        assert isinstance(node, yaml.ScalarNode)
        self._scalars[path] = node
        if path[-1:] in (("when",), ("prefer",), ("skip",), ("version",), ("name",), ("release",), ("preset",)):
            return str(node.value)
        try:
            return self._plain.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise _error(self.file, self.places, path, "this value is not understood", "put it in quotes") from error

    def expression(self, path: Path_, text: str, late: bool = False) -> Expression:
        """Parse an expression, its errors told at their place in the file. Raises RulesError."""
        node = self._scalars.get(path)
        try:
            return parse(Source(text) if node is None else self._source(node), late)
        except ExpressionError as error:
            where = f"line {error.line}, column {error.column}"
            raise RulesError(f"{self.file}: {where}: {error.cause}", error.cure) from error

    def _source(self, node: yaml.ScalarNode) -> Source:
        """The expression as it stands in the file: of all but quoted ones the very text, whose lines are kept."""
        start, end = node.start_mark, node.end_mark
        if node.style in ("'", '"'):
            return Source(node.value, start.line + 1, start.column + 2)
        raw = self._text[start.index : end.index]
        if node.style in ("|", ">"):
            return Source(raw.partition("\n")[2], start.line + 2)
        return Source(raw, start.line + 1, start.column + 1)
