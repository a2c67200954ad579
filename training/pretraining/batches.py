"""Where the loop's studies come from: an interface, the order of an epoch, and the stream of micro-batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Batch:
    """B studies, each cut to the model's window; A anatomies, F findings."""

    image: Tensor
    """float [B, 1, D, H, W] in [0, 1]."""
    labels: Tensor
    """uint8 [B, D, H, W]; label i + 1 is anatomy i."""
    captions: tuple[tuple[str, ...], ...]
    """What the report says of each anatomy, B times A."""
    reports: tuple[str, ...]
    """The whole report, B times."""
    normal: Tensor
    """bool [B, A]: the report calls the anatomy normal or does not mention it."""
    usable: Tensor
    """bool [B, A]: the anatomy is in the window, whole, and may be learned from."""
    findings: Tensor
    """float [B, F]: 1 present, 0 absent, NaN where the report does not decide."""

    def __len__(self) -> int:
        return len(self.reports)

    def to(self, device: torch.device) -> Self:
        """The same on a device; pinned memory is copied while the device computes."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return type(self)(**moved, captions=self.captions, reports=self.reports)

    def pin_memory(self) -> Self:
        """For the loader of a GPU."""
        pinned = {
            field.name: value.pin_memory()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return type(self)(**pinned, captions=self.captions, reports=self.reports)


class Batches(Protocol):
    """Studies by number; the same call gives the same batch in every process."""

    anatomies: tuple[str, ...]
    """In the order of labels and captions."""
    findings: tuple[str, ...]
    """`anatomy.finding`, in the order of `Batch.findings`."""

    def __len__(self) -> int:
        """How many studies there are."""
        ...

    def batch(self, chosen: Sequence[int], draw: tuple[int, int]) -> Batch:
        """Some studies; `draw` (seed, epoch) and a study's number decide its crop and flips, not who asks for it."""
        ...


@dataclass(frozen=True)
class Order:
    """Which studies a process sees when: every epoch visits each study at most once, in an order of its own.

    A batch is cut into equal micro-batches; rank r of W takes the r-th run of them, so that W processes see together
    what one would see alone.
    """

    studies: int
    batch: int
    """Studies a step, of all processes."""
    micro: int
    """Studies in one pass of one process."""
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def steps(self) -> int:
        """Whole batches in an epoch; what is left over waits for another epoch's order."""
        return self.studies // self.batch

    @property
    def accumulate(self) -> int:
        """Micro-batches of one process in a step."""
        return self.batch // (self.world * self.micro)

    def step(self, epoch: int, at: int) -> list[list[int]]:
        """The micro-batches of this process in step `at` of an epoch."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.studies)
        first = at * self.batch + self.rank * self.accumulate * self.micro
        return [
            [int(i) for i in order[first + k * self.micro : first + (k + 1) * self.micro]]
            for k in range(self.accumulate)
        ]


class _Steps(Dataset[list[Batch]]):
    """The steps of a run as items, for the loader's worker processes."""

    def __init__(self, data: Batches, order: Order, first: int, last: int) -> None:
        self._data, self._order, self._first, self._last = data, order, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, item: int) -> list[Batch]:
        epoch, at = divmod(self._first + item, self._order.steps)
        draw = (self._order.seed, epoch)
        return [self._data.batch(chosen, draw) for chosen in self._order.step(epoch, at)]


def stream(data: Batches, order: Order, first: int, last: int, workers: int, pin: bool) -> Iterator[list[Batch]]:
    """The micro-batches of the steps from `first` up to `last`, read ahead by so many worker processes."""
    loader = DataLoader(
        _Steps(data, order, first, last),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
    )
    return iter(loader)
