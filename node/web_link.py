"""A destination that is a DICOMweb service: STOW-RS, one object a request, and QIDO-RS, whether it is there.

PS3.18 sections 10.5 and 10.6.

Answers are bounded in size and each exchange as a whole in time; no redirect is followed; certificates are checked.
Nothing of the authorisation is kept longer than the link, or logged.
"""

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from config import Reason
from config.secret import SecretError, read_secret
from config.settings import WebDestination
from node.dimse_link import SLOWEST, AwayError
from node.outbox import Fate, Outcome
from node.store_status import judge

_JSON = "application/dicom+json"
_LONGEST_ANSWER = 2**20
"""Bytes; the report on one object has less than 2000."""
_CHUNK = 2**18
_FAILED, _REFERENCED = "00081198", "00081199"
_INSTANCE, _FAILURE_REASON, _WARNING_REASON, _SOP_INSTANCE = "00081155", "00081197", "00081196", "00080018"
_OBJECT_REFUSED = {400, 409, 413, 415, 422}
_OBJECT_LATER = {500, 507}
_NOT_OFFERED = {400, 404, 405, 406, 410, 415, 501}
"""Answers to QIDO-RS of a service that has none, or not this search."""


@dataclass(frozen=True)
class _Answer:
    status: int
    body: Any
    """Decoded JSON; None if there is none."""


