"""The console's process: listens, serves, and waits while it cannot."""

import errno
import signal
import socket
import threading
from urllib.parse import quote

import structlog
import uvicorn
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from starlette.types import ASGIApp

from config import Settings
from node.console.app import make_app
from node.console.notice import Notice, console_url
from node.database import Records, open_database

_log = structlog.get_logger(__name__)

_RETRY_S = 5.0
"""Wait before the port is tried again, seconds."""
_AT_ONCE = 64
"""Connections at once; more are answered with 503."""
_ENDING_S = 2
"""Seconds that answers under way get when the process is told to end."""


def run_console(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status, 0. Runs in the main thread.

    A port that cannot be had is told once, in the log and in `fvlm-node status`, and tried again.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    writer = Records(existing_database(settings.database))
    app = make_app(Records(read_only_database(settings.database)), settings, writer)
    with Notice.of(settings.data_dir).held() as notice:
        listener = _listen(settings, ended, notice)
        if listener is None:
            return 0
        server = uvicorn.Server(server_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http")
        thread.start()
        while not ended.wait(0.2) and thread.is_alive():
            pass
        failed = not ended.is_set()
        server.should_exit = True
        thread.join()
    _log.info("console_ended")
    return int(failed)


def server_config(app: ASGIApp) -> uvicorn.Config:
    """How the console is served."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is who connects; the guard looks at the rest
        lifespan="off",
        ws="none",
        limit_concurrency=_AT_ONCE,
        timeout_graceful_shutdown=_ENDING_S,
    )


def _listen(settings: Settings, ended: threading.Event, notice: Notice) -> socket.socket | None:
    """The listening socket; None if the process was told to end before there was one."""
    host, port, told = settings.console.host, settings.console.port, ""
    while not ended.is_set():
        try:
            listener = listening_socket(host, port)
        except OSError as error:
            cause = error.strerror or type(error).__name__
            if cause != told:
                _log.error("console_cannot_listen", host=host, port=port, detail=cause)
                notice.write(f"cannot listen on {host}:{port}: {cause} → {cure(error)}; it is tried again")
                told = cause
            ended.wait(_RETRY_S)
            continue
        bound = listener.getsockname()[1]
        notice.write(console_url(host, bound))
        _log.info("console_listening", host=host, port=bound)
        return listener
    return None


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_AT_ONCE)
    except OSError:
        listener.close()
        raise
    return listener


def cure(error: OSError) -> str:
    """What to do about a port that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return "end what listens there, or set another console.port"
    return "set console.host to an address of this machine, and console.port to one that may be used"


def read_only_database(url: str) -> Engine:
    """As `existing_database`, and it cannot write."""
    return existing_database(url, read_only=True)


def existing_database(url: str, read_only: bool = False) -> Engine:
    """An engine that makes no database, and that gives up instead of hanging: 5 s to connect, 10 s for a statement."""
    made = make_url(url)
    if made.get_backend_name() == "postgresql":
        asked = {
            "connect_timeout": "5",
            "options": f"-c default_transaction_read_only={'on' if read_only else 'off'} -c statement_timeout=10000",
        }
        made = made.set(query={**asked, **made.query})
        return open_database(made.render_as_string(hide_password=False))
    # Opened for writing, as the journal (WAL) needs it, but never made: a database that is not there is away.
    made = made.set(database=f"file:{quote(made.database or '')}", query={**made.query, "mode": "rw", "uri": "true"})
    engine = open_database(made.render_as_string(hide_password=False))
    if read_only:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON").close())
    return engine
