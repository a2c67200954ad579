"""The salt, and everything that is derived from it: pseudonyms, UIDs, date shifts, splits.

Who has the salt can tell whether a known patient is in the collection; who has not cannot tell anything. The same salt
gives the same answers, so that a collection that is gone on with stays one.
"""

import hashlib
import hmac
import json
import os
import secrets
from datetime import date, timedelta
from pathlib import Path

from pydicom.uid import UID

from training.collection import Split

_MOST_DAYS = 730
"""Longest shift, days: two years keep the age of scanners comparable."""


class Secret:
    """Keyed hashes (HMAC-SHA256) of what the archive says."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, folder: Path) -> "Secret":
        """The salt in `folder`, mode 0600; made if it is not there. Raises OSError."""
        file = folder / "salt"
        draft = folder / f".salt.{secrets.token_hex(4)}"
        if not file.exists():
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(secrets.token_bytes(32))
                out.flush()
                os.fsync(out.fileno())
            try:
                os.link(draft, file)  # of two processes the first one makes it
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return cls(file.read_bytes())

    def subject(self, patient_id: str) -> str:
        """Pseudonym of a patient, 32 hexadecimal digits."""
        return self._digest("subject", patient_id).hex()[:32]

    def pair(self, series_uid: str) -> str:
        """Pseudonym of a series, 32 hexadecimal digits."""
        return self._digest("pair", series_uid).hex()[:32]

    def study(self, study_uid: str) -> str:
        """Pseudonym of a study, 16 hexadecimal digits."""
        return self._digest("study", study_uid).hex()[:16]

    def report(self, key: str) -> str:
        """Pseudonym of a report, 16 hexadecimal digits."""
        return self._digest("report", key).hex()[:16]

    def reader(self, name: str) -> str:
        """Pseudonym of a radiologist, 16 hexadecimal digits; empty for nobody."""
        return self._digest("reader", name).hex()[:16] if name else ""

    @property
    def mark(self) -> str:
        """Tells one salt from another, and nothing about it."""
        return self._digest("mark").hex()[:16]

    def uid(self, uid: str) -> UID:
        """The UID that takes the place of `uid`, under `2.25.` (PS3.5 annex B.2): a random-looking UUID, version 8."""
        number = int.from_bytes(self._digest("uid", uid)[:16], "big")
        number = number & ~(0xF << 76) | (0x8 << 76)
        number = number & ~(0x3 << 62) | (0x2 << 62)
        return UID(f"2.25.{number}")

    def shifted(self, day: date, patient_id: str) -> date:
        """`day` moved into the past by 1 to 730 days, the same for all days of a patient."""
        days = 1 + int.from_bytes(self._digest("shift", patient_id)[:8], "big") % _MOST_DAYS
        return day - timedelta(days=days)

    def split(self, patient_id: str, validate_share: float, test_share: float) -> Split:
        """Where all pairs of a patient go."""
        place = int.from_bytes(self._digest("split", patient_id)[:8], "big") / 2**64
        if place < test_share:
            return "test"
        return "validate" if place < test_share + validate_share else "train"

    def _digest(self, *parts: str) -> bytes:
        return hmac.digest(self._key, json.dumps(parts).encode(), hashlib.sha256)
