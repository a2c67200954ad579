"""Small crops of phantoms around their focal findings: a hundred lesions for the price of five whole images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fvlm.config import Triple
from training.phantom_data import Ball, PhantomSet


@dataclass(frozen=True)
class Crops:
    """Some crops, all of one shape."""

    image: Tensor
    """float [B, 1, D, H, W] in [0, 1]."""
    labels: Tensor
    """uint8 [B, D, H, W]."""
    balls: tuple[tuple[Ball, ...], ...]
    """Of each patient, from the corner of the crop."""
    patients: tuple[int, ...]


class CropSource:
    """Draws crops: every finding as often as the others, with it as often as without."""

    def __init__(self, data: PhantomSet, findings: Sequence[str], anatomies: Sequence[str], shape: Triple) -> None:
        self._data, self._findings, self._shape = data, list(findings), shape
        self._labels = [anatomies.index(finding.split(".")[0]) + 1 for finding in findings]
        self._ill = {
            finding: [index for index, patient in enumerate(data.patients) if finding in patient.diseases]
            for finding in findings
        }

    def draw(self, count: int, generator: np.random.Generator) -> Crops:
        """Crops on random findings."""
        images, labels, balls, patients = [], [], [], []
        for _ in range(count):
            patient, middle = self._place(generator)
            start = self._start(middle, generator)
            box = tuple(slice(a, a + n) for a, n in zip(start, self._shape, strict=True))
            images.append(torch.from_numpy(self._data.images[patient][box].astype(np.float32))[None] / 255.0)
            labels.append(torch.from_numpy(self._data.labels[patient][box].copy()))
            corner = np.array(start) * np.array(self._data.spacing)
            balls.append(tuple(ball.moved(-corner) for ball in self._data.balls[patient]))
            patients.append(patient)
        return Crops(torch.stack(images), torch.stack(labels), tuple(balls), tuple(patients))

    def _place(self, generator: np.random.Generator) -> tuple[int, npt.NDArray[np.float64]]:
        """A patient and a voxel z, y, x: in a lesion of a random finding, or anywhere in its anatomy."""
        number = int(generator.integers(len(self._findings)))
        finding, ill = self._findings[number], self._ill[self._findings[number]]
        if ill and generator.random() < 0.5:
            patient = int(generator.choice(ill))
            balls = [ball for ball in self._data.balls[patient] if ball.finding == finding]
            if balls:
                ball = balls[int(generator.integers(len(balls)))]
                return patient, np.array(ball.centre_mm) / np.array(self._data.spacing)
        else:
            patient = int(generator.integers(len(self._data.patients)))
        organ = np.flatnonzero(self._data.labels[patient] == self._labels[number])
        voxel = int(generator.choice(organ)) if len(organ) else int(generator.integers(self._data.labels[0].size))
        return patient, np.array(np.unravel_index(voxel, self._data.labels[0].shape), np.float64)

    def _start(self, middle: npt.NDArray[np.float64], generator: np.random.Generator) -> Triple:
        """First voxel of a crop that holds a voxel, not near its border, at a random place."""
        whole, shape = np.array(self._data.images.shape[1:]), np.array(self._shape)
        shift = generator.uniform(0.25, 0.75, 3) * shape
        z, y, x = np.clip(np.round(middle - shift), 0, whole - shape).astype(int).tolist()
        return z, y, x
