"""Many objects fetched at the same time, each through the one door; what has to be tried again is told apart."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from config import Reason
from node.intake import Intake, IntakeSession, Refused, Stored

T = TypeVar("T")
Refusal = tuple[Reason, str]
"""Why the node did not take an object, and a detail."""
_LATER = (Reason.DISK_FULL, Reason.SPOOL_FAILED)
"""Of the door: to be tried again, whatever the object is."""


class StoppedError(Exception):
    """The node ends; what is Stored stays."""


def refusal(answer: Stored | Refused) -> Refusal | None:
    """None: it is Stored. Raises OSError if the spool has no place now."""
    if isinstance(answer, Stored):
        return None
    if answer.reason in _LATER:
        raise OSError(0, answer.comment)
    return answer.reason, answer.comment


def fetch_all(
    intake: Intake,
    calling_ae: str,
    called_ae: str,
    items: Iterable[T],
    at_once: int,
    fetch: Callable[[IntakeSession, T], Refusal | None],
    ended: threading.Event,
) -> list[Refusal]:
    """Call `fetch` for each item, in at most `at_once` threads with a session each; the refusals.

    Raises what `fetch` raises first, when the others have come to an end; StoppedError if `ended` was set before all
    were fetched.
    """
    left = deque(items)
    refused: list[Refusal] = []
    failed = threading.Event()

    def some() -> None:
        with intake.open(calling_ae, called_ae) as session:
            while not failed.is_set() and not ended.is_set():
                try:
                    item = left.popleft()
                except IndexError:
                    return
                try:
                    answer = fetch(session, item)
                except BaseException:  # whatever stops one thread, the others stop too; it is raised again
                    failed.set()
                    raise
                if answer is not None:
                    refused.append(answer)

    count = min(at_once, len(left))
    if count:
        with ThreadPoolExecutor(count, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(some) for _ in range(count)]
        for future in futures:
            future.result()
    if left:
        raise StoppedError
    return refused
