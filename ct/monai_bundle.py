"""A MONAI bundle (docs.monai.io, MONAI Bundle specification) as a segmenter.

A bundle's configuration is a program: MONAI runs every `$` expression in it. None is run here. Only the description
of the network is read, its class must be one of a list, its arguments plain values; spacing, window and sliding window
come from the labels file, and the weights from safetensors or PyTorch's weights-only loader.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from monai.inferers import sliding_window_inference
from monai.networks import nets
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ct.anatomy import AlgorithmIdentity, AnatomyMap, SegmenterWeightsError, digest_of
from ct.bundled import upsample_labels
from ct.precision import half_on_gpu
from ct.resample import resample_hu
from ct.segmenter_file import Classes, LabelMap, NetworkInput, SegmenterFile, read_segmenter_file
from ct.volume import Volume

NETWORKS = ("AttentionUnet", "BasicUNet", "DynUNet", "SegResNet", "SwinUNETR", "UNet", "UNETR", "VNet")
"""Of `monai.networks.nets`; each answers with the logits of all classes, background first."""
_TARGET = re.compile(r"(?:monai\.networks\.nets\.(?:\w+\.)?)?(\w+)")
_OVERLAP = 0.25


class MonaiBundle:
    """`Segmenter` with the network of a bundle: its class is the most probable one, after a softmax."""

    def __init__(self, folder: Path, labels: Path, device: str = "cpu") -> None:
        """`folder`: of the bundle, with configs/ and models/. Raises SegmenterWeightsError."""
        self._described = read_segmenter_file(labels)
        if self._described.input is None:
            raise SegmenterWeightsError(
                f"{labels}: input: missing; write spacing, window and roi of the bundle's own transforms there"
            )
        self._input: NetworkInput = self._described.input
        config, metadata = _config(folder), folder / "configs" / "metadata.json"
        channels = _channels(metadata)
        weights = _weights_file(folder)
        self._map = LabelMap.of(labels, self._described, channels)
        self._device = torch.device(device)
        self._network = _network(config, weights).eval().to(self._device)
        self._classes = max(number for numbers in channels.values() for number in numbers) + 1
        self._try(folder)
        self._digest = digest_of([weights, config, metadata, labels])

    @property
    def identity(self) -> AlgorithmIdentity:
        return self._described.identity(self._digest)

    def segment(self, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        """Label those of `anatomies` that the labels file names, on the volume's grid; the map has no other names."""
        classes = self._segmented(volume, self._described)
        return self._map.anatomy_map(volume, classes, anatomies, self.identity)

    def _segmented(self, volume: Volume, described: SegmenterFile) -> Classes:
        """Class numbers [z, y, x] on the volume's grid."""
        x, y, z = self._input.spacing
        spacing = (z, y, x)
        hu = resample_hu(np.flip(volume.hu, described.flipped), volume.spacing, spacing, antialias=False)
        (low, high), (bottom, top) = self._input.window, self._input.scaled_to
        scaled = np.clip((hu - low) / (high - low), 0.0, 1.0) * (top - bottom) + bottom
        image = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 1, 0), dtype=np.float32))[None, None]
        with torch.inference_mode(), half_on_gpu(str(self._device)):
            logits = sliding_window_inference(
                image, self._input.roi, 1, self._network, _OVERLAP, "gaussian", sw_device=self._device, device="cpu"
            )
            assert isinstance(logits, Tensor)
            probabilities = logits[0].float().softmax(0).permute(0, 3, 2, 1).contiguous()
        wanted: list[int | None] = list(range(1, self._classes))
        classes = upsample_labels(probabilities, spacing, wanted, volume.grid.shape, volume.spacing)
        return np.ascontiguousarray(np.flip(classes, described.flipped))

    def _try(self, folder: Path) -> None:
        """One window of air; SegmenterWeightsError if the answer is not one probability a class and voxel."""
        window = torch.full((1, 1, *self._input.roi), self._input.scaled_to[0], device=self._device)
        try:
            with torch.inference_mode():
                answer = self._network(window)
        except (RuntimeError, ValueError) as error:
            raise SegmenterWeightsError(
                f"{folder}: its network does not take one channel of {self._input.roi} voxels "
                f"({' '.join(str(error).split())[:200]}); input.roi must be the size it was trained on"
            ) from error
        if not isinstance(answer, Tensor) or answer.shape != (1, self._classes, *self._input.roi):
            raise SegmenterWeightsError(
                f"{folder}: its network does not answer with the {self._classes} classes of metadata.json,  one a "
                "channel; only such bundles can be used"
            )


