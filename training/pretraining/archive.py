"""A folder of shards as `Batches`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fvlm.config import PreprocessConfig
from training.pretraining.batches import Batch
from training.pretraining.config import PretrainError
from training.report_text import Mention
from training.shards.dataset import STATES, ShardDataset, collate
from training.shards.folder import ShardFolder
from training.shards.format import ShardError
from training.study import Split

_DECIDED = (STATES[Mention.ABSENT], STATES[Mention.PRESENT])


class ShardBatches:
    """The scans of a split, one random crop each."""

    def __init__(self, folder: Path, split: Split, findings: Sequence[str]) -> None:
        """No findings: those of the folder. Raises PretrainError."""
        try:
            opened = ShardFolder.open(folder)
            self._data = ShardDataset(opened, split, findings=findings or None)
        except ValueError as error:
            raise PretrainError(f"data.folder: {error}") from error
        self.anatomies, self.findings = self._data.anatomies, self._data.findings
        self.preprocess: PreprocessConfig = opened.plan.preprocess

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, chosen: Sequence[int], draw: tuple[int, int]) -> Batch:
        """See `Batches`. Raises PretrainError if a shard is damaged."""
        try:
            read = collate([self._data.sample(index, np.random.default_rng((*draw, index))) for index in chosen])
        except ShardError as error:
            raise PretrainError(f"data.folder: {error}") from error
        decided = (read.findings == _DECIDED[0]) | (read.findings == _DECIDED[1])
        return Batch(
            image=read.image,
            labels=read.labels,
            captions=read.captions,
            reports=read.reports,
            normal=read.normal,
            usable=read.usable,
            findings=torch.where(decided, read.findings.float(), torch.nan),
        )
