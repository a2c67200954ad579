"""Passwords of the console: salted hashes (scrypt, RFC 7914), each in a file that only the node's user can read."""

import base64
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

USER = "console"
"""Who only looks. Readers and operators (`console.readers`, `operators`) have names and passwords of their own."""
SHORTEST, LONGEST = 10, 200
"""Characters that a password of one's own may have."""
_COST, _BLOCK, _LANES = 2**15, 8, 1
"""scrypt's N, r, p: 32 MiB and about 0.1 s for each try."""
_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class PasswordFile:
    """Where the hash lies: `console-password`, of a reader `console-password-NAME`, in the data folder, mode 0600."""

    path: Path

    @classmethod
    def of(cls, data_dir: Path, user: str = USER) -> "PasswordFile":
        return cls(data_dir / ("console-password" if user == USER else f"console-password-{user}"))

    def generate(self) -> str:
        """Set a random password, and give it: it is stored nowhere. Raises OSError."""
        password = secrets.token_urlsafe(12)
        self.set(password)
        return password

    def set(self, password: str) -> None:
        """Replace the password in one step; an old one no longer opens. Raises OSError, and ValueError for a length
        outside of SHORTEST to LONGEST.
        """
        if not SHORTEST <= len(password) <= LONGEST:
            raise ValueError(f"it has {len(password)} characters, not {SHORTEST} to {LONGEST}")
        salt = secrets.token_bytes(16)
        line = "$".join(("scrypt", str(_COST), str(_BLOCK), str(_LANES), _text(salt), _text(_hash(password, salt))))
        draft = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            out.write(line + "\n")
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.path)

    def read(self) -> bytes:
        """The stored line; it changes with the password. Raises OSError."""
        return self.path.read_bytes()


def fits(stored: bytes, password: str) -> bool:
    """True if it is the password of the stored line; a line that is none fits nothing. Takes about 0.1 s."""
    try:
        kind, cost, block, lanes, salt, digest = stored.decode("ascii").strip().split("$")
        made = _hash(password, base64.b64decode(salt, validate=True), int(cost), int(block), int(lanes))
        return kind == "scrypt" and hmac.compare_digest(made, base64.b64decode(digest, validate=True))
    except ValueError:
        return False


def _hash(password: str, salt: bytes, cost: int = _COST, block: int = _BLOCK, lanes: int = _LANES) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=cost, r=block, p=lanes, maxmem=_MEMORY
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
