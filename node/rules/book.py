"""The rules file that the settings name, checked against them: destinations, and releases with their digests."""

from dataclasses import dataclass
from pathlib import Path

from config import Settings
from config.rules import Rules, load_rules
from node.release import release_digest, release_folder


@dataclass(frozen=True)
class Rulebook:
    """Checked rules, and what they need to be applied."""

    rules: Rules
    digests: dict[str, str]
    """Release that a rule names -> its SHA-256, hex."""


def open_rulebook(settings: Settings) -> Rulebook | None:
    """The rules of the settings; None if they name no file. Raises config.rules.RulesError with cause and cure."""
    return check_rules(settings.routing.rules, settings) if settings.routing.rules is not None else None


def check_rules(file: Path, settings: Settings) -> Rulebook:
    """Load and check a rules file for a node with these settings. Raises config.rules.RulesError."""
    rules = load_rules(file, settings.destinations)
    digests: dict[str, str] = {}
    for at, name in rules.releases():
        try:
            digests[name] = release_digest(name)
        except OSError as error:
            raise rules.error(
                file,
                ("rules", at, "read", "release"),
                f"there is no release `{name}`: {release_folder(name) / 'SHA256SUMS'}: {error.strerror}",
                "name the folder of a release, or `bundled`",
            ) from error
    return Rulebook(rules, digests)
