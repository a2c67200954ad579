"""The rules of a node, checked against its settings: destinations, and releases with their digests."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from config import Settings
from config.rules import FIRST, Rules, load_rules, read_rules
from node.release import release_digest, release_folder
from node.rules.versions import CONFIGURATION, RuleVersions, Version


@dataclass(frozen=True)
class Rulebook:
    """Checked rules, and what they need to be applied."""

    rules: Rules
    digests: dict[str, str]
    """Release that a rule names -> its SHA-256, hex."""


def open_rulebook(settings: Settings) -> Rulebook | None:
    """The rules of the file in the settings; None if they name none. Raises config.rules.RulesError."""
    return check_rules(settings.routing.rules, settings) if settings.routing.rules is not None else None


def check_rules(file: Path, settings: Settings) -> Rulebook:
    """Load and check a rules file for a node with these settings. Raises config.rules.RulesError."""
    return _with_releases(load_rules(file, settings.destinations), file)


def check_text(text: str, name: str, settings: Settings) -> Rulebook:
    """The same for the text of a file, which errors call `name`. Raises config.rules.RulesError."""
    return _with_releases(read_rules(text.encode(), name, settings.destinations), name)


def _with_releases(rules: Rules, file: Path | str) -> Rulebook:
    digests: dict[str, str] = {}
    for at, name in rules.releases():
        try:
            digests[name] = release_digest(name)
        except OSError as error:
            raise rules.error(
                file,
                (FIRST, at, "read", "release"),
                f"there is no release `{name}`: {release_folder(name) / 'SHA256SUMS'}: {error.strerror}",
                "name the folder of a release, or `bundled`",
            ) from error
    return Rulebook(rules, digests)


def take_configured(settings: Settings) -> None:
    """Make the file of the settings the newest version, if it is not what it was at the last start.

    So what was changed last counts, file or console. Raises config.rules.RulesError, OSError.
    """
    if settings.routing.rules is None:
        return
    check_rules(settings.routing.rules, settings)
    text = settings.routing.rules.read_bytes().decode()
    versions = RuleVersions(settings.data_dir)
    numbers = versions.numbers()
    known = (versions.get(number) for number in numbers)
    last = next((one for one in known if one is not None and one.configured), None)
    if last is None or last.text != text:
        versions.add(text, CONFIGURATION, str(settings.routing.rules.name), numbers[0] if numbers else 0)


def save_rules(settings: Settings, text: str, name: str, done_by: str, why: str, after: int | None = None) -> Version:
    """Check rules and put them in force. Errors call them `name`; `after`: the number that they were begun with.

    Raises config.rules.RulesError, RulesMovedError if others were saved since, OSError.
    """
    check_text(text, name, settings)
    versions = RuleVersions(settings.data_dir)
    newest = next(iter(versions.numbers()), 0)
    return versions.add(text, done_by, why, newest if after is None else after)


def book_in_force(settings: Settings) -> Rulebook | None:
    """The newest version, as long as it is not one of a file that the settings name no more; before there is any, the
    file. None: there are no rules. Raises config.rules.RulesError.
    """
    newest = RuleVersions(settings.data_dir).newest()
    if newest is None:
        return open_rulebook(settings)
    if newest.configured and settings.routing.rules is None:
        return None
    return check_text(newest.text, newest.name, settings)


def rules_of(digest: str, settings: Settings) -> Rules | None:
    """The rules of that SHA-256, whatever their names mean by now; None if nobody has them. Raises RulesError."""
    versions = RuleVersions(settings.data_dir)
    for number in versions.numbers():
        version = versions.get(number)
        if version is not None and version.digest == digest:
            return read_rules(version.content, version.name, None)
    file = settings.routing.rules
    try:
        content = b"" if file is None else file.read_bytes()
    except OSError:
        return None
    return read_rules(content, str(file), None) if hashlib.sha256(content).hexdigest() == digest else None


class RulesInForce:
    """The rules in force for a process that runs on: `look` follows what is saved."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: int | None = None
        self.book: Rulebook | None = None

    @property
    def number(self) -> int:
        """Of the version that was looked at last; 0: the file of the settings."""
        return self._seen or 0

    def look(self) -> bool:
        """Whether another version is there than at the last look; `book` is then of it.

        Raises config.rules.RulesError, once for each version that is wrong; `book` stays what it was.
        """
        newest = next(iter(RuleVersions(self._settings.data_dir).numbers()), 0)
        if newest == self._seen:
            return False
        self._seen = newest
        self.book = book_in_force(self._settings)
        return True
