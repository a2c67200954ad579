"""One association: the request is answered, then each C-STORE goes from the socket into the spool and is answered.

One thread reads, writes and waits; nothing is queued. A data set is never held whole: what the buffer cannot hold is
written before more is read.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from config import Reason
from config.settings import DicomSettings
from node import dimse
from node.announced_request import REQUESTS, Announcing
from node.commitment import STORAGE_COMMITMENT
from node.commitment_action import Action, Report
from node.commitment_event import Event
from node.dimse import BadCommandError, Command, encode_response, parse_command
from node.handover import Caller
from node.intake import DATA_SET_MISMATCH, Incoming, Intake, IntakeSession, Refused
from node.negotiation import NOT_STORED, VERIFICATION, Accepted, Negotiator, Rejected
from node.spool import Ending
from node.tls import TlsSocket, handshake, reason_of
from node.upper_layer import (
    ABORT,
    COMMAND,
    LAST,
    P_DATA,
    RELEASE_RQ,
    Abort,
    PduStream,
    PeerGoneError,
    ProtocolError,
    abort,
    fragments,
    linger,
    p_data,
    prepare,
    read_request,
    release_reply,
)

_log = structlog.get_logger(__name__)

_LONGEST_COMMAND = 65536
"""Bytes of a command set; real ones have less than 300."""
LONGEST_MESSAGE = 2**32
"""Bytes of a command and its data set."""
_SLOWEST = 4096
"""Bytes a second that a message must come with, beyond its first `network_timeout_s`."""
_MOST_PIECES = 512
"""Fragments that wait to be written; many small ones are written earlier."""
_LONGEST_LINGER_S = 5.0
"""Longest wait for the peer to close after the last word, seconds."""
_REJECTION_S = 0.1
"""Wait before a rejection, seconds. It slows down who tries out titles, and a pynetdicom that is rejected faster than
its own threads start takes the rejection for an abort."""


@dataclass
class _Message:
    """A request whose data set comes."""

    command: Command
    context_id: int
    incoming: Incoming | None
    """None: the data set is thrown away."""
    action: Action | None = None
    event: Event | None = None
    announcing: Announcing | None = None
    status: int | None = dimse.SUCCESS
    """The answer if nobody takes the data set; None: none is due."""


class Association:
    """One accepted socket. `run` in a thread of its own; `end` from any thread."""

    def __init__(
        self,
        connection: socket.socket,
        full: bool,
        settings: DicomSettings,
        negotiator: Negotiator,
        intake: Intake,
        on_rejected: Callable[[Caller], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`full`: there is no place, the request is to be rejected. `on_rejected` hears who was. `tls`: the peer is to
        speak TLS.
        """
        self._tls = tls
        self._connection, self._full, self._settings = connection, full, settings
        self._negotiator, self._intake, self._on_rejected = negotiator, intake, on_rejected
        self._timeout_s = settings.network_timeout_s
        self._ending = threading.Event()
        self._host = _host(connection)
        self._calling_ae = ""
        self._contexts = Accepted(b"", "", {}, 0)
        self._command = bytearray()
        self._command_context = 0
        self._message: _Message | None = None
        self._pieces: list[memoryview] = []
        """Of the data set: received and not yet written."""
        self._began = 0.0
        """When the message began to come; 0 between messages."""
        self._size = 0
        """Bytes of the message so far."""
        self._to_report: Report | None = None
        """Storage commitment that was asked for a moment ago."""
        self._reported: Report | None = None
        """Storage commitment that was reported and is to be confirmed."""

    def run(self, released: Callable[[], None]) -> None:
        """Serve the peer until it releases, aborts, goes away, breaks the protocol or is too slow. Closes the socket.

        `released` is called once the association has ended and before the peer can know it, so that its place is free
        when it comes again.
        """
        try:
            prepare(self._connection, self._timeout_s)
            if self._tls is not None and not self._secure(self._tls):
                return
            accepted = self._establish()
            if accepted is not None:
                self._contexts = accepted
                session = self._intake.open(self._calling_ae, self._settings.ae_title)
                ending = Ending.BROKEN_OFF
                try:
                    self._serve(session)
                    ending = Ending.RELEASED
                finally:
                    session.close(ending)
                released()
                self._connection.sendall(release_reply())
                linger(self._connection, self._linger_s)
        except ProtocolError as error:
            self._abort(error.reason, Reason.PROTOCOL_ERROR, error.detail, released)
        except (TimeoutError, BlockingIOError):
            self._abort(Abort.NOT_SPECIFIED, Reason.PEER_SILENT, "nothing, or too little, came in time", released)
        except OSError as error:
            if self._ending.is_set():
                self._abort(None, None, "the node ends", released)
            elif self._calling_ae:  # else somebody looked whether the port is open
                _log.warning(
                    "association_lost", host=self._host, calling_ae=self._calling_ae, error=type(error).__name__
                )
        finally:
            self._connection.close()

    def end(self) -> None:
        """Abort the association as soon as its thread can."""
        self._ending.set()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)

    def _secure(self, tls: ssl.SSLContext) -> bool:
        """The TLS handshake; False if it fails."""
        secured = tls.wrap_socket(self._connection, server_side=True, do_handshake_on_connect=False)
        assert isinstance(secured, TlsSocket), "node.tls makes the contexts"
        self._connection = secured
        if self._ending.is_set():  # `end` may have met the socket while it was wrapped
            raise PeerGoneError
        try:
            handshake(secured, self._timeout_s)
        except ssl.SSLError as error:
            reason = reason_of(error)
            if reason is not None:
                _log.warning("association_rejected", reason=reason, host=self._host)
                self._on_rejected(Caller.of("", "", self._host, reason))
            self._connection = socket.socket(fileno=secured.detach())
            linger(self._connection, self._linger_s)  # the peer is to read the alert
            return False
        return True

    def _establish(self) -> Accepted | None:
        """Answer the association request; None if it is rejected."""
        answer = self._negotiator.answer(read_request(self._connection, self._timeout_s), self._full)
        self._calling_ae = answer.calling_ae
        if isinstance(answer, Rejected):
            time.sleep(_REJECTION_S)
        self._connection.sendall(answer.answer)
        if isinstance(answer, Rejected):
            _log.warning(
                "association_rejected",
                reason=answer.reason,
                host=self._host,
                calling_ae=answer.calling_ae,
                called_ae=answer.called_ae,
            )
            self._on_rejected(Caller.of(answer.calling_ae, answer.called_ae, self._host, answer.reason))
            linger(self._connection, self._linger_s)
            return None
        _log.info("association_accepted", calling_ae=answer.calling_ae, host=self._host)
        return answer

    def _serve(self, session: IntakeSession) -> None:
        """Take messages until the peer asks for release. Raises ProtocolError, OSError: it ended otherwise."""
        stream = PduStream(self._connection, self._timeout_s)
        while True:
            kind, body = stream.read(self._write_out)
            if self._ending.is_set() or kind == ABORT:
                raise PeerGoneError
            if kind == RELEASE_RQ:
                return
            if kind != P_DATA:
                raise ProtocolError(Abort.UNEXPECTED_PDU, "a PDU that has no place in an association")
            self._keep_pace(len(body))
            for context_id, control, content in fragments(body):
                self._fragment(session, context_id, control, content)
            if not self._pieces:
                stream.rewind()
            if self._to_report is not None:
                self._report_at_once(self._to_report, stream)

    def _keep_pace(self, size: int) -> None:
        """A message must not be endless, neither in bytes nor in time: single PDUs may be timely and tiny."""
        now = time.monotonic()
        if not self._began:
            self._began, self._size = now, 0
        self._size += size
        if self._size > LONGEST_MESSAGE:
            raise ProtocolError(Abort.NOT_SPECIFIED, "the message is too long")
        if now - self._began > self._timeout_s + self._size / _SLOWEST:
            raise TimeoutError

    def _fragment(self, session: IntakeSession, context_id: int, control: int, content: memoryview) -> None:
        if control & COMMAND:
            if self._message is not None:
                raise ProtocolError(Abort.UNEXPECTED_PDU, "a command where the data set was to go on")
            if context_id not in self._contexts.contexts:
                raise ProtocolError(Abort.INVALID_PARAMETER, "a presentation context that was not accepted")
            if self._command and context_id != self._command_context:
                raise ProtocolError(Abort.INVALID_PARAMETER, "a command in two presentation contexts")
            self._command_context = context_id
            self._command += content
            if len(self._command) > _LONGEST_COMMAND:
                raise ProtocolError(Abort.INVALID_PARAMETER, "the command set is too long")
            if control & LAST:
                self._begin(session)
            return
        if self._message is None:
            raise ProtocolError(Abort.UNEXPECTED_PDU, "a data set without a command")
        message = self._message
        if context_id != message.context_id:
            raise ProtocolError(Abort.INVALID_PARAMETER, "the data set is in another presentation context")
        if (small := message.action or message.event or message.announcing) is not None:
            small.write(content)
        elif message.incoming is not None and content:
            self._pieces.append(content)
        if control & LAST:
            self._finish(message)
        elif len(self._pieces) >= _MOST_PIECES:
            self._write_out()

    def _begin(self, session: IntakeSession) -> None:
        """The command is whole."""
        encoded, self._command = self._command, bytearray()
        try:
            command = parse_command(encoded)
        except BadCommandError as error:
            raise ProtocolError(Abort.INVALID_PARAMETER, "the command set cannot be understood") from error
        self._message = _Message(command, self._command_context, None)
        if command.field & dimse.RESPONSE:
            self._confirm(command)
            self._message.status = None
        else:
            self._request(session, self._message)
        if not command.has_data_set:
            self._finish(self._message)

    def _request(self, session: IntakeSession, message: _Message) -> None:
        """Who takes the request, or how it is answered."""
        command, context = message.command, self._contexts.contexts[self._command_context]
        abstract_syntax = context.abstract_syntax
        if command.field == dimse.C_STORE_RQ and abstract_syntax not in NOT_STORED:
            message.incoming = self._incoming(session, command)
        elif command.field == dimse.C_ECHO_RQ and abstract_syntax == VERIFICATION:
            message.status = dimse.SUCCESS
        elif command.field == dimse.N_ACTION_RQ and abstract_syntax == STORAGE_COMMITMENT:
            message.action = Action(command, context.transfer_syntax)
        elif command.field == dimse.N_EVENT_REPORT_RQ and abstract_syntax == STORAGE_COMMITMENT:
            message.event = Event(command, context.transfer_syntax)
        elif (command.field, abstract_syntax) in REQUESTS:
            message.announcing = Announcing(command, abstract_syntax, context.transfer_syntax)
        elif command.field in (dimse.C_STORE_RQ, dimse.C_ECHO_RQ):
            message.status = dimse.CLASS_NOT_SUPPORTED
        else:
            message.status = None if command.field == dimse.C_CANCEL_RQ else dimse.UNRECOGNIZED_OPERATION

    def _confirm(self, command: Command) -> None:
        """The response to a report of storage commitment."""
        if self._reported is None or command.field != dimse.N_EVENT_REPORT_RQ | dimse.RESPONSE:
            raise ProtocolError(Abort.UNEXPECTED_PDU, "a response to no request")
        self._reported.confirmed(command.status)
        self._reported = None

    def _incoming(self, session: IntakeSession, command: Command) -> Incoming:
        context = self._contexts.contexts[self._command_context]
        sop_class, instance = (uid.decode("ascii", "replace") for uid in (command.sop_class, command.sop_instance))
        incoming = session.begin(sop_class, instance, context.transfer_syntax)
        if incoming.refused is None and sop_class.rstrip("\0 ") != context.abstract_syntax:
            comment = "SOP class is not the one of the presentation context"
            incoming.refuse(DATA_SET_MISMATCH, Reason.PROTOCOL_ERROR, comment)
        return incoming

    def _write_out(self) -> None:
        """Bring what has come of the data set to the file, so that its place in the buffer is free."""
        if self._message is not None and self._message.incoming is not None and self._pieces:
            self._message.incoming.write(*self._pieces)
        self._pieces.clear()

    def _finish(self, message: _Message) -> None:
        """The message is whole: answer it."""
        command, status, comment, error_id = message.command, message.status, "", None
        if message.incoming is not None:
            answer = message.incoming.finish(*self._pieces)
            status, comment = (answer.status, answer.comment) if isinstance(answer, Refused) else (dimse.SUCCESS, "")
        elif message.action is not None:
            titles = (self._calling_ae, self._settings.ae_title)
            status, comment, asked = message.action.finish(self._intake.spool_dir, self._intake.min_free_bytes, titles)
            if asked is not None:
                syntax = self._contexts.contexts[message.context_id].transfer_syntax
                self._to_report = Report(asked, message.context_id, syntax, self._intake.spool_dir)
        elif message.event is not None:
            intake = self._intake
            status, comment = message.event.finish(intake.spool_dir, intake.min_free_bytes, self._calling_ae)
        elif message.announcing is not None:
            intake = self._intake
            told = message.announcing.finish(intake.spool_dir, intake.min_free_bytes, self._calling_ae)
            command, status, comment, error_id = told.command, told.status, told.comment, told.error_id
            if told.ended:
                intake.on_stored("")  # there is something to index
        self._message, self._began = None, 0.0
        self._pieces.clear()
        if status is not None:
            response = encode_response(command, status, comment, error_id)
            self._connection.sendall(p_data(message.context_id, response, self._contexts.longest_pdu))

    def _report_at_once(self, report: Report, stream: PduStream) -> None:
        """Tell the sender on this association what it asked, if it waits for it and the index is quick."""
        self._to_report = None
        self._intake.on_stored("")  # there is something to index
        if self._message is None and not self._command and stream.idle and self._reported is None:
            told = report.wait(self._connection, self._ending.is_set)
            if told is not None:
                command, data_set = told
                longest = self._contexts.longest_pdu
                self._reported = report
                self._connection.sendall(
                    p_data(report.context_id, command, longest) + p_data(report.context_id, data_set, longest, kind=0)
                )

    def _abort(self, code: Abort | None, reason: Reason | None, detail: str, released: Callable[[], None]) -> None:
        _log.warning("association_aborted", reason=reason, host=self._host, calling_ae=self._calling_ae, detail=detail)
        released()
        with suppress(OSError):
            self._connection.send(abort(code), socket.MSG_DONTWAIT)
        linger(self._connection, self._linger_s)

    @property
    def _linger_s(self) -> float:
        return min(_LONGEST_LINGER_S, self._timeout_s)


def _host(connection: socket.socket) -> str:
    try:
        return str(connection.getpeername()[0])
    except OSError:  # it is gone already
        return ""
