"""Who said something, without the name: a keyed hash, the same for the same name on this node and nowhere else."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path


class Pseudonyms:
    """Its key lies in `feedback-salt` in the data folder, mode 0600; it is made when it is asked for first."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / "feedback-salt"

    def of(self, name: str) -> str:
        """32 hexadecimal digits; empty for an empty name. Raises OSError."""
        folded = " ".join(name.replace("^", " ").split()).casefold()
        return hmac.digest(self._key(), folded.encode(), hashlib.sha256).hex()[:32] if folded else ""

    def known(self, name: str) -> str:
        """As `of`, but without a key yet, or one that cannot be read: empty."""
        try:
            return self.of(name) if self._file.exists() else ""
        except OSError:
            return ""

    def _key(self) -> bytes:
        draft = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}")
        if not self._file.exists():
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(secrets.token_bytes(32))
                out.flush()
                os.fsync(out.fileno())
            try:
                os.link(draft, self._file)  # of two processes the first one makes it
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return self._file.read_bytes()
