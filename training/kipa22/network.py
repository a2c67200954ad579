"""The network, its loss, and both as a run begins with them."""

from typing import Any

import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.networks.nets import DynUNet, UNet
from torch import Tensor, nn

from training.kipa22.config import SegmenterConfig
from training.kipa22.layout import CLASSES


def definition(config: SegmenterConfig) -> dict[str, Any]:
    """Of one of MONAI's networks, as plain values; without the heads that only training has."""
    resolutions = len(config.filters)
    common = {"spatial_dims": 3, "in_channels": 1, "out_channels": CLASSES}
    norm = ["INSTANCE", {"affine": True}]
    if config.network == "unet":
        halved = [2] * (resolutions - 1)
        return {"_target_": "UNet", **common, "channels": list(config.filters), "strides": halved, "norm": norm}
    strides = [1, *[2] * (resolutions - 1)]
    return {
        "_target_": "DynUNet",
        **common,
        "kernel_size": [3] * resolutions,
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": list(config.filters),
        "norm_name": norm,
    }


def build(config: SegmenterConfig, heads: int = 0) -> nn.Module:
    """Windowed image [B, 1, X, Y, Z] -> logits [B, classes, X, Y, Z]; in training with heads [B, heads + 1, ...]."""
    arguments = definition(config)
    kind = {"UNet": UNet, "DynUNet": DynUNet}[arguments.pop("_target_")]
    network: nn.Module = kind(**arguments, **({"deep_supervision": True, "deep_supr_num": heads} if heads else {}))
    return network


class SupervisedLoss:
    """Dice of the four structures + cross-entropy, of the full and of each coarser resolution (weights 1, 1/2, 1/4)."""

    def __init__(self) -> None:
        dice_ce = DiceCELoss(include_background=False, softmax=True, batch=True)
        self._loss = DeepSupervisionLoss(dice_ce, weight_mode="exp")

    def __call__(self, heads: Tensor, shares: Tensor) -> Tensor:
        """Logits [B, classes, X, Y, Z] or with heads [B, heads, classes, X, Y, Z]; shares [B, classes, X, Y, Z]."""
        outputs = heads.float().unbind(1) if heads.ndim > shares.ndim else (heads.float(),)
        loss: Tensor = self._loss(list(outputs), shares)
        return loss


def optimizer_of(network: nn.Module, config: SegmenterConfig) -> torch.optim.Optimizer:
    wanted = config.optimizer
    if wanted.kind == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=wanted.peak_lr, weight_decay=wanted.weight_decay)
    return torch.optim.SGD(
        network.parameters(), lr=wanted.peak_lr, momentum=0.99, nesterov=True, weight_decay=wanted.weight_decay
    )


def learning_rate(config: SegmenterConfig, step: int) -> float:
    """nnU-Net's polynomial fall."""
    return float(config.optimizer.peak_lr * (1 - step / config.steps) ** 0.9)
