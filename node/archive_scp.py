"""A small archive: a storage SCP that keeps every instance as a Part 10 file. The demo's and the tests' PACS.

Run apart: `python -m node.archive_scp FOLDER --ae-title ARCHIVE --port 11113`.
"""

import argparse
import hashlib
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any, Self

import structlog
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from node.processes import name_process

_log = structlog.get_logger(__name__)

_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
"""C-STORE status codes (DICOM PS3.4 table B.2-1)."""


class Archive:
    """Storage and Verification SCP over one folder. Any calling AE title may send; only `ae_title` is answered to."""

    def __init__(self, folder: Path, ae_title: str = "ARCHIVE", host: str = "127.0.0.1", port: int = 0) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.host = host
        self.port = port
        """TCP port; 0 becomes the one taken at `start`."""
        self._server: Any = None

    def start(self) -> Self:
        """Listen. Raises OSError if the port is taken or the folder cannot be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = True
        ae.maximum_pdu_size = 131072
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(Verification)
        handlers = [(evt.EVT_CONN_OPEN, _no_delay), (evt.EVT_C_STORE, self._keep), (evt.EVT_C_ECHO, _echo)]
        self._server = ae.start_server((self.host, self.port), block=False, evt_handlers=handlers)
        self.port = self._server.socket.getsockname()[1]
        return self

    def stop(self) -> None:
        """Close the port and end open associations."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def files(self) -> list[Path]:
        """Everything kept, sorted by name."""
        return sorted(self.folder.glob("*.dcm"))

    def _keep(self, event: evt.Event) -> int:
        """C-STORE: write the instance under the hash of its UID, whole or not at all; the newest copy wins."""
        uid = str(event.request.AffectedSOPInstanceUID)
        data = event.encoded_dataset()
        if not uid or not event.request.DataSet.getbuffer().nbytes:
            return _CANNOT_UNDERSTAND
        target = self.folder / f"{hashlib.sha256(uid.encode()).hexdigest()}.dcm"
        part = target.with_suffix(f".{threading.get_ident()}.part")
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            _log.error("archive_write_failed", error=error.strerror)
            part.unlink(missing_ok=True)
            return _OUT_OF_RESOURCES
        _log.info("archive_stored", file=target.name, bytes=len(data))
        return _SUCCESS


def _echo(_: evt.Event) -> int:
    return _SUCCESS


def _no_delay(event: evt.Event) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main(arguments: list[str] | None = None) -> None:
    """Run an archive until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="A small DICOM archive: storage SCP over a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ae-title", default="ARCHIVE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11113)
    options = parser.parse_args(arguments)
    name_process("archive")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        archive = Archive(options.folder, options.ae_title, options.host, options.port).start()
    except OSError as error:
        parser.exit(2, f"{options.host}:{options.port}, {options.folder}: {error.strerror}; choose another\n")
    _log.info("archive_listening", ae_title=archive.ae_title, host=archive.host, port=archive.port)
    ended.wait()
    archive.stop()


if __name__ == "__main__":
    main()
