"""A client of the console: its bytes go through the server's own HTTP parser into the application, in this process."""

import asyncio
import re
from pathlib import Path
from typing import Any, cast

from console_bench import HERE, ConsoleBench, console_settings
from rows import add_job, add_results
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from node.console.server import server_config
from node.indexer import Indexer
from node.intake import Intake
from node.states import State

_LONGEST_S = 60.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Wire(asyncio.Transport):
    """Keeps what the server writes."""

    def __init__(self) -> None:
        super().__init__({"peername": HERE, "sockname": ("127.0.0.1", 8112)})
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class WebPeer:
    """The console on a database with series, jobs and deliveries in it, and with what could not be read."""

    def __init__(self, folder: Path, files: list[tuple[str, str, str, bytes]]) -> None:
        """`files`: SOP class, instance, transfer syntax and data set of what has come in."""
        bench = ConsoleBench(console_settings(folder, ("pacs", 104), open_probes=False))
        with Intake(bench.settings.spool_dir, 0).open("STORESCU", "FVLM") as session:
            for file in files:
                session.store(*file)
        Indexer(bench.records, bench.settings.spool_dir, poll_s=0.0).catch_up()
        for number, state in enumerate((State.QUEUED, State.ENCODED, State.FAILED)):
            add_results(bench.records, bench.settings, add_job(bench.records, f"2.25.{number}", state))
        self._loop = asyncio.new_event_loop()
        self._config = server_config(bench.app)
        self._config.load()

    def close(self) -> None:
        self._loop.close()

    def send(self, data: bytes) -> bytes:
        """Everything that the server answers until it is done or the client, having sent all this, is gone."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(data), _LONGEST_S))

    async def _send(self, data: bytes) -> bytes:
        state, wire = ServerState(), Wire()
        protocol = H11Protocol(self._config, state, {}, self._loop)
        protocol.connection_made(wire)
        protocol.data_received(data)
        while state.tasks and not _waits_for_more(protocol):
            await asyncio.wait(state.tasks)
        protocol.connection_lost(None)
        if state.tasks:
            await asyncio.wait(state.tasks)
        return bytes(wire.written)


def _waits_for_more(protocol: H11Protocol) -> bool:
    """The body of the present request has not come to its end."""
    cycle = cast(Any, protocol.cycle)
    return bool(cycle is not None and cycle.more_body and not cycle.response_complete)


def statuses(answer: bytes) -> list[int]:
    """Of the responses in it."""
    return [int(found) for found in _STATUS.findall(answer)]


def broken(answer: bytes) -> bool:
    """An error inside the console, a response without the headers that browsers obey, or a script of the client's."""
    guarded = answer.count(b"content-security-policy: ") + answer.count(b"Invalid HTTP request received.")
    codes = statuses(answer)
    return 500 in codes or guarded < sum(code >= 200 for code in codes) or b"<script>alert" in answer
