"""Every set of routing rules that the node was given: a numbered file in the data folder each, never changed.

They lie beside the spool and not in the database, so that a database that is lost takes no rules with it. The newest is
in force; to go back to an older one, its text is saved again.
"""

import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config.rules import RulesError
from node.errors import CommandError
from node.records import now
from node.spool import sync_folder

CONFIGURATION = "configuration"
"""Who gave the rules of the file that the settings name, when the node was started."""
_NAME = re.compile(r"([0-9]{6})\.json", re.ASCII)


@dataclass(frozen=True)
class Version:
    """One set of rules, as it was given."""

    number: int
    at: datetime
    done_by: str
    """User of the console or of the operating system; CONFIGURATION."""
    why: str
    text: str
    """The YAML."""

    @property
    def name(self) -> str:
        """For a person."""
        return f"rules no. {self.number}"

    @property
    def content(self) -> bytes:
        return self.text.encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the YAML, hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def configured(self) -> bool:
        """Whether it is that of the file in the settings."""
        return self.done_by == CONFIGURATION


class RulesMovedError(CommandError):
    """Somebody else has saved rules meanwhile."""


class RuleVersions:
    """The versions of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "rules"

    def numbers(self) -> list[int]:
        """Of all versions, the newest first. Raises RulesError if the folder cannot be read."""
        try:
            found = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RulesError(f"{self._folder}: cannot be read: {error.strerror}", "mend its rights") from error
        return sorted((int(one[1]) for one in found if one), reverse=True)

    def newest(self) -> Version | None:
        """The newest version; None if there is none. Raises RulesError if it cannot be read."""
        numbers = self.numbers()
        return self.get(numbers[0]) if numbers else None

    def get(self, number: int) -> Version | None:
        """The version of that number; None if there is none. Raises RulesError if it cannot be read."""
        file = self._file(number)
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            at = datetime.fromisoformat(told["at"])
            return Version(number, at, str(told["done_by"]), str(told["why"]), str(told["text"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RulesError(f"{file}: cannot be read ({type(error).__name__})", "restore it from a backup") from error

    def add(self, text: str, done_by: str, why: str, after: int) -> Version:
        """Keep checked rules as the version after number `after` (0: the first), on disk when this returns.

        Raises RulesMovedError if that number is taken, OSError.
        """
        made = Version(after + 1, now(), done_by[:64], why[:1000], text)
        told = {"at": made.at.isoformat(), "done_by": made.done_by, "why": made.why, "text": text}
        self._folder.mkdir(parents=True, exist_ok=True)
        unready = self._folder / f".{secrets.token_hex(8)}.new"
        try:
            with unready.open("x", encoding="utf-8") as out:
                json.dump(told, out)
                out.flush()
                os.fsync(out.fileno())
            os.link(unready, self._file(made.number))  # unlike a rename, it never takes another one's place
        except FileExistsError as error:
            raise RulesMovedError(
                f"Somebody has saved rules no. {made.number} meanwhile.", "Look at them, then save yours again."
            ) from error
        finally:
            unready.unlink(missing_ok=True)
        sync_folder(self._folder)
        return made

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06}.json"
