"""OHIF as a hospital would serve it: its files and the archive's DICOMweb under one origin."""

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from typing import Self

_SETTINGS = """window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true, showWarningMessageForCrossOrigin: false,
  defaultDataSourceName: 'archive', investigationalUseDialog: { option: 'never' },
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'archive',
    configuration: {
      friendlyName: 'archive', name: 'archive', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsWildcard: true, omitQuotationForMultipartRequest: true,
      bulkDataURI: { enabled: true },
    },
  }],
};
"""
_HEADERS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""The viewer's workers share memory with its page; browsers allow it only so."""


class OhifSite:
    """A context manager; `url` is where the viewer is."""

    def __init__(self, viewer: Path, archive: str) -> None:
        """`viewer`: folder of the built application; `archive`: URL of the server that has `/dicom-web`."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path.startswith("/dicom-web/"):
                    self._answer(*_ask(archive + self.path, self.headers.get("Accept", "*/*")))
                elif path == "/app-config.js":
                    self._answer(200, "text/javascript", _SETTINGS.encode())
                else:
                    file = (viewer / path.lstrip("/")).resolve()
                    if not (file.is_file() and file.is_relative_to(viewer.resolve())):
                        file = viewer / "index.html"  # the application's own routes
                    self._answer(200, _kind(file), file.read_bytes())

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _ask(url: str, accept: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"] or "application/octet-stream", answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"] or "text/plain", error.read()


def _kind(file: Path) -> str:
    return "application/wasm" if file.suffix == ".wasm" else guess_type(file.name)[0] or "application/octet-stream"
