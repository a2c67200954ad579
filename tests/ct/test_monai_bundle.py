"""A MONAI bundle as the segmenter: left stays left, and no expression of its configuration is run.

The network reads the class off the HU (100 HU a level) of the voxel that lies one voxel on along x, y and z.
"""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from kidney_phantom import expected, phantom
from monai.networks.nets import UNet
from safetensors.torch import save_file
from tiny_nnunet import LEVELS

from config.settings import ModelSettings
from ct.anatomy import SegmenterWeightsError
from ct.segment import load_segmenter
from ct.volume import Volume

NETWORK: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": len(LEVELS) + 1,
    "channels": [2, 2],
    "strides": [1],
    "act": None,
    "norm": None,
}
INFERENCE = {
    "imports": ["$import os"],
    "device": "$os.mkdir('owned')",
    "network_def": {"_target_": "UNet", **NETWORK},
    "network": "$@network_def.to(@device)",
}
CHANNELS = {"0": "background", **{str(i): name for i, name in enumerate(LEVELS, start=1)}}
METADATA = {"network_data_format": {"outputs": {"pred": {"num_channels": len(CHANNELS), "channel_def": CHANNELS}}}}
DESCRIBED: dict[str, Any] = {
    "name": "Bundle",
    "version": "0.5",
    "manufacturer": "A hospital",
    "orientation": "RAS",
    "labels": {
        "liver": "liver",
        "kidney_left": {"anatomy": "kidney", "side": "left"},
        "kidney_right": {"anatomy": "kidney", "side": "right"},
    },
    "input": {"spacing": [2.0, 1.5, 5.0], "window": [0, 100 * len(LEVELS)], "roi": [56, 64, 32]},
}


def _weights() -> dict[str, torch.Tensor]:
    """Logit of level j is 2 j x - j², so its maximum is at x = j."""
    network = UNet(**NETWORK)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        state = network.state_dict()
        state["model.0.conv.weight"][0, 0, 2, 2, 2] = float(len(LEVELS))
        for level in range(1, len(LEVELS) + 1):
            state["model.2.conv.weight"][0, level, 1, 1, 1] = 20.0 * level
            state["model.2.conv.bias"][level] = -10.0 * level**2
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(INFERENCE))
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    torch.save(_weights(), folder / "models" / "model.pt")
    monkeypatch.chdir(tmp_path)  # where the expression above would make its folder
    return folder


def settings(folder: Path, **changes: Any) -> ModelSettings:
    file = folder / "labels.yaml"
    file.write_text(yaml.safe_dump({**DESCRIBED, **changes}))
    return ModelSettings(segmenter="monai", segmenter_dir=folder, segmenter_labels=file)


@pytest.mark.parametrize(("orientation", "step"), [("RAS", (1, -1, -1)), ("LPS", (1, 1, 1)), ("LAI", (-1, -1, 1))])
def test_labels_lie_where_the_network_puts_them(bundle: Path, orientation: str, step: tuple[int, int, int]) -> None:
    found = load_segmenter(settings(bundle, orientation=orientation)).segment(
        phantom((5.0, 1.5, 2.0)), ("heart", "kidney", "liver")
    )
    assert found.names == ("kidney", "liver")
    np.testing.assert_array_equal(found.labels, expected(step))
    sides = found.sides["kidney"]
    assert sides.measures["left"].voxels == 12 * 16 * 12
    assert sides.measures["right"].voxels == 14 * 16 * 10
    x = np.argwhere(sides.left)[:, 2].mean() + sides.box[2].start
    assert x == pytest.approx(39.5 - step[2])
    assert not Path("owned").exists()


def test_a_grid_of_another_spacing_keeps_every_place(bundle: Path) -> None:
    """The network's grid is finer along z and coarser along y and x; borders move by half a voxel at most."""
    described = {**DESCRIBED["input"], "spacing": [3.0, 3.0, 4.0]}
    volume = phantom((5.0, 1.5, 2.0))
    volume = Volume(np.maximum(volume.hu, 0), volume.grid)
    found = load_segmenter(settings(bundle, input=described)).segment(volume, ("liver",))
    near = (slice(None), slice(0, 36), slice(0, 24))  # elsewhere lie the kidneys, whose borders look like the liver
    label, exact = found.labels[near] == 1, expected((0, 0, 0))[near] == 2
    moved = (np.argwhere(label).mean(axis=0) - np.argwhere(exact).mean(axis=0)) * volume.spacing
    np.testing.assert_allclose(moved, (-4.0, 3.0, 3.0), atol=1.5)


