"""Logs without patient data: only keys on the allow-list get through, and of libraries that handle data sets no text.

Events are constant names (`instance_refused`), never sentences with values in them; what varies goes into keys.
"""

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

ALLOWED_KEYS = frozenset(
    {
        # what and where
        "event", "level", "timestamp", "logger", "error", "where", "reason", "detail", "state", "status", "signal",
        # rows, files, counts
        "series", "generation", "job", "jobs", "delivery", "deliveries", "instances", "unreadable", "conflicts",
        "known", "images", "stored", "refused", "rejected",
        "segment", "segments", "offset", "bytes", "count", "objects", "slices", "file", "kind", "fate",
        "queued", "running", "expired", "due", "frugal", "priority", "finding", "verdict", "reader",
        "attempt", "attempts", "seconds", "next_attempt", "queue", "worker", "process", "pid", "role",
        # peers
        "host", "port", "ae_title", "calling_ae", "called_ae", "destination", "source_ae", "source", "folder", "tls",
        # the model
        "release", "digest", "device", "segmenter",
        # who changed what
        "user", "number",
    }
)  # fmt: skip
"""Keys that may stand in a log line. UIDs are not among them: rows have ids, images have segment and offset."""

_TALKATIVE = ("pydicom", "pynetdicom", "sqlalchemy", "py.warnings", "highdicom", "asyncio", "celery", "kombu")
"""Loggers of the standard library whose messages may quote a data set, a row or an exception: only that they spoke
is logged."""
_LONGEST = 300
"""Characters of a text value."""


def configure_logs(style: Literal["json", "console"] | None = None, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process.

    `style` None: for people on a terminal, JSON otherwise. `stream` None is the standard error.
    """
    out = stream or sys.stderr
    if style is None:
        style = "console" if out.isatty() else "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        locate_error,
        allow_listed,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if style == "console"
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, withhold_text, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module="pydicom")
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    sys.excepthook = lambda _, error, __: _log_uncaught(error)
    threading.excepthook = lambda raised: _log_uncaught(raised.exc_value)


def _log_uncaught(error: BaseException | None) -> None:
    structlog.get_logger(__name__).critical("uncaught_error", exc_info=error)


def allow_listed(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop keys that are not on the list, cut long texts, and keep control characters out of the lines."""
    return {key: _clean(value) for key, value in event.items() if key in ALLOWED_KEYS or key.startswith("_")}


def _clean(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() else "�" for c in value[:_LONGEST])


def locate_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Instead of a traceback, whose text may quote data: the type of the exception and the lines it came through."""
    error = _exception(event.pop("exc_info", None))
    event.pop("stack_info", None)
    if error is not None:
        event["error"] = type(error).__name__
        event["where"] = _lines(error.__traceback__)
    return event


def withhold_text(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Of a talkative library only that it spoke, and from where."""
    name = str(event.get("logger", ""))
    record = event.get("_record")
    if any(name == prefix or name.startswith(f"{prefix}.") for prefix in _TALKATIVE):
        event["event"] = "library_message"
        if isinstance(record, logging.LogRecord):
            event["where"] = f"{record.filename}:{record.lineno}"
    return event


def _exception(exc_info: ExcInfo | BaseException | bool | None) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info else None


def _lines(trace: TracebackType | None) -> str:
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(trace)
    return " > ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames[-6:])
