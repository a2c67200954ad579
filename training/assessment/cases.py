"""The studies that a release is judged on: those of a folder of shards, or phantoms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap, AnatomyMeasure
from ct.volume import Grid, Volume
from fvlm.config import ReleaseConfig
from training.evaluation.data_set import DataError
from training.report_text import AnatomyText, Mention, decompose, label
from training.shards.folder import Entry, ShardFolder
from training.shards.format import Shard
from training.sources.phantom import phantoms
from training.study import Split, Study


@dataclass(frozen=True)
class About:
    """What is known of a study beside its images."""

    texts: Mapping[str, AnatomyText]
    """Of each anatomy of the release."""
    labels: Mapping[str, Mention]
    """By finding; what is not there is unmentioned."""
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """One study; light, its images unread."""

    key: str
    """Unique in the data, no personal data."""
    subject: str
    """All studies of a patient have the same; folds and intervals go by it."""
    content: str
    """Another one whenever the images are."""
    about: Callable[[], About]
    """Raises `training.shards.format.ShardError`."""
    load: Callable[[], tuple[Volume, AnatomyMap]]
    """Raises `training.shards.format.ShardError` or `training.study.StudyError`."""


def shard_cases(folder: Path, split: Split, config: ReleaseConfig) -> tuple[Case, ...]:
    """The studies of a split, one reconstruction of each scan.

    Raises `training.shards.format.ShardError`, or DataError: none of that split, or made for other preprocessing than
    the release's.
    """
    shards = ShardFolder.open(folder)
    made, wanted = shards.plan.preprocess, config.preprocess
    if (made.spacing, made.margin, made.antialias) != (wanted.spacing, wanted.margin, wanted.antialias):
        raise DataError(f"{folder}: made for a grid of {made.spacing} mm; make shards with --release of this release")
    if missing := sorted(set(config.model.anatomies) - set(shards.plan.anatomies)):
        raise DataError(
            f"{folder}: its shards have no {', '.join(missing)}; make shards with --release of this release"
        )
    scans: dict[tuple[str, str], Entry] = {}
    for entry in shards.index.studies:
        if entry.split == split:
            scans.setdefault((entry.source, entry.scan), entry)
    if not scans:
        raise DataError(f"{folder}: no shard of split {split}; name another --split")
    return tuple(
        Case(
            f"{entry.source}/{entry.key}",
            f"{entry.source}/{entry.subject}",
            entry.sha256,
            partial(_about_shard, shards, entry),
            partial(_load_shard, shards, entry),
        )
        for entry in scans.values()
    )


def _about_shard(shards: ShardFolder, entry: Entry) -> About:
    record = shards.shard(entry).record
    thickness = {"slice_thickness_mm": f"{record.scan_spacing[0]:g}"}
    texts = {anatomy.name: anatomy.text for anatomy in record.anatomies}
    return About(texts, record.labels, {**thickness, **record.attributes})


def _load_shard(shards: ShardFolder, entry: Entry) -> tuple[Volume, AnatomyMap]:
    shard = shards.shard(entry)
    grid = Grid(shard.image.shape, shard.record.spacing, np.array(shard.record.affine))
    return Volume(shard.image, grid), _map_of(shard, grid)


def _map_of(shard: Shard, grid: Grid) -> AnatomyMap:
    """With the doubts of the scan: they cannot be told from the crop."""
    record = shard.record
    measures = {
        a.name: AnatomyMeasure(a.voxels, a.volume_ml, float("nan") if a.mean_hu is None else a.mean_hu, a.doubt)
        for a in record.anatomies
    }
    origin = AlgorithmIdentity(record.provenance.get("masks", ""), "", record.provenance.get("masks_digest", ""))
    return AnatomyMap(shard.labels, grid, tuple(measures), origin, measures)


def phantom_cases(count: int, first: int) -> tuple[Case, ...]:
    """`count` phantoms from seed `first` on, with their true masks and diseases."""
    return tuple(
        Case(f"phantom/{study.key}", study.subject, study.key, partial(_about_study, study), partial(study.load, ()))
        for study in phantoms(count, first).studies
    )


def _about_study(study: Study) -> About:
    vocabulary = load_vocabulary()
    labels = dict(label(study.report, vocabulary))
    labels |= {finding: Mention.PRESENT if there else Mention.ABSENT for finding, there in study.known.items()}
    return About(decompose(study.report, vocabulary), labels, study.attributes)
