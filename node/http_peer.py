"""An archive that is asked over HTTP: JSON and objects. Only where the settings say it is, and where it is asked.

No redirect is followed, proxies of the environment are not used, certificates are checked; an answer is bounded in size
and in time as a whole.
"""

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import httpx

from config import Reason
from config.secret import SecretError, read_secret
from config.setting_types import HttpAccess

_LONGEST_JSON = 64 * 2**20
"""Bytes; the list of a series of 3000 images has some 2 million."""
_PASSING = (401, 403, 407, 408, 429, 502, 503, 504)
"""HTTP statuses that are not about what was asked for, or that go away."""
_SLOWEST = 100_000
"""Bytes a second below which an answer is given up."""


class PeerError(Exception):
    """The archive does not answer, or not as it should. The text names no patient."""

    def __init__(self, reason: Reason, detail: str, status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.status = reason, detail, status

    @property
    def lasting(self) -> bool:
        """The archive is there and answers, but not with this: to ask again does not mend it."""
        return self.reason is Reason.PEER_REFUSED and self.status not in _PASSING


class HttpPeer:
    """A context manager. From any thread, `at_once` requests at the same time."""

    def __init__(self, url: str, access: HttpAccess, timeout_s: float, at_once: int = 1) -> None:
        """`timeout_s`: longest silence. Raises PeerError if a secret or the certificates cannot be read."""
        self.url, self._timeout_s = url.rstrip("/"), timeout_s
        headers = {"Accept-Encoding": "identity"}
        basic: tuple[str, str] | None = None
        try:
            if access.token:
                headers["Authorization"] = f"Bearer {read_secret(access.token)}"
            if access.user:
                basic = (access.user, read_secret(access.password))
            tls = ssl.create_default_context(cafile=access.ca_file)
        except SecretError as error:
            raise PeerError(Reason.INTERNAL, str(error)) from error
        except OSError as error:
            raise PeerError(Reason.INTERNAL, f"ca_file cannot be read ({type(error).__name__})") from error
        self._client = httpx.Client(
            verify=tls,
            auth=basic,
            headers=headers,
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
        )

    def json(self, path: str, params: Mapping[str, str | int] | None = None, accept: str = "application/json") -> Any:
        """Decoded JSON; None for 204. Raises PeerError, with a `status` if there was an answer."""
        content = bytearray()
        with self._answer(path, params, accept) as answer:
            if answer.status_code == 204:
                return None
            for chunk in self._chunks(answer, _LONGEST_JSON):
                content += chunk
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise PeerError(Reason.PEER_REFUSED, f"{self.url}: the answer is no JSON") from error

    def fetch(self, path: str, accept: str, take: Callable[[str], Callable[[bytes], None]], longest: int) -> None:
        """Give the pieces of an answer to what `take` makes of its Content-Type. Raises PeerError."""
        with self._answer(path, None, accept) as answer:
            write = take(answer.headers.get("Content-Type", ""))
            for chunk in self._chunks(answer, longest):
                write(chunk)

    def send(self, method: str, path: str, body: Any, content_type: str) -> tuple[int, str]:
        """Send JSON (nothing for None): HTTP status and text of the Warning header. Raises PeerError if there is no
        answer, or one that is not about what was sent.
        """
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"Accept": content_type} | ({} if body is None else {"Content-Type": content_type})
        with (
            self._told(),
            self._client.stream(method, f"{self.url}/{path}", content=content, headers=headers) as answer,
        ):
            for _ in self._chunks(answer, _LONGEST_JSON):
                pass
            status = answer.status_code
            if 300 <= status < 400 or status >= 500 or status in _PASSING:
                raise PeerError(Reason.PEER_REFUSED, f"{self.url} answers HTTP {status}", status)
            return status, answer.headers.get("Warning", "")[:200]

    @contextmanager
    def _answer(self, path: str, params: Mapping[str, str | int] | None, accept: str) -> Iterator[httpx.Response]:
        """An answer with success. Raises PeerError, also for what goes wrong while it is read."""
        with (
            self._told(),
            self._client.stream("GET", f"{self.url}/{path}", params=params, headers={"Accept": accept}) as answer,
        ):
            if answer.status_code not in (200, 204):
                raise PeerError(
                    Reason.PEER_REFUSED, f"{self.url} answers HTTP {answer.status_code}", answer.status_code
                )
            yield answer

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong on the way is raised as PeerError."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                text = f"{self.url}: its TLS certificate is not one of a known authority, or not for this name"
                raise PeerError(Reason.TLS_CERTIFICATE_UNTRUSTED, text) from error
            raise PeerError(Reason.PEER_UNREACHABLE, f"{self.url} does not answer ({type(error).__name__})") from error

    def _chunks(self, answer: httpx.Response, longest: int) -> Iterator[bytes]:
        size, started = 0, time.monotonic()
        for chunk in answer.iter_raw(65536):
            size += len(chunk)
            if size > longest:
                raise PeerError(Reason.PEER_REFUSED, f"{self.url}: the answer is longer than {longest} bytes")
            if time.monotonic() - started > self._timeout_s + size / _SLOWEST:
                raise PeerError(Reason.PEER_SILENT, f"{self.url} answers too slowly")
            yield chunk

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
