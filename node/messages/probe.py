"""Whether a message destination is there, without telling it anything: for `fvlm-node doctor`."""

import asyncio
import contextlib
import smtplib
import ssl
from urllib.parse import urlsplit

from config.message_settings import Hl7Destination, MailDestination, MessageDestination
from node.messages.guarded_http import Target, addresses_of
from node.tls import peer_context


def probe(receiver: MessageDestination, timeout_s: float) -> None:
    """Resolve, connect, shake hands. Raises AwayError, OSError, smtplib.SMTPException or node.tls.TlsError."""
    if isinstance(receiver, MailDestination):
        with smtplib.SMTP(receiver.host, receiver.port, timeout=timeout_s) as smtp:
            if receiver.starttls:
                smtp.starttls(context=ssl.create_default_context(cafile=receiver.ca_file))
    elif isinstance(receiver, Hl7Destination):
        tls: ssl.SSLContext | None = None if receiver.tls is None else peer_context(receiver.tls)
        named = None if receiver.tls is None else receiver.tls.name or receiver.host
        asyncio.run(_connect(receiver.host, receiver.port, tls, named, timeout_s))
    else:
        parts = urlsplit(receiver.where)
        encrypted = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if encrypted else 80)
        (address, *_) = asyncio.run(addresses_of(host, port, Target(receiver.where, receiver.networks)))
        tls = ssl.create_default_context(cafile=receiver.ca_file) if encrypted else None
        asyncio.run(_connect(str(address), port, tls, host if encrypted else None, timeout_s))


async def _connect(host: str, port: int, tls: ssl.SSLContext | None, named: str | None, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=named)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
