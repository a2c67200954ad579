"""The fault table, what goes wrong around the node: rows 5, 6, 16, 18 and 19."""

import base64
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from archives import OrthancView
from fast_worker import FAKETIME
from house import ChaosNode, pacs, wait_for
from ledger import SUCCESS, Ledger, send, slices
from peers import Orthanc, Postgres, Redis
from postgres import postgres_server
from rooms import Room, room
from sqlalchemy import select

from node.records import Job, Series
from node.release import BUNDLED

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
_DAY_S = 86400


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("broker") / "redis") as server:
        yield server


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, broker: Redis) -> Iterator[Room]:
    """A node on a PostgreSQL and a Redis of its own."""
    folder = tmp_path_factory.mktemp("outages")
    with room(folder, database_url=postgres.url, broker_url=broker.url) as made:
        yield made


@pytest.fixture
def here(apart: Room) -> Room:
    return Room(apart.node, apart.archive)


def test_row_05_broker_flushed(here: Room, broker: Redis) -> None:
    hold = here.node.control / "hold"
    hold.touch()
    for number in (511, 512, 513):
        send(here.node, slices(number), here.ledger)
    uids = list(here.ledger.series)
    client = redis.Redis.from_url(broker.url)
    wait_for(lambda: client.llen("analyze"), "messages in the broker", here.node)
    wait_for(lambda: all(here.node.states(uid)[-1][0] in ("QUEUED", "RUNNING") for uid in uids), "jobs", here.node)
    client.flushall()
    hold.unlink()
    here.settle()


def test_row_05_broker_restarted(here: Room, broker: Redis) -> None:
    broker.stop(signal.SIGKILL)
    send(here.node, slices(521), here.ledger)
    wait_for(lambda: here.node.events("broker_away"), "the log to tell that the broker is away", here.node)
    broker.start()
    here.settle()
    assert here.node.events("broker_back")


def test_row_06_database_restarted(here: Room, postgres: Postgres) -> None:
    send(here.node, slices(601), here.ledger)
    postgres.stop(signal.SIGINT)
    for number in (602, 603):
        assert send(here.node, slices(number), here.ledger) == [SUCCESS] * 4, "ingest needs the database"
    assert here.ledger.missing(here.node.stored()) == set()
    assert "cannot be reached" in here.node.status()
    wait_for(lambda: here.node.events("database_away"), "the log to tell that the database is away", here.node)
    assert send(here.node, slices(604), here.ledger) == [SUCCESS] * 4
    postgres.start()
    here.settle()
    assert here.node.events("database_back")


_OLD_MESSAGE = {
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {
        "lang": "py", "task": "node.analyze", "id": "62d25de3-096b-4f11-9384-bb56bc446ce0", "shadow": None, "eta": None,
        "expires": None, "group": None, "group_index": None, "retries": 0, "timelimit": [None, None],
        "root_id": "62d25de3-096b-4f11-9384-bb56bc446ce0", "parent_id": None, "argsrepr": "[17]", "kwargsrepr": "{}",
        "origin": "gen23753@vm", "ignore_result": None, "replaced_task_nesting": 0, "stamped_headers": None,
        "stamps": {},
    },
    "properties": {
        "correlation_id": "62d25de3-096b-4f11-9384-bb56bc446ce0", "reply_to": "1151cba0-f1a0-3333-b33e-5b846de15375",
        "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "analyze"}, "priority": 0,
        "body_encoding": "base64", "delivery_tag": "5ca78d5b-f9c7-4873-9896-233af806a2ba",
    },
}  # fmt: skip
"""What version 0.1.0 puts on the queue, but for its body."""


