"""Logs: keys that are not on the list, tracebacks and the texts of talkative libraries do not get through."""

import json
import logging
import threading
import warnings
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from node.logs import configure_logs

SECRET = "PLANTED^NAME"


@pytest.fixture
def out() -> Iterator[StringIO]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    stream = StringIO()
    with warnings.catch_warnings():
        configure_logs("json", stream)
        yield stream
    logging.captureWarnings(False)
    logging.basicConfig(handlers=handlers, level=level, force=True)
    threading.excepthook = hook
    structlog.reset_defaults()


def _lines(out: StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_only_listed_keys_are_written(out: StringIO) -> None:
    structlog.get_logger().info("series_opened", series=3, patient=SECRET, PatientName=SECRET, sop_instance_uid="1.2.3")
    (line,) = _lines(out)
    assert line.keys() == {"event", "level", "timestamp", "series"}


def test_an_exception_is_its_type_and_its_place(out: StringIO) -> None:
    try:
        int(SECRET)
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("celery").exception("task failed")
    for line in _lines(out):
        assert line["error"] == "ValueError"
        assert "test_logs.py" in str(line["where"])
    assert SECRET not in out.getvalue()


def test_uncaught_errors_of_threads_are_logged_in_the_same_way(out: StringIO) -> None:
    thread = threading.Thread(target=lambda: int(SECRET))
    thread.start()
    thread.join()
    (line,) = _lines(out)
    assert (line["event"], line["error"]) == ("uncaught_error", "ValueError")
    assert SECRET not in out.getvalue()


@pytest.mark.parametrize("name", ["pydicom", "pynetdicom.dul", "sqlalchemy.engine.Engine", "celery.app.trace", "kombu"])
def test_of_a_talkative_library_only_that_it_spoke(out: StringIO, name: str) -> None:
    logging.getLogger(name).error("element %s", SECRET)
    warnings.warn(SECRET, stacklevel=1)
    assert [line["event"] for line in _lines(out)] == ["library_message"] * 2
    assert SECRET not in out.getvalue()


def test_other_libraries_speak_from_warnings_on(out: StringIO) -> None:
    logging.getLogger("alembic").info("task received")
    logging.getLogger("alembic").warning("broker away, attempt %d", 2)
    assert [line["event"] for line in _lines(out)] == ["broker away, attempt 2"]


def test_a_value_cannot_start_a_new_line_and_is_cut(out: StringIO) -> None:
    structlog.get_logger().warning("rejected", calling_ae="A\nB\x1b[2J", detail="x" * 5000)
    (line,) = _lines(out)
    assert str(line["calling_ae"]).isprintable()
    assert len(str(line["detail"])) == 300
