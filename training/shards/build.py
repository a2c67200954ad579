"""From studies to a folder of shards: several processes, and a killed run goes on where it stopped."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

import torch

from config import Reason, load_vocabulary
from ct.anatomy import AnatomyMeasure, SegmenterWeightsError
from training.report_text import AnatomyText, Mention, decompose, label
from training.shards.crop import BodyCrop, crop_body
from training.shards.folder import INDEX, Entry, Index, Skipped, read_index
from training.shards.format import SUFFIX, Fit, ShardError, open_shard, write_shard
from training.shards.plan import ShardPlan
from training.shards.record import AnatomyRecord, StudyRecord
from training.study import Study, StudyError

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
) -> Built:
    """Write a shard of every study that the folder does not have yet, and the index of all that it has then.

    Shards of other sources that are in the folder stay in its index; those whose study has another report, split or
    subject by now are made again. `dropped` are those that the source itself left out. A study that cannot be used is skipped with its reason and
    tried again by the next run. Raises ShardError (the folder holds something else, a worker died), OSError,
    `ct.anatomy.SegmenterWeightsError`.
    """
    fit = Fit.of(plan)
    folder.mkdir(parents=True, exist_ok=True)
    before = _claim(folder, fit)
    entries = {(entry.source, entry.key): entry for entry in before.studies} if before else {}
    skipped = {(left.source, left.key): left for left in before.skipped} if before else {}
    asked = {(study.source, study.key) for study in studies} | {(left.source, left.key) for left in dropped}
    entries = {name: entry for name, entry in entries.items() if name not in asked and (folder / entry.file).is_file()}
    skipped = {name: left for name, left in skipped.items() if name not in asked}
    others = len(entries), len(skipped)
    skipped |= {(left.source, left.key): left for left in dropped}
    missing = []
    for study in studies:
        if (entry := _present(folder, study, fit)) is not None:
            entries[study.source, study.key] = entry
        else:
            missing.append(study)

    def tell() -> None:
        progress(len(entries) - others[0], len(skipped) - others[1], len(asked))

    def write_index(complete: bool) -> Index:
        index = Index(
            complete=complete,
            plan=plan,
            voxel_digest=fit.voxels,
            vocabulary_digest=fit.vocabulary,
            studies=tuple(entries[name] for name in sorted(entries)),
            skipped=tuple(skipped[name] for name in sorted(skipped)),
        )
        index.write(folder)
        return index

    tell()
    write_index(False)
    written = time.monotonic()
    for made in _made(missing, partial(make, plan=plan, folder=folder, fit=fit), workers):
        if isinstance(made, Entry):
            entries[made.source, made.key] = made
        else:
            skipped[made.source, made.key] = made
        tell()
        if time.monotonic() - written > _INDEX_EVERY_S:
            write_index(False)
            written = time.monotonic()
    made_now = sum((study.source, study.key) in entries for study in missing)
    return Built(write_index(True), made_now)


def make(study: Study, plan: ShardPlan, folder: Path, fit: Fit) -> Entry | Skipped:
    """Write the shard of one study, or say why not."""
    try:
        record, crop = _prepare(study, plan)
    except StudyError as error:
        return Skipped(source=study.source, key=study.key, reason=error.reason, text=str(error))
    except MemoryError:
        return Skipped(source=study.source, key=study.key, reason=Reason.OUT_OF_MEMORY, text="out of memory")
    except SegmenterWeightsError:
        raise
    except Exception as error:  # one bad file must not end a run of days; its text may quote the file, so only its kind
        return Skipped(source=study.source, key=study.key, reason=Reason.INTERNAL, text=type(error).__name__)
    path = folder / _file(study)
    write_shard(path, record, crop.image, crop.labels, fit)
    return Entry.of(open_shard(path, fit))


def _prepare(study: Study, plan: ShardPlan) -> tuple[StudyRecord, BodyCrop]:
    if not study.report.strip():
        raise StudyError(Reason.REPORT_NO_TEXT, "the report has no text")
    volume, anatomy_map = study.load(plan.anatomies)
    crop = crop_body(volume, anatomy_map, plan)
    if crop is None:
        raise StudyError(Reason.ANATOMY_ABSENT, "none of the anatomies is in the scan")
    vocabulary = load_vocabulary()
    texts = decompose(study.report, vocabulary)
    said = dict(label(study.report, vocabulary))
    said |= {finding: Mention.PRESENT if there else Mention.ABSENT for finding, there in study.known.items()}
    absent = AnatomyMeasure(0, 0.0, float("nan"), Reason.ANATOMY_NOT_SEGMENTED)
    anatomies = tuple(
        _anatomy(name, place, crop, anatomy_map.measures.get(name, absent), _text(study, name, texts[name]))
        for place, name in enumerate(plan.anatomies, start=1)
    )
    algorithm = anatomy_map.algorithm
    masks = {"masks": f"{algorithm.name} {algorithm.version}", "masks_digest": algorithm.digest}
    z, y, x = (float(step) for step in volume.spacing)
    record = StudyRecord(
        source=study.source,
        key=study.key,
        scan=study.scan,
        subject=study.subject,
        split=study.split,
        report=study.report,
        spacing=plan.preprocess.spacing,
        affine=crop.affine.tolist(),
        scan_shape=volume.grid.shape,
        scan_spacing=(z, y, x),
        anatomies=anatomies,
        labels={finding: mention for finding, mention in sorted(said.items()) if mention is not Mention.UNMENTIONED},
        known=tuple(sorted(study.known)),
        attributes=dict(study.attributes),
        provenance={**study.provenance, **masks},
    )
    return record, crop


def _text(study: Study, name: str, found: AnatomyText) -> AnatomyText:
    """What the source itself says of an anatomy goes before what the rules found in the whole report."""
    if name not in study.regions:
        return found
    text = study.regions[name]
    own = decompose(f"Findings: {text}", load_vocabulary())[name]
    return AnatomyText(name, text, found.impression, own.normal and found.normal)


def _anatomy(name: str, label: int, crop: BodyCrop, measure: AnatomyMeasure, text: AnatomyText) -> AnatomyRecord:
    box = crop.boxes.get(name)
    voxels = 0 if box is None else int((crop.labels[box.slices((0, 0, 0))] == label).sum())
    doubt = measure.doubt
    if box is None and doubt is None:
        doubt = Reason.ANATOMY_TOO_SMALL
    return AnatomyRecord(
        name=name,
        start=None if box is None else box.start,
        stop=None if box is None else box.stop,
        voxels=voxels,
        volume_ml=measure.volume_ml,
        mean_hu=measure.mean_hu if measure.voxels else None,
        doubt=doubt,
        findings=text.findings,
        impression=text.impression,
        normal=text.normal,
    )


def _made(
    studies: Sequence[Study], work: Callable[[Study], Entry | Skipped], workers: int
) -> Iterator[Entry | Skipped]:
    """What becomes of each study, as it comes."""
    if workers == 1:
        yield from map(work, studies)
        return
    context = get_context("forkserver")  # a fork of a process with threads, as torch's and the progress bar's, may hang
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, context, initializer=_begin)
    try:
        waiting: list[Future[Entry | Skipped]] = [pool.submit(work, study) for study in studies]
        for future in as_completed(waiting):
            yield future.result()
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


def _file(study: Study) -> str:
    """No path is made from a name of a study."""
    return hashlib.sha256(f"{study.source}/{study.key}".encode()).hexdigest()[:32] + SUFFIX


def _present(folder: Path, study: Study, fit: Fit) -> Entry | None:
    """The entry of a study's shard; None if there is none, or its study is another by now."""
    path = folder / _file(study)
    if not path.is_file():
        return None
    try:
        shard = open_shard(path, fit)
    except ShardError:
        return None
    record = shard.record
    same = (record.report, record.split, record.subject) == (study.report, study.split, study.subject)
    return Entry.of(shard) if same else None


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
