"""Work on many things in several processes, which end with their parent, however it ends."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

import torch

from training.shards.format import ShardError

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")
_AHEAD = 4
"""Things that wait for each worker."""


def each_done(things: Iterable[_Given], work: Callable[[_Given], _Made], workers: int) -> Iterator[_Made]:
    """What becomes of each thing, as it comes; one worker is this process. Raises ShardError if a worker dies."""
    if workers == 1:
        yield from map(work, things)
        return
    context = get_context("forkserver")  # a fork of a process with threads, as torch's and the progress bar's, may hang
    context.set_forkserver_preload(["training.shards.make"])
    pool = ProcessPoolExecutor(workers, context, initializer=_begin)
    waiting: set[Future[_Made]] = set()
    try:
        for thing in things:
            waiting.add(pool.submit(work, thing))
            if len(waiting) >= _AHEAD * workers:
                done, waiting = wait_for(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait_for(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        text = "a worker was ended, by lack of memory perhaps; run the same command again with fewer --workers"
        raise ShardError(text) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A worker computes on one thread, and ends when its parent was killed."""
    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:
        Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(parent: int) -> None:
    wait([parent])
    os._exit(1)
