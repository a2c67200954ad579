"""`Engine`: how the image encoder runs over the windows of a scan: in batches, in which precision, compiled or not."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fvlm.config import Triple
from fvlm.model import FVLM
from fvlm.preprocess import Prepared, Window

BATCH = 4
"""Most windows in one pass on a GPU: a scan of the public model has no more, and memory stays bounded where it has."""

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Encoded:
    """One window as the encoder sees it."""

    window: Window
    tokens: list[Tensor]
    """Float32 [1, L, W] of each level."""
    selected: list[Tensor]
    """bool [1, A, L] of each level: the tokens of each anatomy; the last level holds no others."""


class Engine:
    """Runs the image encoder of a model in inference."""

    def __init__(
        self, model: FVLM, precision: Precision = "float32", compiled: bool = False, batch: int | None = None
    ) -> None:
        """`bfloat16` multiplies in bfloat16 (autocast), `compiled` fuses with `torch.compile` at the first scan.

        `batch` is the most windows in one pass: fewer need less memory and give the same within rounding. None: BATCH
        on a GPU, one on a CPU, where the states of more than one leave the cache (measured: a sixth slower).

        Raises ValueError if `compiled` finds no C++ compiler.
        """
        if compiled and not shutil.which(os.environ.get("CXX", "g++")):
            raise ValueError("torch.compile needs a C++ compiler: apt-get install g++, or set model.compiled: false")
        self._device = model.temp.device
        self._precision = precision
        self._batch = batch or (1 if self._device.type == "cpu" else BATCH)
        self._select = partial(model.select, levels=model.levels)
        encode: Callable[[Tensor, Tensor], list[Tensor]] = model.encode_tokens
        self._encode = torch.compile(encode) if compiled else encode

    def encode(self, prepared: Prepared) -> Iterator[Encoded]:
        """Every window of a scan that holds an anatomy; windows of one shape share a pass."""
        by_shape: dict[Triple, list[Window]] = {}
        for window in prepared.windows:
            if window.anatomies:
                by_shape.setdefault(window.box.shape, []).append(window)
        for windows in by_shape.values():
            for first in range(0, len(windows), self._batch):
                yield from self._pass(prepared, windows[first : first + self._batch])

    @torch.inference_mode()
    def _pass(self, prepared: Prepared, windows: list[Window]) -> list[Encoded]:
        images, labels = zip(*(prepared.tensors(window) for window in windows), strict=True)
        batch = (images[0] if len(images) == 1 else torch.cat(images)).to(self._device)
        selected = self._select(torch.cat(labels).to(self._device))
        low = self._precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16) if low else nullcontext():
            levels = self._encode(batch, selected[-1].any(1))
        return [
            Encoded(window, [level[row : row + 1].float() for level in levels], [s[row : row + 1] for s in selected])
            for row, window in enumerate(windows)
        ]
