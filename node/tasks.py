"""The Celery app: queues whose messages carry one row id each, nothing else.

The database says what is to do; a message is only a nudge. It may be lost (the reconciler sends another), come twice
(the second finds the row taken) or come late (it finds the row done). An analyze worker does not even look which job it
names: it takes the most urgent one (`node.work_queue`). A message of another shape (an older or newer version's, or
nobody's) is dropped and logged.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Celery
from celery.signals import worker_ready
from celery.worker import state
from kombu import Exchange, Queue
from kombu.exceptions import KombuError

from config import Settings
from node.broker import broker_url
from node.processes import name_process

_log = structlog.get_logger(__name__)

ANALYZE, DELIVER, SHADOW, MESSAGES = "analyze", "deliver", "shadow", "messages"
"""Names of the queues; the task on a queue is called `node.` and its name."""

_LARGEST_ROW_ID = 2**31 - 1


class BrokerAwayError(ConnectionError):
    """The broker cannot be reached. Nothing is lost: the reconciler sends again."""


def make_app(settings: Settings) -> Celery:
    """The Celery app on the broker in force: JSON only, late acknowledgement, one message at a time, no results."""
    app = Celery("fvlm-node", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # Straight to the queue: bindings of a named exchange would be gone after the broker was wiped.
        task_queues=[Queue(name, Exchange(""), routing_key=name) for name in (ANALYZE, DELIVER, SHADOW, MESSAGES)],
        task_create_missing_queues=False,
        task_publish_retry=False,
        # An unacknowledged message comes again after this long; a lost one is replaced by the reconciler much sooner.
        # Whoever sends does not wait for an absent broker; a worker does (the connection's own retries).
        broker_transport_options={
            "visibility_timeout": 24 * 3600.0,
            "socket_connect_timeout": 5.0,
            "max_retries": 1,
            "interval_start": 0,
        },
        broker_heartbeat=0,  # RabbitMQ: a worker within a job answers none, and would be cut off; TCP finds dead peers
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class Dispatcher:
    """Sends messages and looks how many wait."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, queue: str, row_id: int) -> None:
        """One message with one row id. Raises BrokerAwayError."""
        with _broker_errors(self._app):
            self._app.send_task(f"node.{queue}", args=[row_id], queue=queue)

    def waiting(self, queue: str) -> int:
        """Messages on a queue that no worker has taken. Raises BrokerAwayError."""
        with _broker_errors(self._app), self._app.connection_for_write() as connection:
            declared = Queue(queue, Exchange(""), routing_key=queue)(connection.default_channel).queue_declare()
            return int(declared.message_count)


def run_worker(
    app: Celery,
    queue: str,
    work: Callable[[int], None],
    name: str,
    threads: int = 0,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Work on one queue until SIGTERM or `stop_worker`; the exit status.

    `threads` 0: in this very process, one message after another (the model is loaded once and lives as long as the
    process). Otherwise that many at once. `on_ready` is called once, before the first message.
    """

    def ready(**_: object) -> None:
        name_process(queue)  # Celery gives itself another title at its start
        _log.info("worker_ready", queue=queue)
        on_ready()

    def task(*arguments: object, **more: object) -> None:
        row_id = _row_id(arguments, more)
        if row_id is None:
            _log.error("message_dropped", queue=queue)
        else:
            work(row_id)

    app.task(task, name=f"node.{queue}", typing=False)
    worker_ready.connect(ready, weak=False)
    worker = app.Worker(
        queues=[queue],
        pool="threads" if threads else "solo",
        concurrency=threads or 1,
        hostname=f"{queue}@{name.replace('@', '-')}",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel="WARNING",
    )
    worker.start()
    return int(worker.exitcode or 0)


def stop_worker(status: int) -> None:
    """Let `run_worker` end with this exit status (not 0) as soon as the message under way is acknowledged."""
    state.should_stop = status


def _row_id(arguments: tuple[object, ...], more: dict[str, object]) -> int | None:
    """The row id of a message; None if it is no message of ours."""
    if more or len(arguments) != 1:
        return None
    (row_id,) = arguments
    return row_id if type(row_id) is int and 0 < row_id <= _LARGEST_ROW_ID else None


@contextmanager
def _broker_errors(app: Celery) -> Iterator[None]:
    connection: Any = app.connection_for_write()
    try:
        yield
    except (*connection.connection_errors, *connection.channel_errors, KombuError) as error:
        raise BrokerAwayError(f"the broker cannot be reached ({type(error).__name__})") from error
