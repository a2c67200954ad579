"""From studies to a folder of shards; a killed run goes on where it stopped."""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config import Reason
from training.shards.folder import INDEX, Entry, Index, Skipped, read_index
from training.shards.format import Fit, ShardError
from training.shards.make import make, present
from training.shards.plan import ShardPlan
from training.shards.texts import RULES, Engine, Texts, with_texts
from training.shards.workers import each_done
from training.study import Study

Progress = Callable[[int, int, int], None]
"""Called with done, skipped and total."""
_INDEX_EVERY_S = 30.0


@dataclass(frozen=True)
class Built:
    """What a run did."""

    index: Index
    made: int
    """Shards that this run wrote; the others were there."""

    def reasons(self) -> list[tuple[Reason, int, str]]:
        """Why studies were skipped, the most frequent first: reason, how many, the first one's text."""
        counts = Counter(skipped.reason for skipped in self.index.skipped)
        first = {skipped.reason: skipped.text for skipped in reversed(self.index.skipped)}
        return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def build(
    studies: Sequence[Study],
    dropped: Sequence[Skipped],
    plan: ShardPlan,
    folder: Path,
    workers: int,
    progress: Progress,
    engine: Engine | None = None,
) -> Built:
    """Write a shard of every study that the folder does not have yet, and the index of all that it has then.

    Shards of other sources that are in the folder stay in its index. Where the report, split or subject of a study, or
    the `engine` (None: the rules), is another by now, the text of its shard is made anew. `dropped` are those that the
    source itself left out. A study that cannot be used is skipped with its reason and tried again by the next run.
    Raises ShardError (the folder holds something else or is written to by another run, a worker died), OSError,
    `ct.anatomy.SegmenterWeightsError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        run = _Run(plan, folder, Fit.of(plan), RULES if engine is None else engine.identity)
        missing = run.look(studies, dropped)
        run.tell(progress)
        run.write_index(complete=False)
        written = time.monotonic()
        for made in each_done(with_texts(missing, engine), run.work, workers):
            run.take(made)
            run.tell(progress)
            if time.monotonic() - written > _INDEX_EVERY_S:
                run.write_index(complete=False)
                written = time.monotonic()
        made_now = sum((study.source, study.key) in run.entries for study in missing)
        return Built(run.write_index(complete=True), made_now)


class _Run:
    """What a run has found and made so far, by source and key."""

    def __init__(self, plan: ShardPlan, folder: Path, fit: Fit, engine: str) -> None:
        self.plan, self.folder, self.fit, self.engine = plan, folder, fit, engine
        self.work: Callable[[tuple[Study, Texts | None]], Entry | Skipped] = partial(
            _work, engine=engine, plan=plan, folder=folder, fit=fit
        )
        before = _claim(folder, fit)
        self.entries = {(entry.source, entry.key): entry for entry in before.studies} if before else {}
        self.skipped = {(left.source, left.key): left for left in before.skipped} if before else {}
        self.asked: set[tuple[str, str]] = set()

    def look(self, studies: Sequence[Study], dropped: Sequence[Skipped]) -> list[Study]:
        """Take what is there; the studies that have to be made."""
        self.asked = {(study.source, study.key) for study in studies} | {(left.source, left.key) for left in dropped}
        self.entries = {
            name: entry
            for name, entry in self.entries.items()
            if name not in self.asked and (self.folder / entry.file).is_file()
        }
        self.skipped = {name: left for name, left in self.skipped.items() if name not in self.asked}
        for left in dropped:
            self.take(left)
        missing = []
        for study in studies:
            if (entry := present(study, self.engine, self.folder, self.fit)) is not None:
                self.take(entry)
            else:
                missing.append(study)
        return missing

    def take(self, made: Entry | Skipped) -> None:
        if isinstance(made, Entry):
            self.entries[made.source, made.key] = made
        else:
            self.skipped[made.source, made.key] = made

    def tell(self, progress: Progress) -> None:
        progress(len(self.asked & self.entries.keys()), len(self.asked & self.skipped.keys()), len(self.asked))

    def write_index(self, *, complete: bool) -> Index:
        index = Index(
            complete=complete,
            plan=self.plan,
            voxel_digest=self.fit.voxels,
            vocabulary_digest=self.fit.vocabulary,
            studies=tuple(self.entries[name] for name in sorted(self.entries)),
            skipped=tuple(self.skipped[name] for name in sorted(self.skipped)),
        )
        index.write(self.folder)
        return index


def _work(given: tuple[Study, Texts | None], engine: str, plan: ShardPlan, folder: Path, fit: Fit) -> Entry | Skipped:
    study, texts = given
    return make(study, texts, engine, plan, folder, fit)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """A lock on the folder, which goes with its process. Raises ShardError if another run has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(f"{folder}: another run writes to it; wait until it has ended") from error
        yield
    finally:
        os.close(handle)


def _claim(folder: Path, fit: Fit) -> Index | None:
    """The index of an earlier run; clears what a killed one left half-written.

    Raises ShardError if the folder holds shards of another plan.
    """
    for left in folder.glob(".*.part"):
        left.unlink()
    if not (folder / INDEX).is_file():
        return None
    index = read_index(folder)
    if index.fit != fit:
        raise ShardError(f"{folder}: holds shards for other anatomies, preprocessing or vocabulary; choose another")
    return index
