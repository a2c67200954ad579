"""Patient data planted in a series stays out of logs, queue and index, and is in the objects, where it belongs."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from peers import MakeSeries, Node, Redis, fvlm_node, storescu, until
from planting import PATIENT_ID, PLANTED, leaks, plant
from pydicom import dcmread

from node.archive_scp import Archive

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]


@contextmanager
def overheard(server: Redis) -> Iterator[list[str]]:
    """Every command that the broker gets."""
    client = redis.Redis(port=server.port, socket_timeout=3600)
    commands: list[str] = []
    with client.monitor() as monitor:

        def listen() -> None:
            for command in monitor.listen():
                commands.append(command["command"])
                if "the end" in command["command"]:
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield commands
        client.set("the end", 1)
        thread.join(20)
        assert not thread.is_alive()


def bodies(commands: list[str]) -> list[Any]:
    """Bodies of the Celery messages among Redis commands."""
    found = []
    for command in commands:
        if command.startswith("LPUSH"):
            message = json.loads(command[command.index("{") : command.rindex("}") + 1])
            found.append(json.loads(base64.b64decode(message["body"])))
    return found


@pytest.fixture
def planted(make_series: MakeSeries, tmp_path: Path) -> Path:
    folder = make_series(folder=tmp_path / "ct")
    plant(folder)
    return folder


def test_no_patient_data_in_logs_queue_or_database(tmp_path: Path, redis_server: Redis, planted: Path) -> None:
    archive = Archive(tmp_path / "archive").start()
    destination = {"archive": {"ae_title": archive.ae_title, "host": "127.0.0.1", "port": archive.port}}
    try:
        with (
            overheard(redis_server) as commands,
            Node(tmp_path / "node", destination, broker_url=redis_server.url) as node,
        ):
            storescu(planted, node.port, "FVLM")
            until(lambda: len(archive.files()) == 4, 400, "the results in the archive", node.log)
            shown = fvlm_node("status", "--config", node.config)
            assert node.stop() == 0
    finally:
        archive.stop()

    assert {dcmread(path).PatientID for path in archive.files()} == {PATIENT_ID}
    payloads = bodies(commands)
    assert [payload[0] for payload in payloads if payload[0]], "no task was overheard"
    assert all(isinstance(argument, int) for payload in payloads for argument in payload[0])
    assert [command for command in commands for word in PLANTED if word.decode() in command] == []
    assert leaks(tmp_path / "node", ("*.log", "*.sqlite*", "*.yaml", "*.json")) == []
    assert [word for word in PLANTED if word.decode() in shown.stdout + shown.stderr] == []
    assert "SENT" in shown.stdout
