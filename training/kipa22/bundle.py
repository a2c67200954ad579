"""The trained network as a MONAI bundle with its labels file: a provider of the node (`model.segmenter: monai`)."""

import json
from pathlib import Path

import yaml
from safetensors.torch import save_file
from torch import nn

from ct.monai_bundle import MonaiBundle
from training.kipa22.config import SegmenterConfig
from training.kipa22.layout import ANATOMIES
from training.kipa22.network import build, definition

LABELS_FILE = "labels.yaml"


def write_bundle(network: nn.Module, config: SegmenterConfig, folder: Path) -> None:
    """configs/, models/model.safetensors and labels.yaml. A labels file that is there stays: it may be edited."""
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    inference = {"network_def": definition(config)}
    channels = {"0": "background", **{str(i): name for i, name in enumerate(ANATOMIES, start=1)}}
    outputs = {"pred": {"num_channels": len(channels), "channel_def": channels}}
    metadata = {"network_data_format": {"outputs": outputs}}
    for name, content in (("inference.json", inference), ("metadata.json", metadata)):
        (folder / "configs" / name).write_text(json.dumps(content, indent=1) + "\n")
    bare = build(config)
    trained = network.state_dict()
    bare.load_state_dict({key: trained[key] for key in bare.state_dict()})
    weights = {key: value.detach().cpu().clone().contiguous() for key, value in bare.state_dict().items()}
    partial = folder / "models" / "model.part"
    save_file(weights, partial)
    partial.replace(folder / "models" / "model.safetensors")
    labels = folder / LABELS_FILE
    if not labels.is_file():
        labels.write_text(yaml.safe_dump(_described(config), sort_keys=False))


def _described(config: SegmenterConfig) -> dict[str, object]:
    return {
        "name": config.name,
        "version": "1",
        "manufacturer": "trained by fVLM Node",
        "test_only": config.test_only,
        "orientation": "LPS",
        "labels": {name: name for name in ANATOMIES},
        "input": {"spacing": list(config.spacing), "window": list(config.window), "roi": list(config.patch)},
    }


def load_bundle(folder: Path, device: str = "cpu") -> MonaiBundle:
    """As the node loads it. Raises SegmenterWeightsError."""
    return MonaiBundle(folder, folder / LABELS_FILE, device)
