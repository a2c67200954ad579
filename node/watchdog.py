"""A limit of time on a piece of work that cannot be interrupted: the process is ended when it is reached."""

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

STATUS = 5
"""Exit status of a process that was ended."""
_LAST_WORDS_S = 30.0
"""How long `overdue` may take before the process ends all the same."""


@contextmanager
def time_limit(seconds: float, overdue: Callable[[], None]) -> Iterator[None]:
    """End this process if the block takes longer than `seconds`, after `overdue` was called in another thread.

    Code that never gives the interpreter free is ended too, half a minute later and without `overdue`. Where every
    thread stands is written to the standard error: lines of code, no values.
    """
    timer = Timer(seconds, _end, (overdue,))
    timer.daemon = True
    faulthandler.dump_traceback_later(seconds + _LAST_WORDS_S, exit=True, file=sys.__stderr__ or 2)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end(overdue: Callable[[], None]) -> None:
    faulthandler.dump_traceback(sys.__stderr__ or 2)
    try:
        overdue()
    finally:
        os._exit(STATUS)
