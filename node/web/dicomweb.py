"""STOW-RS at `/dicom-web/studies` (PS3.18 section 10.5): the only DICOMweb service that the node offers."""

import asyncio
from collections.abc import AsyncIterator

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from config import Settings
from ct.part10 import is_uid
from node.intake import Intake
from node.part10_stream import accepted_classes
from node.web.entry import who_asks
from node.web.multipart import MultipartError, media_type
from node.web.stow import DICOM, StowRequest
from node.web.stow_answer import chosen_type, encoded, response_module, status_of

_log = structlog.get_logger(__name__)

ANYBODY = "STOWRS"
"""Calling AE title of whoever sends where the settings name no senders."""
_PIECE = 2**20
"""Bytes that are handed to the disk at once."""
_RETRY_AFTER = {"Retry-After": "30"}


class Dicomweb:
    """The service."""

    def __init__(self, settings: Settings, intake: Intake) -> None:
        self._web, self._called = settings.web, settings.dicom.ae_title
        self._intake, self._classes = intake, accepted_classes(settings)
        self._under_way = 0

    def routes(self) -> list[Route]:
        """Of the whole application."""
        return [
            Route("/dicom-web/studies", self.store, methods=["POST"]),
            Route("/dicom-web/studies/{study}", self.store, methods=["POST"]),
        ]

    async def store(self, request: Request) -> Response:
        """Store what a request brings; raises UnauthorizedError."""
        sender = who_asks(request, self._web.senders) if self._web.senders else ANYBODY
        accepted = chosen_type(request.headers.get("accept", ""))
        if accepted is None:
            return _problem(406, "The answer is application/dicom+json or application/dicom+xml.")
        study = request.path_params.get("study", "")
        if study and not is_uid(study):
            return _problem(400, "The study of the address is no UID.")
        content_type = request.headers.get("content-type", "")
        kind = media_type(content_type)[1].get("type", DICOM).lower()
        if kind != DICOM or request.headers.get("content-encoding", "identity") != "identity":
            return _problem(415, f'Send multipart/related; type="{DICOM}", without a content encoding.')
        if self._under_way >= self._web.max_requests:
            return _problem(503, "Too many requests at once; try again.", _RETRY_AFTER)
        self._under_way += 1
        try:
            return await self._store(request, sender, content_type, study, accepted)
        finally:
            self._under_way -= 1

    async def _store(self, request: Request, sender: str, content_type: str, study: str, accepted: str) -> Response:
        # How the segment ends is not told: other requests may bring more of the same series.
        with self._intake.open(sender, self._called) as session:
            longest = self._web.max_object_mb * 2**20
            try:
                stow = StowRequest(session, self._classes, longest, content_type, study)
            except MultipartError as error:
                return _problem(415, f"The body is {error}.")
            try:
                async for piece in _pieces(request, self._web.timeout_s):
                    await run_in_threadpool(stow.write, piece)
                    if stow.broken:
                        break
                await run_in_threadpool(stow.end)
            except TimeoutError:
                stow.break_off("the sender said nothing for too long")
            except ClientDisconnect:
                stow.break_off("the sender closed the connection")
        status = status_of(stow.outcomes, bool(stow.broken))
        _log.info(
            "stow", calling_ae=sender, stored=stow.stored, refused=len(stow.outcomes) - stow.stored, status=status
        )
        headers = _RETRY_AFTER if status == 503 else None
        return Response(encoded(response_module(stow.outcomes), accepted), status, headers, accepted)


async def _pieces(request: Request, timeout_s: float) -> AsyncIterator[bytes]:
    """The body. Raises TimeoutError after silence, ClientDisconnect."""
    held = bytearray()
    stream = request.stream()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), timeout_s)
        except StopAsyncIteration:
            break
        except (TimeoutError, ClientDisconnect):
            if held:  # there may be a whole object in it
                yield bytes(held)
            raise
        held += chunk
        if len(held) >= _PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)
