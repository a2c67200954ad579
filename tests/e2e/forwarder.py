"""A network between two peers that a test can hold up, cut, or let through."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Forwarder:
    """Passes TCP connections on to a port of this machine; a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._change = threading.Condition()
        self._sockets: list[socket.socket] = []
        self.limit: float = float("inf")
        """Bytes of answers after which nothing more is passed on, until it is raised."""
        self.answered = 0
        """Bytes of answers that were passed on."""
        self.down = False
        threading.Thread(target=self._accept, daemon=True).start()

    def let(self, limit: float = float("inf")) -> None:
        """Pass on so much more."""
        with self._change:
            self.limit = self.answered + limit
            self._change.notify_all()

    def wait_until_held(self, seconds: float = 60) -> None:
        """Until the limit has been reached."""
        with self._change:
            assert self._change.wait_for(lambda: self.answered >= self.limit, seconds), "nothing was held up"

    def cut(self, down: bool) -> None:
        """Cut every connection; `down`: new ones are cut at once as well."""
        self.down = down
        with self._change:
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._sockets.clear()
            self._change.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.down:
                    raise OSError("the network is down")
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                if answers:
                    with self._change:
                        self.answered += len(piece)
                        self._change.notify_all()
                        self._change.wait_for(lambda: self.answered < self.limit or source not in self._sockets)
                sink.sendall(piece)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut(down=True)