def _config(folder: Path) -> Path:
    """configs/inference.json, or .yaml."""
    for name in ("inference.json", "inference.yaml", "inference.yml"):
        if (folder / "configs" / name).is_file():
            return folder / "configs" / name
    raise SegmenterWeightsError(
        f"{folder / 'configs' / 'inference.json'}: missing; name the folder of a MONAI bundle in model.segmenter_dir"
    )


def _read(file: Path) -> dict[str, Any]:
    """JSON or YAML, which JSON is. Raises SegmenterWeightsError."""
    try:
        content = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SegmenterWeightsError(
            f"{file}: cannot be read ({' '.join(str(error).split())}); copy the bundle again"
        ) from error
    if not isinstance(content, dict):
        raise SegmenterWeightsError(f"{file}: not a file of a MONAI bundle; copy the bundle again")
    return content


def _channels(metadata: Path) -> dict[str, tuple[int, ...]]:
    """Name of each class but the background -> its number. Raises SegmenterWeightsError."""
    try:
        (output,) = _read(metadata)["network_data_format"]["outputs"].values()
        channels: dict[str, tuple[int, ...]] = {
            str(name): (int(number),) for number, name in output["channel_def"].items() if int(number) > 0
        }
        if not channels:
            raise ValueError("no class")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SegmenterWeightsError(
            f"{metadata}: no channel_def of one output in network_data_format; the classes cannot be told apart"
        ) from error
    if not 1 <= max(channels.values())[0] <= 255:
        raise SegmenterWeightsError(f"{metadata}: channel_def: class numbers must be 1 to 255")
    return channels


def _network(config: Path, weights: Path) -> nn.Module:
    """The network that `config` describes, with its weights. Raises SegmenterWeightsError."""
    definition = _read(config).get("network_def")
    if not isinstance(definition, dict):
        raise SegmenterWeightsError(f"{config}: no network_def; its network cannot be known without running the bundle")
    target = _TARGET.fullmatch(str(definition.get("_target_")))
    if target is None or target[1] not in NETWORKS:
        raise SegmenterWeightsError(
            f"{config}: network_def: {definition.get('_target_')!r} is not run; allowed: {', '.join(NETWORKS)}"
        )
    arguments = {key: value for key, value in definition.items() if key not in ("_target_", "_desc_")}
    _check_plain(arguments, config, "network_def")
    try:
        network: nn.Module = getattr(nets, target[1])(**arguments)
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise SegmenterWeightsError(f"{config}: network_def: MONAI cannot build it: {error}") from error
    state = _state(weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise SegmenterWeightsError(
            f"{weights}: not weights of the network in {config.name} ({' '.join(str(error).split())[:200]})"
        ) from error
    return network


def _check_plain(value: object, config: Path, where: str) -> None:
    """SegmenterWeightsError for whatever MONAI would run, look up or build."""
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        raise SegmenterWeightsError(f"{config}: {where}: {value!r} is not run; write its value there")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(key, str) and key.startswith("_"):
            raise SegmenterWeightsError(f"{config}: {where}: {key} is not run; only plain values are allowed")
        _check_plain(item, config, f"{where}.{key}")


def _weights_file(folder: Path) -> Path:
    for name in ("model.safetensors", "model.pt"):
        if (folder / "models" / name).is_file():
            return folder / "models" / name
    raise SegmenterWeightsError(
        f"{folder / 'models'}: neither model.safetensors nor model.pt; copy the bundle's weights there (TorchScript, "
        "model.ts, is not run)"
    )


def _state(file: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises SegmenterWeightsError."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise SegmenterWeightsError(
            f"{file}: not a file of nothing but tensors ({' '.join(str(error).split())[:120]}), and is not loaded; "
            "save the network's state_dict as model.safetensors"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SegmenterWeightsError(f"{file}: not a state_dict; save the network's state_dict as model.safetensors")
    return content
