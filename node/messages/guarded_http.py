"""One HTTP POST to an address that is allowed: resolved once, checked, and connected to as it was checked.

A name that leads somewhere else a moment later (DNS rebinding), a redirect, or a host that quietly became this machine
or a cloud's metadata service gets nothing. Answers are bounded in size, the whole exchange in time.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from config import Reason
from config.setting_types import LOOPBACK
from node.dimse_link import AwayError
from node.outbox import Fate, Outcome

Networks = Sequence[IPv4Network | IPv6Network]
_LONGEST_ANSWER = 2**20
_TURNED_AWAY = {401, 403, 407}
_NOT_THERE = {404, 405, 406, 410, 501}
_LATER = {500, 507}


@dataclass(frozen=True)
class Target:
    """Where a POST goes, and who is trusted there."""

    url: str
    networks: Networks
    ca_file: Path | None = None
    basic: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back; `content` is cut off at a mebibyte."""

    status: int
    content: bytes


def post(target: Target, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """Raises AwayError."""
    try:
        tls = ssl.create_default_context(cafile=target.ca_file)
    except OSError as error:
        raise AwayError(Reason.INTERNAL, f"ca_file cannot be read ({type(error).__name__})") from error
    try:
        return asyncio.run(_post(target, body, headers, tls, timeout_s))
    except TimeoutError as error:
        raise AwayError(Reason.PEER_UNREACHABLE, f"{target.url} did not answer in time") from error
    except (httpx.TransportError, httpx.InvalidURL, ssl.SSLError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            text = f"{target.url}: its TLS certificate is not one of a known authority, or not for this name"
            raise AwayError(Reason.TLS_CERTIFICATE_UNTRUSTED, text) from error
        raise AwayError(Reason.PEER_UNREACHABLE, f"{target.url} does not answer ({type(error).__name__})") from error


def judge(answer: Answer, what: str) -> Outcome:
    """What became of a message by the HTTP status alone."""
    status, text = answer.status, f"{what}: HTTP {answer.status}"
    if 200 <= status < 300:
        return Outcome(Fate.STORED)
    if 300 <= status < 400:
        return Outcome(Fate.AWAY, Reason.PEER_REFUSED, f"{text}: it redirects, which is not followed; set the real URL")
    if status in _TURNED_AWAY:
        return Outcome(Fate.AWAY, Reason.PEER_REFUSED, f"{text}: the signature or authorisation is not accepted")
    if status in _NOT_THERE:
        return Outcome(Fate.AWAY, Reason.PEER_REFUSED, f"{text}: no such service there; check the URL")
    if status in _LATER:
        return Outcome(Fate.RETRY, Reason.PEER_REFUSED, text)
    if 400 <= status < 500 and status not in (408, 425, 429):
        return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, text)
    return Outcome(Fate.AWAY, Reason.PEER_REFUSED, text)


def allowed(address: IPv4Address | IPv6Address, host: str, networks: Networks) -> bool:
    """Whether a host of the settings may be at an address: this machine only if it is called so, and what cannot be
    anybody's address never.
    """
    plain = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    if host in LOOPBACK:
        return plain.is_loopback
    if plain.is_loopback or plain.is_link_local or plain.is_multicast or plain.is_unspecified:
        return False
    return any(plain in network for network in networks)


async def _post(
    target: Target, body: bytes, headers: Mapping[str, str], tls: ssl.SSLContext, timeout_s: float
) -> Answer:
    parts = urlsplit(target.url)
    host = parts.hostname or ""
    async with (
        asyncio.timeout(timeout_s),
        httpx.AsyncClient(
            verify=tls, timeout=None, follow_redirects=False, trust_env=False, auth=target.basic
        ) as client,
    ):
        addresses = await addresses_of(host, parts.port or (443 if parts.scheme == "https" else 80), target)
        for address in addresses:
            request = client.build_request(
                "POST",
                httpx.URL(target.url).copy_with(host=str(address)),
                content=body,
                headers={"Host": parts.netloc, "Accept-Encoding": "identity", **headers},
                extensions={"sni_hostname": host},
            )
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
                continue
            try:
                return Answer(response.status_code, await _content(response))
            finally:
                await response.aclose()
    raise AssertionError("no address")  # addresses_of gives one at least


async def _content(response: httpx.Response) -> bytes:
    content = b""
    async for chunk in response.aiter_raw(65536):
        content += chunk
        if len(content) > _LONGEST_ANSWER:
            return content[:_LONGEST_ANSWER]
    return content


async def addresses_of(host: str, port: int, target: Target) -> list[IPv4Address | IPv6Address]:
    """All that a host resolves to. Raises AwayError if one of them is not allowed."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise AwayError(Reason.PEER_UNREACHABLE, f"{host} has no address ({type(error).__name__})") from error
    addresses = list(dict.fromkeys(ip_address(str(one[4][0]).split("%")[0]) for one in found))
    for address in addresses:
        if not allowed(address, host, target.networks):
            text = f"{host} is at {address}, which is not in `networks`; nothing was sent"
            raise AwayError(Reason.ADDRESS_NOT_ALLOWED, text)
    return addresses