class WebLink:
    """A context manager. `alive` stays true: each request has a connection of its own."""

    alive = True

    def __init__(self, destination: WebDestination, timeout_s: float) -> None:
        """Raises AwayError if a secret or the certificates cannot be read."""
        self._url, self._timeout_s = destination.base_url, timeout_s
        self._headers = {"Accept": _JSON, "Accept-Encoding": "identity"}
        self._basic: tuple[str, str] | None = None
        try:
            if destination.token:
                self._headers["Authorization"] = f"Bearer {read_secret(destination.token)}"
            if destination.user:
                self._basic = (destination.user, read_secret(destination.password))
            self._tls = ssl.create_default_context(cafile=destination.ca_file)
        except SecretError as error:
            raise AwayError(Reason.INTERNAL, str(error)) from error
        except OSError as error:
            raise AwayError(Reason.INTERNAL, f"ca_file cannot be read ({type(error).__name__})") from error

    def store(self, path: Path, sop_class: str) -> Outcome:  # noqa: ARG002 - the service reads it from the object
        """STOW-RS of one file."""
        try:
            uid, size = str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID), path.stat().st_size
        except (OSError, InvalidDicomError, AttributeError) as error:
            detail = f"result file: {type(error).__name__}; make it again with: fvlm-node retry"
            return Outcome(Fate.REFUSED, Reason.INTERNAL, detail)
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + size + len(tail)),
        }
        try:
            answer = self._exchange("POST", "studies", headers, (head, path, tail), size)
        except AwayError as error:
            return error.outcome
        return judge_stow(answer.status, answer.body, uid)

    def lists(self, path: Path) -> bool | None:
        """Whether the service lists the object of a file by QIDO-RS; None if it offers no such search.

        Raises AwayError, OSError, pydicom.errors.InvalidDicomError.
        """
        wanted = dcmread(path, specific_tags=["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
        where = f"studies/{wanted.StudyInstanceUID}/series/{wanted.SeriesInstanceUID}/instances"
        uid = str(wanted.SOPInstanceUID)
        answer = self._exchange("GET", f"{where}?SOPInstanceUID={uid}", {}, None, 0)
        if answer.status in (200, 204):
            return any(uid in _values(item, _SOP_INSTANCE) for item in _objects(answer.body))
        if answer.status in _NOT_OFFERED:
            return None
        raise AwayError(Reason.PEER_REFUSED, f"QIDO-RS answers HTTP {answer.status}")

    def probe(self) -> int:
        """The HTTP status of a search for one study, whichever. Raises AwayError."""
        return self._exchange("GET", "studies?limit=1", {}, None, 0).status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._headers, self._basic = {}, None

    def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: tuple[bytes, Path, bytes] | None, size: int
    ) -> _Answer:
        try:
            return asyncio.run(self._request(method, f"{self._url}/{path}", headers, body, size))
        except TimeoutError as error:
            raise AwayError(Reason.PEER_UNREACHABLE, f"{self._url} did not answer in time") from error
        except (httpx.TransportError, httpx.InvalidURL, ssl.SSLError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                text = f"{self._url}: its TLS certificate is not one of a known authority, or not for this name"
                raise AwayError(Reason.TLS_CERTIFICATE_UNTRUSTED, text) from error
            raise AwayError(Reason.PEER_UNREACHABLE, f"{self._url} does not answer ({type(error).__name__})") from error

    async def _request(
        self, method: str, url: str, headers: dict[str, str], body: tuple[bytes, Path, bytes] | None, size: int
    ) -> _Answer:
        """One exchange. Raises TimeoutError when it takes too long as a whole, httpx.TransportError."""
        async with (
            asyncio.timeout(self._timeout_s + size / SLOWEST),
            httpx.AsyncClient(
                verify=self._tls, timeout=None, follow_redirects=False, trust_env=False, auth=self._basic
            ) as client,
            client.stream(
                method, url, headers=self._headers | headers, content=None if body is None else _parts(*body)
            ) as response,
        ):
            content = b""
            async for chunk in response.aiter_raw(65536):
                content += chunk
                if len(content) > _LONGEST_ANSWER:
                    return _Answer(response.status_code, None)
            return _Answer(response.status_code, _decoded(content))


def judge_stow(status: int, body: Any, uid: str) -> Outcome:
    """What became of the one object of a STOW-RS request: HTTP status and Store Instances Response (PS3.18 10.5.3)."""
    text = f"STOW-RS: HTTP {status}"
    if 300 <= status < 400:
        detail = f"{text}: the service redirects, which is not followed; set stow_url to where it really is"
        return Outcome(Fate.AWAY, Reason.PEER_REFUSED, detail)
    if status in (401, 403, 407):
        return Outcome(Fate.AWAY, Reason.PEER_REFUSED, f"{text}: the authorisation is not accepted")
    for item in _within(body, _FAILED):
        if uid in _values(item, _INSTANCE):
            reason = _number(item, _FAILURE_REASON)
            if reason is None:
                return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, f"{text}: failed without a reason")
            return judge(reason, f"{text}, failure reason")
    for item in _within(body, _REFERENCED):
        if uid in _values(item, _INSTANCE) and status < 400:
            warning = _number(item, _WARNING_REASON)
            return Outcome(Fate.STORED) if warning is None else judge(warning, f"{text}, warning reason")
    if status == 200 and body is None:
        return Outcome(Fate.STORED, detail=f"{text} without a report on the object")
    if status < 300:
        return Outcome(Fate.RETRY, Reason.PEER_REFUSED, f"{text}: the report does not name the object")
    if status in _OBJECT_REFUSED:
        return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, text)
    if status in _OBJECT_LATER:
        return Outcome(Fate.RETRY, Reason.PEER_REFUSED, text)
    if status in (404, 405, 406, 410, 501):
        return Outcome(Fate.AWAY, Reason.PEER_REFUSED, f"{text}: no STOW-RS service there; check stow_url")
    return Outcome(Fate.AWAY, Reason.PEER_REFUSED, text)


async def _parts(head: bytes, path: Path, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
    yield tail


def _decoded(content: bytes) -> Any:
    """JSON; None if it is none. The service may answer in XML, whatever it was asked for."""
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError):
        return None


def _within(body: Any, tag: str) -> list[dict[str, Any]]:
    """Items of a sequence of the first data set of an answer."""
    return _objects(next((_raw(item, tag) for item in _objects(body)), None))


def _objects(value: Any) -> list[dict[str, Any]]:
    """Data sets: an answer is an array of them, a service may leave the array out."""
    found = value if isinstance(value, list) else [value]
    return [item for item in found if isinstance(item, dict)]


def _values(item: dict[str, Any], tag: str) -> list[str]:
    values = _raw(item, tag)
    return [str(value) for value in values] if isinstance(values, list) else []


def _number(item: dict[str, Any], tag: str) -> int | None:
    values = _values(item, tag)
    return int(values[0]) if values and values[0].isdecimal() else None


def _raw(item: dict[str, Any], tag: str) -> Any:
    """The value of an element (PS3.18 annex F)."""
    element = item.get(tag)
    return element.get("Value") if isinstance(element, dict) else None