def _message(arguments: list[object], task: str = "node.analyze") -> str:
    body = json.dumps([arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers = _OLD_MESSAGE["headers"] | {"task": task}
    return json.dumps(_OLD_MESSAGE | {"body": base64.b64encode(body.encode()).decode(), "headers": headers})


def test_row_19_upgrade_with_tasks_in_flight(here: Room, broker: Redis) -> None:
    """The node ends with a job under way and starts again; what an older or a newer version left is on the queue."""
    node, client = here.node, redis.Redis.from_url(broker.url)
    (node.control / "hold").touch()
    before = len(list(node.control.glob("run-*")))
    send(node, slices(1901), here.ledger)
    wait_for(lambda: len(list(node.control.glob("run-*"))) > before, "a job under way", node)
    assert node.process is not None
    node.process.kill()  # as an upgrade that could not wait
    node.process.wait()
    (node.control / "hold").unlink()
    records = node.records()
    with records.reading() as session:
        job = session.scalar(select(Job.id).join(Series).where(Series.series_instance_uid.in_(here.ledger.series)))
    records.engine.dispose()
    client.delete("analyze", "unacked", "unacked_index")
    client.lpush("analyze", _message([job]), _message([job, {"since": "version 9"}]), _message([], "node.renamed"))
    node.start()
    node.wait_until_ready()
    here.settle()
    send(node, slices(1902), here.ledger)
    here.settle()
    wait_for(lambda: client.llen("analyze") == 0, "the queue to be read to its end", node)
    assert len(node.events("model_loaded")) >= 2, "the worker is the one from before the upgrade"
    assert not node.events("process_died", role="analyze"), "a message took the worker down"


@pytest.mark.skipif(not FAKETIME.exists(), reason="apt-get install libfaketime")
def test_row_16_clock_jump(tmp_path: Path) -> None:
    """A day forward, back, and back again, while a series is half sent and while one waits for its quiet time.

    The half series must not be closed early, the whole one must not wait for a day.
    """
    clock = tmp_path / "clock"
    clock.write_text("+0")
    # The worker keeps the machine's clock: its leases have to outlast the difference.
    environment = {
        "CHAOS_CLOCK": str(clock),
        "FVLM_COMPLETION__QUIET_S": "3", "FVLM_WORK__LEASE_S": str(3 * _DAY_S),
    }  # fmt: skip
    with room(tmp_path, environment=environment) as made:
        here = Room(made.node, made.archive)
        for turn, jump in enumerate((_DAY_S, 0, -_DAY_S), 1):
            whole, half = slices(1600 + 2 * turn), slices(1601 + 2 * turn, 6)
            send(here.node, [*whole, *half[:2]], here.ledger)
            _wait_for_index(here)
            clock.write_text(f"{jump:+d}")
            wait_for(lambda turn=turn: len(here.node.events("clock_jumped")) >= turn, "the jump in the log", here.node)
            send(here.node, half[2:], here.ledger)
            here.settle()
            assert len(here.node.states(str(half[0].SeriesInstanceUID))) == 1, f"{jump:+d} s: closed early"


def test_row_18_damaged_model(tmp_path: Path) -> None:
    """The real worker with the real loader: it refuses weights that are not those of the release, and says so."""
    release = tmp_path / "release"
    shutil.copytree(BUNDLED, release)
    weights = release / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with Orthanc(tmp_path / "orthanc") as orthanc:
        node = ChaosNode(
            tmp_path / "node",
            pacs("pacs", orthanc.ae_title, orthanc.port),
            model={"release": str(release)},
            restart_max_s=60.0,  # each new life of the real worker imports torch only to refuse again
            console={"enabled": False},
        )
        fast = node.command
        node.command = [sys.executable, "-m", "node", *fast[2:]]
        here = Room(node, OrthancView(orthanc), Ledger())
        with node:
            send(node, slices(1801), here.ledger)
            refused = wait_for(lambda: node.events("model_unavailable", reason="MODEL_UNAVAILABLE"), "a refusal", node)
            assert "model.safetensors" in refused[0]["detail"]
            wait_for(lambda: node.events("process_died", role="analyze", status=3), "the worker to end", node)
            assert not node.events("model_loaded")
            _wait_for_index(here)
            here.ledger.assert_kept(node)
            assert here.archive.results() == []
        weights.write_bytes(good)
        node.command = fast
        with node:
            node.wait_until_ready()
            here.settle()


def _wait_for_index(here: Room) -> None:
    wait_for(lambda: not here.ledger.missing(here.node.indexed()), "what was acknowledged in the index", here.node)
