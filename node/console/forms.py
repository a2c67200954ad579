"""Forms that write: only from a page that this console has given to the user who sends them.

A page elsewhere could make somebody's browser send a form, but cannot read the token that each carries. What a form
does, and that one was refused, leaves a line in the log.
"""

import hashlib
import hmac
import secrets
from typing import Annotated
from urllib.parse import parse_qs

import structlog
from fastapi import Depends, Request
from starlette.exceptions import HTTPException

_log = structlog.get_logger(__name__)

_FIELDS = 10
"""Fields of a form at most."""


class Forms:
    """Gives tokens and checks them; each start of the console has its own."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def token(self, user: str) -> str:
        """What the forms of a user carry until the console is started again."""
        return hmac.digest(self._key, user.encode(), hashlib.sha256).hex()

    async def fields(self, request: Request, longest: int = 2000) -> dict[str, str]:
        """The fields of a form of at most `longest` bytes. Raises HTTPException for a form from elsewhere (403), and
        for one that is larger (413).
        """
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > longest:
                raise HTTPException(413)
        try:
            found = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FIELDS)
        except ValueError as error:
            raise HTTPException(400) from error
        fields = {name: values[0] for name, values in found.items()}
        foreign = request.headers.get("sec-fetch-site", "same-origin") != "same-origin"
        wanted = self.token(request.state.user)
        if foreign or not hmac.compare_digest(fields.get("token", "").encode(), wanted.encode()):
            _log.warning("form_refused", user=request.state.user)
            detail = "The form is not of this console, or from before it was started: load the page again."
            raise HTTPException(403, detail)
        return fields


def _forms(request: Request) -> Forms:
    found: Forms = request.app.state.forms
    return found


FormsOf = Annotated[Forms, Depends(_forms)]
