"""Shards as batches for a trainer: `DataLoader(ShardDataset(folder, …), batch_size=…, collate_fn=collate)`.

What a sample is follows from (seed, epoch, index) alone: not from the number of workers, nor from what was read before.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from config import load_vocabulary
from training.report_text import Mention
from training.shards.crops import CropSettings, cut
from training.shards.folder import Entry, ShardFolder
from training.study import Split

STATES = {Mention.PRESENT: 1, Mention.ABSENT: 0, Mention.UNCERTAIN: -1, Mention.UNMENTIONED: -2}
"""How `Batch.findings` tells what is known of a finding."""


@dataclass(frozen=True)
class Sample:
    """One crop of one study; A anatomies, F findings."""

    image: Tensor
    """float32 [1, D, H, W] in 0..1."""
    labels: Tensor
    """uint8 [D, H, W]; label i + 1 is anatomy i of the plan."""
    captions: tuple[str, ...]
    """[A]: what the report says of each anatomy, or the template."""
    normal: Tensor
    """bool [A]: the normal-normal correction applies."""
    usable: Tensor
    """bool [A]: the anatomy is in the crop, whole, and may be read."""
    findings: Tensor
    """int8 [F]: `STATES`."""
    report: str
    key: str
    """`source/key` of the study."""
    subject: str


@dataclass(frozen=True)
class Batch:
    """B samples."""

    image: Tensor
    """float32 [B, 1, D, H, W] in 0..1."""
    labels: Tensor
    """uint8 [B, D, H, W]."""
    captions: tuple[tuple[str, ...], ...]
    """[B][A]."""
    normal: Tensor
    """bool [B, A]."""
    usable: Tensor
    """bool [B, A]."""
    findings: Tensor
    """int8 [B, F]."""
    reports: tuple[str, ...]
    keys: tuple[str, ...]
    subjects: tuple[str, ...]

    def to(self, device: torch.device | str) -> "Batch":
        """The same with its tensors on a device."""
        return self._tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """For DataLoader's `pin_memory`."""
        return self._tensors(Tensor.pin_memory)

    def _tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of samples of one dataset."""
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        captions=tuple(sample.captions for sample in samples),
        normal=torch.stack([sample.normal for sample in samples]),
        usable=torch.stack([sample.usable for sample in samples]),
        findings=torch.stack([sample.findings for sample in samples]),
        reports=tuple(sample.report for sample in samples),
        keys=tuple(sample.key for sample in samples),
        subjects=tuple(sample.subject for sample in samples),
    )


class ShardDataset(Dataset[Sample]):
    """The scans of a split, one crop each. Of several reconstructions of a scan one is drawn each time."""

    def __init__(
        self,
        folder: ShardFolder,
        split: Split = "train",
        crop: CropSettings | None = None,
        findings: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        """`crop` None: the shape and HU window of the folder's plan. `findings` None: those of the plan.

        Raises ValueError for a finding that the vocabulary does not have, and if the split is empty.
        """
        plan = folder.plan
        self.crop = crop or CropSettings(plan.shape, plan.preprocess.hu_window)
        self.findings = tuple(plan.findings if findings is None else findings)
        known = {finding.key for finding in load_vocabulary().findings}
        if unknown := sorted(set(self.findings) - known):
            raise ValueError(f"the vocabulary has no finding {', '.join(unknown)}")
        self.anatomies = plan.anatomies
        self._folder, self._seed = folder, seed
        scans: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in folder.index.studies:
            if entry.split == split:
                scans[entry.source, entry.scan].append(entry)
        if not scans:
            raise ValueError(f"{folder.path}: it has no shard of split {split}")
        self._scans = [scans[name] for name in sorted(scans)]
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from the next pass over a loader on, in persistent workers too.

        Within a pass workers have read ahead: which samples are of the new epoch is not decided then.
        """
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> Sample:
        """Raises IndexError, or `training.shards.format.ShardError`."""
        return self.sample(index, np.random.default_rng((self._seed, int(self._epoch), index % len(self))))

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """A crop that the generator's state decides. Raises as `__getitem__`."""
        scan = self._scans[index]
        entry = scan[int(generator.integers(len(scan))) if self.crop.augment else 0]
        shard = self._folder.shard(entry)
        crop, record = cut(shard, self.crop, generator), shard.record
        texts = [anatomy.text for anatomy in record.anatomies]
        reference = self.crop.as_reference
        states = [STATES[record.labels.get(finding, Mention.UNMENTIONED)] for finding in self.findings]
        return Sample(
            image=torch.from_numpy(crop.image)[None],
            labels=torch.from_numpy(crop.labels),
            captions=tuple(text.caption(as_reference=reference) for text in texts),
            normal=torch.tensor([text.counts_as_normal(as_reference=reference) for text in texts]),
            usable=torch.from_numpy(crop.usable),
            findings=torch.tensor(states, dtype=torch.int8),
            report=record.report,
            key=f"{record.source}/{record.key}",
            subject=record.subject,
        )
