"""The event channel of a UPS-RS worklist: a WebSocket on which it tells what changes (PS3.18 sections 8.10.4, 11.13).

While it stands, work is taken at once and cancel requests are heard. While it does not, the worklist is polled.
"""

import base64
import json
import ssl
from collections.abc import Callable
from threading import Event
from typing import Any

import structlog
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.sync.client import ClientConnection, connect

from config.secret import SecretError, read_secret
from config.worklist_settings import WebWorklist
from ct.part10 import is_uid
from node.worklist.events import CANCEL_REQUESTED, PROGRESS_REPORT, Notice
from node.worklist.link import Fate, WorklistAwayError
from node.worklist.ups_rs import WebWorklistLink

_log = structlog.get_logger(__name__)

_LONGEST_MESSAGE = 2**20
_LOOK_S = 0.5
_LONGEST_WAIT_S = 300.0
_EVENT_TYPE, _INSTANCE = "00001002", "00001000"


class EventChannel:
    """Keeps the channel of one worklist open; run it in a thread."""

    def __init__(
        self, name: str, worklist: WebWorklist, ae_title: str, timeout_s: float, take: Callable[[Notice], None]
    ) -> None:
        """`take` is called for each event, and once when the channel has come about, from the thread of `run`."""
        self._name, self._worklist, self._ae_title, self._timeout_s, self._take = (
            name, worklist, ae_title, timeout_s, take
        )  # fmt: skip
        self._told = ""

    def run(self, ended: Event) -> None:
        """Until `ended` is set: connect, subscribe, listen; connect again, with growing waits, when it breaks."""
        wait = self._worklist.poll_s
        while not ended.is_set():
            try:
                with self._connected() as channel:
                    self._tell("")
                    wait = self._worklist.poll_s
                    self._take(Notice())
                    self._listen(channel, ended)
            except (WebSocketException, OSError, SecretError, WorklistAwayError) as error:
                self._tell(type(error).__name__)
            except Exception:  # the worklist is polled all the same
                _log.exception("unexpected_error")
            ended.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _connected(self) -> ClientConnection:
        """First subscribed, then connected (PS3.18 section 8.10.4)."""
        with WebWorklistLink(self._worklist, self._timeout_s) as link:
            reply = link.subscribe(self._ae_title)
        if reply.fate is not Fate.DONE:
            raise InvalidHandshake(f"the subscription is refused: {reply.detail}")
        url, access = self._worklist.channel(self._ae_title), self._worklist
        headers = {}
        if access.token:
            headers["Authorization"] = f"Bearer {read_secret(access.token)}"
        elif access.user:
            pair = f"{access.user}:{read_secret(access.password)}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        tls = ssl.create_default_context(cafile=access.ca_file) if url.startswith("wss:") else None
        return connect(
            url,
            ssl=tls,
            additional_headers=headers,
            open_timeout=self._timeout_s,
            close_timeout=1.0,
            max_size=_LONGEST_MESSAGE,
            compression=None,
            proxy=None,
        )

    def _listen(self, channel: ClientConnection, ended: Event) -> None:
        while not ended.is_set():
            try:
                message = channel.recv(timeout=_LOOK_S)
            except TimeoutError:
                continue
            notice = read_event(message)
            if notice is not None:
                self._take(notice)

    def _tell(self, error: str) -> None:
        """Once each time that it breaks or comes about."""
        if error and error != self._told:
            _log.warning("event_channel_away", source=self._name, error=error)
        elif not error:
            _log.info("event_channel_open", source=self._name)
        self._told = error


def read_event(message: str | bytes) -> Notice | None:
    """None: it is no event, or only progress. Everything but a cancel request means: look."""
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if isinstance(event, list) and len(event) == 1:
        event = event[0]
    if not isinstance(event, dict):
        return None
    kind, uid = _first(event, _EVENT_TYPE), _first(event, _INSTANCE)
    if str(kind) == str(CANCEL_REQUESTED):
        return Notice(cancel=uid) if isinstance(uid, str) and is_uid(uid) else None
    return None if str(kind) == str(PROGRESS_REPORT) else Notice()


def _first(event: dict[str, Any], tag: str) -> Any:
    element = event.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
