"""Before every answer: under which name the node was called, and whose token is shown."""

import hmac
from collections.abc import Mapping

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from config.inlet_settings import WebSettings
from config.secret import SecretError, read_secret
from node.console.guard import knows_host

_log = structlog.get_logger(__name__)


class UnauthorizedError(Exception):
    """The caller shows no token, or none that is known."""


class HostCheck:
    """ASGI middleware: a name that the settings do not know is refused (DNS rebinding)."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        names = {self._settings.host, *self._settings.allowed_hosts}
        if knows_host(Request(scope).headers.getlist("host"), names):
            await self._app(scope, receive, send)
        else:
            refusal = JSONResponse({"error": "Unknown host name: add it to web.allowed_hosts."}, 421)
            await refusal(scope, receive, send)


def who_asks(request: Request, tokens: Mapping[str, str]) -> str:
    """Whose bearer token the request shows. `tokens`: name -> where the token is read from.

    Raises UnauthorizedError.
    """
    kind, _, shown = request.headers.get("authorization", "").partition(" ")
    found = ""
    for name, source in tokens.items():
        try:
            right = hmac.compare_digest(read_secret(source).encode(), shown.strip().encode())
        except SecretError as error:
            _log.error("token_unreadable", source=name, detail=str(error))
            continue
        if right and kind.lower() == "bearer":
            found = name
    if not found:
        host = request.client.host if request.client else ""
        _log.warning("web_token_refused", host=host)
        raise UnauthorizedError
    return found


def unauthorized(_: Request, __: Exception) -> Response:
    """The answer to whoever shows no token that is known."""
    told = {"error": "A bearer token of the node's settings is needed."}
    return JSONResponse(told, 401, {"WWW-Authenticate": 'Bearer realm="fVLM Node"'})
