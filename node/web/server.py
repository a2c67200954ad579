"""Serves the way in over HTTP, in a thread."""

import threading
from collections.abc import Mapping
from functools import partial

import structlog
import uvicorn
from starlette.applications import Starlette

from config import Settings
from node.console.server import listening_socket, server_config
from node.database import Records
from node.intake import Intake
from node.orthanc_source.follower import Follower
from node.web.dicomweb import Dicomweb
from node.web.entry import HostCheck, UnauthorizedError, unauthorized
from node.web.orthanc_api import OrthancApi

_log = structlog.get_logger(__name__)

_ENDING_S = 10.0
"""How long requests under way get when the process is told to end, seconds."""


class WebServer:
    """Listens from the beginning; `stop` ends it."""

    def __init__(self, settings: Settings, records: Records, followers: Mapping[str, Follower]) -> None:
        """Raises OSError if the port, the spool or the certificate cannot be had."""
        web = settings.web
        intake = Intake(settings.spool_dir, settings.dicom.min_free_mb * 2**20)
        routes = [*Dicomweb(settings, intake).routes(), *OrthancApi(settings, records, followers).routes()]
        app = Starlette(routes=routes, exception_handlers={UnauthorizedError: unauthorized})
        config = server_config(HostCheck(app, web))
        config.timeout_graceful_shutdown = int(_ENDING_S)
        config.limit_concurrency = web.max_requests + 64
        if web.certificate is not None and web.key is not None:
            config.ssl_certfile, config.ssl_keyfile = web.certificate, web.key
        listener = listening_socket(web.host, web.port)
        self.port = int(listener.getsockname()[1])
        self._server = uvicorn.Server(config)
        serve = partial(self._server.run, sockets=[listener])
        self._thread = threading.Thread(target=serve, name="http", daemon=True)
        self._thread.start()
        if web.host not in ("127.0.0.1", "::1", "localhost") and web.certificate is None:
            _log.warning("web_not_encrypted", detail="set web.certificate and web.key, or put a TLS proxy before it")
        _log.info("web_listening", host=web.host, port=self.port, tls=web.certificate is not None)

    @property
    def alive(self) -> bool:
        """False: it has failed."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it; requests under way get some seconds."""
        self._server.should_exit = True
        self._thread.join()
