"""Messages that are not ours, or of another version: each is dropped with a log line and the worker goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery
from fake_pipeline import FakePipeline
from rows import add_job, job, open_records, settings_for
from running import Processes, running_broker, wait_for

from config import Settings
from node.states import State
from node.tasks import ANALYZE, DELIVER, Dispatcher, make_app

Send = Callable[[Celery, redis.Redis, str], None]


def _call(*arguments: object, **more: object) -> Send:
    return lambda app, _, queue: app.send_task(f"node.{queue}", args=arguments, kwargs=more, queue=queue) and None


def _raw(content: bytes) -> Send:
    return lambda _, client, queue: client.lpush(queue, content) and None


def _envelope(body: str, **properties: object) -> Send:
    """What kombu puts on a list, with a body of our own."""
    message = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": ANALYZE},
            "delivery_tag": "t",
            "body_encoding": "base64",
        },
        **properties,
    }
    return _raw(json.dumps(message).encode())


SHAPES: dict[str, Send] = {
    "no argument": _call(),
    "an extra argument": _call(1, "stat"),
    "a keyword": _call(job=1),
    "an id and a keyword": _call(1, priority=0),
    "a text": _call("1"),
    "a fraction": _call(1.0),
    "null": _call(None),
    "true": _call(True),
    "a list": _call([1]),
    "an object": _call({"job": 1}),
    "zero": _call(0),
    "negative": _call(-5),
    "huge": _call(2**31),
    "larger than any integer of a database": _call(2**70),
    "another task": lambda app, _, queue: app.send_task("node.other", args=[1], queue=queue) and None,
    "a pickle": lambda app, _, queue: (
        app.send_task(f"node.{queue}", args=[1], queue=queue, serializer="pickle") and None
    ),
    "an empty body": _envelope(""),
    "a body that is no JSON": _envelope("bm90IGpzb24="),
    "a body without headers": _envelope("W1sxXSwge30sIHt9XQ=="),
    "another content type": _envelope("AAAA", **{"content-type": "application/x-python-serialize"}),
}


@pytest.mark.parametrize("queue", [ANALYZE, DELIVER])
def test_a_message_of_another_shape_is_dropped_and_the_worker_goes_on(tmp_path: Path, queue: str) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    app = make_app(settings)
    app.conf.accept_content = ["json", "pickle"]  # of the sender
    with running_broker(settings.data_dir) as client, Processes(settings) as processes:
        worker = processes.analyze() if queue == ANALYZE else processes.role(DELIVER)
        for send in SHAPES.values():
            send(app, client, queue)
        wait_for(lambda: client.llen(queue) == 0, "all messages to be taken")
        wait_for(lambda: processes.log.read_text().count("message_dropped") == 14, "each of the first to be told")
        assert not any(FakePipeline(settings).control.glob("run-*"))
        if queue == ANALYZE:
            job_id = add_job(records)
            Dispatcher(make_app(settings)).send(ANALYZE, job_id)
            wait_for(lambda: job(records, job_id).state == State.SENT, "the next good message")
        wait_for(lambda: _unacknowledged(client) == 0, "nothing to be left over")
        assert worker.poll() is None
        log = processes.log.read_text()
    assert '"event": "database_away"' not in log
    assert '"event": "unexpected_error"' not in log


def _unacknowledged(client: redis.Redis) -> int:
    return client.hlen("unacked")


@pytest.mark.parametrize("junk", [b"junk", b"{}", b"[]", b"\xff\xfe", b'{"body": 5}'])
def test_what_is_no_message_at_all_costs_at_most_a_restart_of_the_worker(tmp_path: Path, junk: bytes) -> None:
    """Nobody but the node's own user can write to the broker; still, junk must not come back for ever."""
    settings: Settings = settings_for(tmp_path)
    records = open_records(settings)
    job_id = add_job(records)
    with running_broker(settings.data_dir) as client, Processes(settings) as processes:
        worker = processes.analyze()
        client.lpush(ANALYZE, junk)
        wait_for(lambda: client.llen(ANALYZE) == 0, "the junk to be taken")
        Dispatcher(make_app(settings)).send(ANALYZE, job_id)
        wait_for(lambda: job(records, job_id).state == State.SENT or worker.poll() is not None, "what follows")
        if worker.poll() is not None:
            processes.analyze()
        wait_for(lambda: job(records, job_id).state == State.SENT, "the job")
