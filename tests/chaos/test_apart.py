"""The node in parts: two analyze workers on PostgreSQL with Redis or RabbitMQ; series in, SR and SEG out, once."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archives import ScriptedPacs
from house import pacs, wait_for
from ledger import SUCCESS, Ledger, assert_one_result_set, doubled_or_missing, send, slices
from parts import ApartNode
from peers import Process, RabbitMQ, Redis, fvlm_node
from postgres import running_postgres

from node.node_lock import node_runs

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]


@contextmanager
def _redis() -> Iterator[Process]:
    with tempfile.TemporaryDirectory(prefix="fvlm-redis-") as folder, Redis(Path(folder) / "redis") as server:
        yield server


@contextmanager
def _rabbitmq() -> Iterator[Process]:
    if not RabbitMQ.program.exists():
        pytest.skip("no RabbitMQ: apt-get install rabbitmq-server")
    folder = Path(tempfile.mkdtemp(prefix="fvlm-rabbitmq-"))
    folder.chmod(0o755)  # the server's user must reach what is in it
    try:
        with RabbitMQ(folder / "server") as server:
            yield server
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("broker", [_redis, _rabbitmq], ids=["redis", "rabbitmq"])
def test_two_workers_read_every_series_once(tmp_path: Path, broker: object) -> None:
    archive = ScriptedPacs()
    ledger = Ledger()
    with running_postgres() as database, broker() as queue, archive:  # type: ignore[operator]
        destinations = pacs("pacs", archive.ae_title, archive.port)
        destinations["pacs"]["commitment"] = False
        settings = {"database_url": database, "broker_url": queue.url, "console": {"enabled": False}}
        with ApartNode(tmp_path / "node", destinations, **settings) as node:
            assert node_runs(node.data)
            (node.control / "hold").touch()
            for number in range(2601, 2607):
                assert set(send(node, slices(number), ledger)) == {SUCCESS}
            wait_for(lambda: len(list(node.control.glob("run-*"))) == 2, "both workers at work at once", node)
            (node.control / "hold").unlink()
            wait_for(lambda: not doubled_or_missing(archive.results(), ledger.series), "all results", node)
            ledger.assert_kept(node)
            assert_one_result_set(archive.results(), ledger.series)
            assert len(list(node.control.glob("run-*"))) == len(ledger.series), "something was read twice"
            started = Counter(entry["digest"] for entry in node.events("model_loaded"))
            assert list(started.values()) == [2]
            again = fvlm_node("serve", "--only", "analyze", "--name", "1", "--config", node.config)
            assert again.returncode == 2
            assert "already" in again.stderr
            assert "already" not in fvlm_node("status", "--config", node.config).stdout
            assert fvlm_node("health", "deliver", "--config", node.config).stdout == "healthy\n"
            node.parts["analyze2"].stop()
            told = fvlm_node("health", "analyze", "--name", "2", "--config", node.config)
            assert (told.returncode, told.stderr) == (2, "analyze: does not run on this machine\n")
        assert [part.process.returncode for part in node.parts.values() if part.process] == [0] * 5
        assert not node_runs(node.data)
