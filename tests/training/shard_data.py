"""Small studies, plans and shards for the tests of shards."""

from functools import partial
from pathlib import Path

import numpy as np

from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.measure import measure
from ct.volume import Grid, Volume
from fvlm.config import PreprocessConfig
from training.shards.format import Fit, Shard, open_shard, write_shard
from training.shards.plan import ShardPlan
from training.shards.record import AnatomyRecord, StudyRecord
from training.study import Split, Study

NAMES = ("lung", "heart", "liver")
PLAN = ShardPlan(
    anatomies=NAMES,
    findings=("lung.nodule", "heart.cardiomegaly", "liver.cyst"),
    preprocess=PreprocessConfig(spacing=(3.0, 1.0, 1.0), window=(8, 16, 16), margin=(1, 2, 2)),
    shape=(8, 16, 16),
)
ALGORITHM = AlgorithmIdentity("by hand", "1", "0" * 64)
REPORT = "Findings: A nodule in the right upper lobe. The heart is normal.\nImpression: Lung nodule."


def scan(seed: int = 0, spacing: tuple[float, float, float] = (3.0, 1.0, 1.0)) -> tuple[Volume, AnatomyMap]:
    """Noise with three blocks; the liver is the patient's right, the heart left."""
    shape = (14, 30, 34)
    hu = np.random.default_rng(seed).integers(-1400, 800, shape, dtype=np.int16)
    labels = np.zeros(shape, np.uint8)
    labels[6:12, 5:20, 4:30], labels[5:9, 8:15, 18:26], labels[1:5, 8:24, 4:14] = 1, 2, 3
    volume = Volume(hu, Grid.axis_aligned(shape, spacing, (-40.0, -30.0, 7.0)))
    return volume, AnatomyMap(labels, volume.grid, NAMES, ALGORITHM, measure(volume, labels, NAMES))


def _load(seed: int, anatomies: tuple[str, ...]) -> tuple[Volume, AnatomyMap]:
    assert anatomies == NAMES
    return scan(seed)


def study(key: str, split: Split = "train", scan_of: str = "", report: str = REPORT, seed: int = 0) -> Study:
    return Study("hand", key, scan_of or key, f"p-{key}", split, report, partial(_load, seed))


def hand_made(path: Path, labels: np.ndarray, doubt: dict[str, str] | None = None, seed: int = 0) -> Shard:
    """A shard of given labels and noise; its anatomies may be read unless there is a doubt."""
    image = np.random.default_rng(seed).integers(-1400, 800, labels.shape, dtype=np.int16)
    anatomies = []
    for label, name in enumerate(NAMES, start=1):
        at = np.argwhere(labels == label)
        anatomies.append(
            AnatomyRecord(
                name=name,
                start=tuple(at.min(0).tolist()) if len(at) else None,
                stop=tuple((at.max(0) + 1).tolist()) if len(at) else None,
                voxels=len(at),
                volume_ml=1.0,
                mean_hu=0.0,
                doubt=(doubt or {}).get(name),
                findings="",
                impression="",
                normal=True,
            )
        )
    record = StudyRecord(
        source="hand",
        key=path.stem,
        scan=path.stem,
        subject="p",
        split="train",
        report="Findings: none.",
        spacing=(3.0, 1.0, 1.0),
        affine=np.eye(4).tolist(),
        scan_shape=labels.shape,
        scan_spacing=(3.0, 1.0, 1.0),
        anatomies=tuple(anatomies),
    )
    write_shard(path, record, image, labels, Fit.of(PLAN))
    return open_shard(path)