def test_identity_and_safetensors_before_pickles(bundle: Path) -> None:
    identity = load_segmenter(settings(bundle)).identity
    assert (identity.name, identity.version, identity.manufacturer) == ("Bundle", "0.5", "A hospital")
    assert not identity.test_only
    (bundle / "models" / "model.pt").write_bytes(b"never read")
    save_file(_weights(), bundle / "models" / "model.safetensors")
    other = load_segmenter(settings(bundle, test_only=True)).identity
    assert other.test_only
    assert other.digest != identity.digest


@pytest.mark.parametrize(
    ("definition", "named"),
    [
        ({"_target_": "os.system", "command": "mkdir owned"}, "'os.system' is not run; allowed: .*UNet"),
        ({"_target_": "monai.networks.nets.os.system"}, "not run"),
        ({"_target_": "monai.bundle.run"}, "not run"),
        ({"_target_": "UNet", **NETWORK, "out_channels": "$__import__('os').mkdir('owned')"}, "is not run; write"),
        ({"_target_": "UNet", **NETWORK, "out_channels": "@classes"}, "'@classes' is not run; write its value"),
        ({"_target_": "UNet", **NETWORK, "norm": {"_target_": "os.getcwd"}}, "network_def.norm: _target_ is not run"),
        ({"_target_": "UNet", "spatial_dims": 3}, "MONAI cannot build it"),
        ("$UNet()", "no network_def"),
        ({"_target_": "UNet", **NETWORK, "channels": [2, 3]}, "not weights of the network"),
    ],
)
def test_only_a_plain_network_of_monai_is_built(bundle: Path, definition: object, named: str) -> None:
    (bundle / "configs" / "inference.json").write_text(json.dumps({**INFERENCE, "network_def": definition}))
    with pytest.raises(SegmenterWeightsError, match=named):
        load_segmenter(settings(bundle))
    assert not Path("owned").exists()


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_weights_that_want_to_run_code_are_refused(bundle: Path) -> None:
    torch.save({"state_dict": _weights(), "more": Payload()}, bundle / "models" / "model.pt")
    with pytest.raises(SegmenterWeightsError, match=r"not loaded; save the network's state_dict as model\.safetensors"):
        load_segmenter(settings(bundle))
    (bundle / "models" / "model.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(SegmenterWeightsError, match="not loaded"):
        load_segmenter(settings(bundle))
    assert not Path("owned").exists()


def test_what_is_missing_or_does_not_fit_is_named(bundle: Path) -> None:
    with pytest.raises(SegmenterWeightsError, match="input: missing"):
        load_segmenter(settings(bundle, input=None))
    with pytest.raises(SegmenterWeightsError, match="lower end, then the upper end"):
        load_segmenter(settings(bundle, input={**DESCRIBED["input"], "window": [100, 0]}))
    with pytest.raises(SegmenterWeightsError, match="no 'lunge'"):
        load_segmenter(settings(bundle, labels={"lunge": "lung"}))
    metadata = bundle / "configs" / "metadata.json"
    short = {"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background", "1": "liver"}}}}}
    metadata.write_text(json.dumps(short))
    with pytest.raises(SegmenterWeightsError, match="does not answer with the 2 classes"):
        load_segmenter(settings(bundle, labels={"liver": "liver"}))
    metadata.write_text("{}")
    with pytest.raises(SegmenterWeightsError, match="no channel_def"):
        load_segmenter(settings(bundle))
    shutil.rmtree(bundle / "models")
    metadata.write_text(json.dumps(METADATA))
    with pytest.raises(SegmenterWeightsError, match=r"neither model.safetensors nor model.pt"):
        load_segmenter(settings(bundle))
    shutil.rmtree(bundle / "configs")
    with pytest.raises(SegmenterWeightsError, match=r"name the folder of a MONAI bundle in model.segmenter_dir"):
        load_segmenter(settings(bundle))
