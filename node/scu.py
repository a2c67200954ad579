"""Associations that the node opens itself: every C-STORE and C-ECHO that goes out starts here.

pynetdicom 3.0 runs a thread beside each association, its reactor, which takes messages off the queue at which
`send_c_store` waits for its answer. Two races between them cost an answer, and with it the whole DIMSE time-out:

- A request goes out once `_is_paused` says that the reactor rests. A reactor that the last request has woken up, and
  that a busy machine has not yet let run, still says so; when it runs at last it takes the answer, drops it as
  unexpected, and the sender waits in vain (30 s by default).
- The reactor takes the mark that the association has ended off the queue, just before a request goes out.

A third one costs more: an N-EVENT-REPORT of the peer is served by a thread of its own, which says at its end that the
reactor runs, though it may rest; whoever waits for it to rest, a release for example, then waits for ever.

`associate` closes all three. pyproject.toml holds pynetdicom at 3.0.x because of the names used here.
"""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from config import Reason
from config.settings import PeerTls
from node.tls import peer_context

_SAID_AGAIN_S = 0.05
"""A reactor that rests says so again after this time, seconds."""


class _Checkpoint:
    """Takes the place of `Association._reactor_checkpoint`: where the reactor rests while a request is under way.

    The reactor leaves it only while it is open, however late it wakes up, and is marked as running before anybody can
    close it again.
    """

    def __init__(self, association: Any) -> None:
        self._association = association
        self._open = True
        self._changed = threading.Condition()

    def set(self) -> None:
        """Let the reactor run."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Close it. The reactor rests as soon as `_is_paused` is true."""
        with self._changed:
            self._open = False

    def wait(self) -> None:
        """The reactor waits here until it may run."""
        with self._changed:
            while not self._open:
                self._association._is_paused = True  # the thread of an N-EVENT-REPORT may have said otherwise
                self._changed.wait(_SAID_AGAIN_S)
            self._association._is_paused = False


def associate(
    ae: AE,
    host: str,
    port: int,
    called: str,
    contexts: Sequence[PresentationContext] | None = None,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[Any] = (),
    tls: PeerTls | None = None,
) -> Any:
    """Ask `called` for an association, without Nagle's algorithm (it costs up to 50 ms an image against DCMTK peers).

    `contexts`: what to propose instead of the contexts of `ae`; `roles`: other ones than SCU; `handlers`: more event
    handlers; `tls`: how to speak TLS, None: plain. Returns the `pynetdicom.Association`, established or not, as
    `AE.associate` does; if it is not, `tls_failure` may say why. Raises TlsError if the files of `tls` cannot be used.
    """
    context = None if tls is None else peer_context(tls)
    association = ae.associate(
        host,
        port,
        contexts=None if contexts is None else list(contexts),
        ae_title=called,
        ext_neg=list(roles),
        evt_handlers=[
            (evt.EVT_CONN_OPEN, _on_open),
            (evt.EVT_ABORTED, _on_end),
            (evt.EVT_RELEASED, _on_end),
            *handlers,
        ],
        tls_args=None if tls is None or context is None else (context, tls.name or host),
    )
    association.tls_context = context
    return association


def tls_failure(association: Any) -> Reason | None:
    """Why the association did not come about, if it is for TLS; None if it is for something else."""
    context = association.tls_context
    return None if context is None else context.failure


def cut(association: Any) -> None:
    """End an association whose peer is gone or stuck, now. `Association.abort` alone would wait for a thread that may
    be held up in the middle of a PDU, for as long as the peer likes.
    """
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
    association.abort()


def _on_open(event: evt.Event) -> None:
    """The connection is there; the reactor is not yet. A peer that stops in the middle of a PDU holds no thread up."""
    connection = event.assoc.dul.socket.socket
    connection.settimeout(event.assoc.network_timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    event.assoc._reactor_checkpoint = _Checkpoint(event.assoc)


def _on_end(event: evt.Event) -> None:
    """The reactor takes no more messages: who waits, or is about to wait, for an answer learns that none comes."""
    event.assoc.dimse.msg_queue.put((None, None))
