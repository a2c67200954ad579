"""Before every answer: under which name the console was called, who asks, and the headers that browsers obey."""

import ipaddress
import re
from collections.abc import Collection

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.settings import ConsoleSettings
from node.console.access import WINDOW_S, Gate, Verdict, credentials

_log = structlog.get_logger(__name__)

PROBES = ("/healthz", "/readyz", "/metrics")
"""What monitoring asks; without password from this machine."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class Guard:
    """ASGI middleware around the whole console."""

    def __init__(self, app: ASGIApp, settings: ConsoleSettings, gate: Gate) -> None:
        self._app, self._settings, self._gate = app, settings, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there is no websocket here, and the server's lifespan is off
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = await self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        names = {self._settings.host, *self._settings.allowed_hosts}
        if not knows_host(headers.getlist("host"), names):
            return PlainTextResponse("Unknown host name: add it to console.allowed_hosts.\n", 421)
        address = scope["client"][0] if scope["client"] else ""
        if scope["path"] in PROBES and (self._settings.open_probes or _is_here(address, headers)):
            return None
        verdict = await run_in_threadpool(self._gate.judge, headers.get("authorization", ""), address)
        if verdict is Verdict.GRANTED:
            scope.setdefault("state", {})["user"] = credentials(headers.get("authorization", ""))[0]
            return None
        if verdict is Verdict.NO_PASSWORD_SET:
            return PlainTextResponse("No password is set. Set one: fvlm-node console password\n", 503)
        if verdict is Verdict.TOO_MANY:
            _log.warning("console_password_guessed", host=address)
            wait = {"Retry-After": str(int(WINDOW_S))}
            return PlainTextResponse("Too many wrong passwords; try again in a minute.\n", 429, wait)
        ask = {"WWW-Authenticate": 'Basic realm="fVLM Node", charset="UTF-8"'}
        return PlainTextResponse("A password is needed. A new one: fvlm-node console password\n", 401, ask)


def knows_host(hosts: list[str], names: Collection[str]) -> bool:
    """One Host header, with one of the names, localhost, or an address (no name can be rebound to that)."""
    found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if found is None:
        return False
    name = (found["v6"] or found["name"]).lower()
    return name == "localhost" or name in {known.lower() for known in names} or _address(name) is not None


def _is_here(address: str, headers: Headers) -> bool:
    """True for a client on this machine that speaks for itself (a proxy speaks for others)."""
    client = _address(address)
    return client is not None and client.is_loopback and not any(name in headers for name in _PROXIED)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
