"""Phantom patients as `Batches`: for trials of the trainer, its tests, and the phantom benchmark."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from training.phantom_data import PhantomSet, touches_border
from training.pretraining.batches import Batch


class PhantomBatches:
    """A prepared set; each window is shifted by a few voxels."""

    def __init__(self, data: PhantomSet, anatomies: Sequence[str], findings: Sequence[str]) -> None:
        self.anatomies, self.findings = tuple(anatomies), tuple(findings)
        self._data = data
        truth = [[finding in patient.diseases for finding in findings] for patient in data.patients]
        self._truth = torch.tensor(truth).float()

    def __len__(self) -> int:
        return len(self._data.patients)

    def texts(self) -> Iterator[str]:
        """Every report and caption, for a vocabulary."""
        for patient in self._data.patients:
            yield patient.report
            yield from (caption.text for caption in patient.captions)

    def batch(self, chosen: Sequence[int], draw: tuple[int, int]) -> Batch:
        """See `Batches`. A phantom knows all its findings."""
        parts = [self._data.batch([index], np.random.default_rng((*draw, index))) for index in chosen]
        patients = [self._data.patients[index] for index in chosen]
        labels = torch.cat([part.labels for part in parts])
        captions = [patient.captions for patient in patients]
        return Batch(
            image=torch.cat([part.image for part in parts]),
            labels=labels,
            captions=tuple(tuple(caption.text for caption in row) for row in captions),
            reports=tuple(patient.report for patient in patients),
            normal=torch.tensor([[caption.normal for caption in row] for row in captions]),
            usable=~touches_border(labels, len(self.anatomies)),
            findings=self._truth[list(chosen)],
        )
