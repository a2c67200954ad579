"""Who may look: HTTP Basic (RFC 7617) with the console's password, slowed down for whoever guesses."""

import base64
import hashlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from time import monotonic

from node.console.password import LONGEST, USER, PasswordFile, fits

WINDOW_S = 60.0
"""How long a wrong password counts, seconds."""
_LONGEST_USER = 32
"""Characters of a user's name."""
_OF_ONE, _OF_ALL = 5, 50
"""Wrong passwords within that time after which one address, or anybody, is not listened to."""


class Verdict(Enum):
    """What becomes of a request."""

    GRANTED = auto()
    NAMELESS = auto()
    """No password, or a wrong one: asked for it."""
    TOO_MANY = auto()
    """Too many wrong ones lately: not even looked at."""
    NO_PASSWORD_SET = auto()
    """There is none yet: nobody gets in."""


class Gate:
    """Decides on each request; any thread.

    The password of each user that opened last is remembered as a keyed hash, so that not each request costs a tenth of
    a second, and so that its owner still gets in while somebody else guesses.
    """

    def __init__(self, file: PasswordFile, readers: Mapping[str, PasswordFile] | None = None) -> None:
        """`file` is that of the console's own user, `readers` those of others by name."""
        self._files = {USER: file, **(readers or {})}
        self._key = secrets.token_bytes(32)
        self._opened: dict[str, bytes] = {}
        self._wrong: deque[tuple[float, str]] = deque()
        self._lock = threading.Lock()

    def judge(self, authorization: str, address: str) -> Verdict:
        """`authorization` is the header's value, `address` the client's."""
        try:
            stored = self._files[USER].read()
        except OSError:
            return Verdict.NO_PASSWORD_SET
        user, password = credentials(authorization)
        if user not in self._files:
            return Verdict.NAMELESS
        if user != USER:
            try:
                stored = self._files[user].read()
            except OSError:  # a reader who has no password yet
                return Verdict.NAMELESS
        mark = hmac.digest(self._key, stored + b"\0" + password.encode("utf-8", "surrogatepass"), hashlib.sha256)
        if hmac.compare_digest(mark, self._opened.get(user, b"")):
            return Verdict.GRANTED
        attempt = self._begin(address)
        if attempt is None:
            return Verdict.TOO_MANY
        if not fits(stored, password):
            return Verdict.NAMELESS
        with self._lock:
            self._opened[user] = mark
            if attempt in self._wrong:
                self._wrong.remove(attempt)
        return Verdict.GRANTED

    def _begin(self, address: str) -> tuple[float, str] | None:
        """Count an attempt as wrong until it is known to be right; None if there were too many."""
        with self._lock:
            now = monotonic()
            while self._wrong and self._wrong[0][0] < now - WINDOW_S:
                self._wrong.popleft()
            of_one = sum(known == address for _, known in self._wrong)
            if of_one >= _OF_ONE or len(self._wrong) >= _OF_ALL:
                return None
            attempt = (now, address)
            self._wrong.append(attempt)
            return attempt


def credentials(authorization: str) -> tuple[str, str]:
    """User and password of a Basic header; both empty if there is none."""
    kind, _, encoded = authorization.partition(" ")
    if kind.lower() != "basic" or len(encoded) > 4 * (LONGEST + _LONGEST_USER):
        return "", ""
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except ValueError:  # no base64 (be it that the header is not even ASCII), or no UTF-8
        return "", ""
    return (user, password) if colon else ("", "")
