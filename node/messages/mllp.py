"""HL7 messages over MLLP: one connection a message, and what its acknowledgement means (HL7 2.5.1 section 2.9).

AA: taken. AE: there is an error in the message, a repetition does not mend it, unless the error code says that the
receiver is to blame. AR: the receiver takes nothing now, or nothing of this kind: its breaker opens, all of it waits.
"""

import asyncio
import ssl
from asyncio import IncompleteReadError

import hl7
from hl7.mllp import InvalidBlockError, open_hl7_connection

from config import Reason
from config.message_settings import Hl7Destination
from node.dimse_link import AwayError
from node.messages.content import Content
from node.messages.hl7_message import CONTROL_ID, compose
from node.messages.rows import Kind
from node.outbox import Fate, Outcome
from node.tls import TlsError, peer_context, reason_of

_LONGEST_ANSWER = 65536
_TRANSIENT = {"206", "207"}
"""ERR-3 (table 0357): the record is locked, an internal error of the application."""
_ERROR = "it did not answer with a whole acknowledgement"


def send(receiver: Hl7Destination, message_id: str, kind: Kind, content: Content, timeout_s: float) -> Outcome:
    """One message and its acknowledgement. Raises AwayError."""
    message = compose(receiver, message_id, kind, content)
    try:
        answer = asyncio.run(_exchange(receiver, message.encode("utf-8"), timeout_s))
    except TimeoutError as error:
        raise AwayError(Reason.PEER_UNREACHABLE, f"{receiver.where} did not acknowledge in time") from error
    except ssl.SSLError as error:
        reason = reason_of(error) or Reason.PEER_UNREACHABLE
        raise AwayError(reason, f"{receiver.where}: no TLS connection ({reason})") from error
    except (IncompleteReadError, InvalidBlockError, ValueError) as error:
        raise AwayError(Reason.PROTOCOL_ERROR, f"{receiver.where}: {_ERROR} ({type(error).__name__})") from error
    except OSError as error:
        text = f"{receiver.where} does not answer ({type(error).__name__})"
        raise AwayError(Reason.PEER_UNREACHABLE, text) from error
    except TlsError as error:
        raise AwayError(Reason.INTERNAL, str(error)) from error
    return judge(answer, message_id[:CONTROL_ID])


def judge(answer: bytes, control_id: str) -> Outcome:
    """What an acknowledgement says of the message of that control ID. Raises AwayError if it is none."""
    try:
        segments = hl7.parse(answer.decode("utf-8", "replace"))
        header = segments.segment("MSA")
        code, of = str(header(1)), str(header(2))
        errors = [str(one(3)) for one in segments if str(one(0)) == "ERR" and len(one) > 3]
    except (hl7.HL7Exception, KeyError, IndexError, ValueError) as error:
        raise AwayError(Reason.PROTOCOL_ERROR, f"{_ERROR} ({type(error).__name__})") from error
    if of != control_id:
        raise AwayError(Reason.PROTOCOL_ERROR, "it acknowledged another message")
    numbers = [number for one in errors if (number := one.split("^")[0]).isdecimal() and len(number) == 3]
    text = f"HL7 acknowledgement {code}" + (f", error {', '.join(numbers)}" if numbers else "")
    if code in ("AA", "CA"):
        return Outcome(Fate.STORED)
    if code in ("AE", "CE"):
        fate = Fate.RETRY if set(numbers) & _TRANSIENT else Fate.REFUSED
        return Outcome(fate, Reason.PEER_REFUSED, text)
    if code in ("AR", "CR"):
        return Outcome(Fate.AWAY, Reason.PEER_REFUSED, text)
    raise AwayError(Reason.PROTOCOL_ERROR, f"{_ERROR} (MSA-1)")


async def _exchange(receiver: Hl7Destination, message: bytes, timeout_s: float) -> bytes:
    """Raises TimeoutError, OSError, ssl.SSLError, TlsError, IncompleteReadError, InvalidBlockError, ValueError."""
    tls = None if receiver.tls is None else peer_context(receiver.tls)
    named = None if receiver.tls is None else receiver.tls.name or receiver.host
    async with asyncio.timeout(timeout_s):
        reader, writer = await open_hl7_connection(
            receiver.host, receiver.port, limit=_LONGEST_ANSWER, ssl=tls, server_hostname=named
        )
        try:
            writer.writeblock(message)
            await writer.drain()
            answer: bytes = await reader.readblock()
        finally:
            writer.close()
    return answer
