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

Everything is checked when it is loaded; an error names file, line, column, cause and cure.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.expressions import Expression, ExpressionError, Source, Trace, Values, evaluate, parse
from config.priority import PriorityName

LARGEST = 2**20
"""Bytes of a rules file."""
Path_ = tuple[str | int, ...]
"""Keys and positions from the top of the file down to something in it."""
_PREFER = "soft_kernel"
"""What the best series of a study is like, if the rule does not say it."""


class RulesError(ValueError):
    """A rules file is wrong. The text names file, line, column, cause and cure."""

    def __init__(self, cause: str, cure: str) -> None:
        """`cause` begins with the file, and where it is known with line and column."""
        super().__init__(f"{cause} → {cure}")
        self.cause, self.cure = cause, cure


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
"""One line."""


class Read(_Part):
    """How a series is read."""

    release: Annotated[str, Field(max_length=300)] = ""
    """Model release, as `model.release` names one; empty: that of the settings."""
    destinations: tuple[str, ...] | None = None
    """Receivers by name; none named: `routing.destinations`; `[]`: results stay in the data folder (shadow mode)."""
    priority: PriorityName | None = None
    """None: as the settings have it for the sender."""


class Best(_Part):
    """Of the series of a study that the rule wants, only the best is read."""

    prefer: Annotated[str, Field(max_length=4000)] = _PREFER
    """An expression: series for which it is true come first; then the thinnest, then the one with most slices."""
    wait_s: Annotated[float, Field(ge=0, le=86400)] = 120.0
    """Seconds without a new image for any series of the study before it is chosen."""


class _Written(_Part):
    """One rule as the file has it."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]*$")]
    when: str = ""
    read: Read | None = None
    skip: Text | None = None
    best_of_study: Best | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """`read:` and `best_of_study:` without anything, or `best_of_study: true`, stand for their defaults."""
        if not isinstance(value, dict):
            return value
        forms = dict(value)
        if "read" in forms and forms["read"] is None:
            forms["read"] = {}
        if "best_of_study" in forms and forms["best_of_study"] in (None, True):
            forms["best_of_study"] = {}
        return forms

    @model_validator(mode="after")
    def _one_end(self) -> "_Written":
        if (self.read is None) == (self.skip is None):
            raise ValueError("say `read:` or `skip: why not`, one of them")
        if self.best_of_study is not None and self.read is None:
            raise ValueError("`best_of_study` goes with `read`")
        return self


class _File(_Part):
    version: Text
    rules: Annotated[tuple[_Written, ...], Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class Rule:
    """One checked rule."""

    name: str
    when: Expression | None
    """None: every series."""
    read: Read | None
    skip: str
    """Why not, if `read` is None."""
    best: Best | None
    prefer: Expression | None
    """Of `best`."""

    @property
    def action(self) -> str:
        """What it does with a series that it fits, for a person."""
        if self.read is None:
            return f"skip: {self.skip}"
        parts = [f"priority {self.read.priority}"] if self.read.priority else []
        if self.read.destinations is not None:
            parts.append(f"to {', '.join(self.read.destinations) or 'no destination'}")
        if self.read.release:
            parts.append(f"release {self.read.release}")
        parts += ["best of study"] if self.best else []
        return ", ".join(["read", *parts])


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
    places: dict[Path_, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)
    """Where things stand in the file: line, column."""

    def ask(self, values: Values) -> list[Said]:
        """What each rule says, up to the first that fits; without one, the last is the last rule's `no`."""
        said = []
        for rule in self.rules:
            trace = evaluate(rule.when, values) if rule.when else Trace(True, ())
            said.append(Said(rule, trace))
            if trace.truth:
                break
        return said

    def decide(self, values: Values) -> Rule | None:
        """The first rule that fits; None if none does."""
        last = self.ask(values)[-1]
        return last.rule if last.trace.truth else None

    def releases(self) -> Iterator[tuple[int, str]]:
        """Position of a rule, and the release that it names, for each that names one."""
        for at, rule in enumerate(self.rules):
            if rule.read is not None and rule.read.release:
                yield at, rule.read.release

    def error(self, file: Path, path: Path_, cause: str, cure: str) -> RulesError:
        """An error at a place of the file."""
        return _error(file, self.places, path, cause, cure)


def load_rules(file: Path, destinations: Collection[str]) -> Rules:
    """Load and check a rules file; `destinations` are the names that may be used. Raises RulesError."""
    try:
        content = file.read_bytes()[: LARGEST + 1]
    except OSError as error:
        raise RulesError(f"{file}: cannot be read: {error.strerror}", "correct the name (routing.rules)") from error
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
        written = _File.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise _error(file, walk.places, first["loc"], *_told(first)) from error
    rules = Rules(written.version, hashlib.sha256(content).hexdigest(), tuple(_checked(walk, written)), walk.places)
    for at, rule in enumerate(rules.rules):
        for n, name in enumerate((rule.read and rule.read.destinations) or ()):
            if name not in destinations:
                known = ", ".join(sorted(destinations)) or "none is set"
                cure = f"add it under `destinations` in the settings, or name one of them ({known})"
                where = ("rules", at, "read", "destinations", n)
                raise rules.error(file, where, f"there is no destination `{name}`", cure)
    return rules


def _checked(walk: "_Walk", written: _File) -> Iterator[Rule]:
    names: set[str] = set()
    for at, rule in enumerate(written.rules):
        if rule.name in names:
            cause = f"two rules are called `{rule.name}`"
            raise _error(walk.file, walk.places, ("rules", at, "name"), cause, "give each a name of its own")
        names.add(rule.name)
        when = walk.expression(("rules", at, "when"), rule.when) if rule.when.strip() else None
        if when is None and at + 1 < len(written.rules):
            cause = f"`{rule.name}` fits every series, so that no rule after it is ever asked"
            raise _error(walk.file, walk.places, ("rules", at), cause, "put it last, or give it a `when:`")
        best = rule.best_of_study
        prefer = walk.expression(("rules", at, "best_of_study", "prefer"), best.prefer) if best else None
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


def _error(file: Path, places: dict[Path_, tuple[int, int]], path: Path_, cause: str, cure: str) -> RulesError:
    at = tuple(path)
    while at and at not in places:
        at = at[:-1]
    line, column = places.get(at, (1, 1))
    return RulesError(f"{file}: line {line}, column {column}: {cause}", cure)


class _Walk:
    """YAML nodes to plain values, with the place of each; a key that stands twice is an error."""

    DEEPEST, MOST = 20, 20_000
    """Levels, and values in all: aliases can stand for any number of them."""

    def __init__(self, file: Path, text: str) -> None:
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
        if path[-1:] in (("when",), ("prefer",), ("skip",), ("version",), ("name",), ("release",)):
            return str(node.value)
        try:
            return self._plain.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise _error(self.file, self.places, path, "this value is not understood", "put it in quotes") from error

    def expression(self, path: Path_, text: str) -> Expression:
        """Parse an expression, its errors told at their place in the file. Raises RulesError."""
        node = self._scalars.get(path)
        try:
            return parse(Source(text) if node is None else self._source(node))
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
