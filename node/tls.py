"""DICOM over TLS (PS3.15 annex B.9 to B.12, BCP 195: TLS 1.2 or newer), both ways: contexts, sockets, what went wrong.

The receiver's threads use their sockets in ways that TLS does not know; `TlsSocket` makes up for that, so that nobody
else has to know whether bytes are encrypted on their way.
"""

import select
import socket
import ssl
from pathlib import Path
from typing import Any

from config import Reason
from config.settings import PeerTls, ReceiverTls

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 (RFC 9325 section 4.2); those of TLS 1.3 are all good."""
_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED."""
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL"})
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA")
"""Parts of the names of alerts about a certificate: SSLV3_ALERT_CERTIFICATE_EXPIRED, TLSV1_ALERT_UNKNOWN_CA …"""


class TlsError(Exception):
    """The files of a TLS setting cannot be used. The text is constant but for the setting and the kind of error."""


class TlsSocket(ssl.SSLSocket):
    """Obeys the calls by which `node.upper_layer` and `node.association` read and write plain sockets."""

    _limit_s: float | None = None

    def limit(self, seconds: float) -> None:
        """No call waits longer than that unless it is told so. The kernel's own limits do not reach through TLS."""
        self._limit_s = seconds
        super().settimeout(seconds)

    def settimeout(self, value: float | None) -> None:
        """None: what `limit` said."""
        super().settimeout(self._limit_s if value is None else value)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """With MSG_WAITALL as well; it may return short of that, at the end of a record."""
        return super().recv_into(buffer, nbytes, flags & ~socket.MSG_WAITALL)

    def send(self, data: Any, flags: int = 0) -> int:
        """With MSG_DONTWAIT as well."""
        if flags & socket.MSG_DONTWAIT:
            super().settimeout(0.0)
        return super().send(data, flags & ~socket.MSG_DONTWAIT)

    def shutdown(self, how: int) -> None:
        """Of the connection below. Python's own would go on without encryption."""
        socket.socket.shutdown(self, how)


class _TellingSocket(TlsSocket):
    """Of a client: keeps what went wrong with its context, where pynetdicom only says that it is not connected."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            self._keep(error)
            raise

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        try:
            return super().read(len, buffer)
        except ssl.SSLError as error:  # with TLS 1.3 a server refuses the client's certificate after the handshake
            self._keep(error)
            raise

    def _keep(self, error: ssl.SSLError) -> None:
        if isinstance(self.context, PeerContext) and not isinstance(error, ssl.SSLWantReadError):
            self.context.failure = reason_of(error)


class PeerContext(ssl.SSLContext):
    """Of one association that the node opens."""

    failure: Reason | None = None
    """Why TLS failed, if it did."""


def server_context(tls: ReceiverTls) -> ssl.SSLContext:
    """For the sockets that the receiver accepts. Raises TlsError; ValueError if TLS is not set up."""
    if tls.certificate is None:
        raise ValueError("no certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _secure(context)
    _load_own(context, tls.certificate, tls.key, "dicom.tls")
    if tls.ca is not None:
        _load_ca(context, tls.ca, "dicom.tls")
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_certificate else ssl.CERT_OPTIONAL
    context.sslsocket_class = TlsSocket
    return context


def peer_context(tls: PeerTls) -> PeerContext:
    """For one association that the node opens. Raises TlsError."""
    context = PeerContext(ssl.PROTOCOL_TLS_CLIENT)
    _secure(context)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca is not None:
        _load_ca(context, tls.ca, "tls")
    else:
        context.load_default_certs()
    if tls.certificate is not None:
        _load_own(context, tls.certificate, tls.key, "tls")
    context.sslsocket_class = _TellingSocket
    return context


def _secure(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # An end of the connection that TLS did not announce is one all the same: DICOM says itself when all is said, and
    # something can still be told to the peer.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_IGNORE_UNEXPECTED_EOF


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path | None, where: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL asks on the terminal
    except OSError as error:
        text = f"{where}: certificate and key cannot be used ({type(error).__name__}); PEM, the key without a password"
        raise TlsError(text) from error


def _load_ca(context: ssl.SSLContext, ca: Path, where: str) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise TlsError(f"{where}: ca cannot be used ({type(error).__name__}); certificates in PEM") from error


def handshake(connection: TlsSocket, timeout_s: float) -> None:
    """The server's part, whole within `timeout_s`, which then is the socket's limit. Raises OSError; of those,
    ssl.SSLError is for `reason_of`.
    """
    connection.limit(timeout_s)
    connection.do_handshake()


def reason_of(error: ssl.SSLError) -> Reason | None:
    """Why TLS failed; None if the peer just went away."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Reason.TLS_CERTIFICATE_EXPIRED if error.verify_code == _EXPIRED else Reason.TLS_CERTIFICATE_UNTRUSTED
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    name = error.reason or ""
    if name == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return Reason.TLS_CERTIFICATE_MISSING
    if name in _NO_TLS:
        return Reason.TLS_EXPECTED
    if "ALERT" in name and any(part in name for part in _CERTIFICATE_ALERTS):
        return Reason.TLS_CERTIFICATE_REFUSED
    return Reason.TLS_FAILED


def readable(connection: socket.socket, seconds: float) -> bool:
    """Whether there is something to read, within so many seconds; also what TLS has decrypted and not given out."""
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    return bool(select.select([connection], [], [], seconds)[0])
