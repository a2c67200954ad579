"""Half precision where it is fast and harmless: networks of segmenters on a GPU."""

from contextlib import AbstractContextManager, nullcontext

import torch


def half_on_gpu(device: str) -> AbstractContextManager[None]:
    """On `cuda`, networks multiply in float16 (autocast, as nnU-Net's predictor does); on the CPU nothing changes.

    Labels differ only where a network hesitates. Take scores out of it with `.float()` before they are compared.
    """
    return torch.autocast("cuda", torch.float16) if device.startswith("cuda") else nullcontext()
