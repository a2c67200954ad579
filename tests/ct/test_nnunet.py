"""Any nnU-Net v2 model as the segmenter: left stays left, and nothing of its files is run."""

import importlib.util
import io
import json
import os
import pickle
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from kidney_phantom import expected, phantom
from pydantic import ValidationError
from tiny_nnunet import write_model

from config.settings import ModelSettings
from ct.anatomy import AnatomyMap, Segmenter, SegmenterWeightsError
from ct.segment import load_segmenter

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("nnunetv2") is None and os.environ.get("CI") != "true",
        reason="nnU-Net is not installed; run: deploy/install.sh test",
    ),
]

MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
NUMBERS = {name: i for i, name in enumerate(("aorta", "kidney_right", "sternum", "liver", "kidney_left"), start=1)}
LABELS = {
    "liver": "liver",
    "aorta": {"anatomy": "aorta"},
    "kidney_left": {"anatomy": "kidney", "side": "left"},
    "kidney_right": {"anatomy": "kidney", "side": "right"},
}
DESCRIBED = {"name": "Abdomen", "version": "2", "manufacturer": "A hospital", "orientation": "LPS", "labels": LABELS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's folder with one configuration; its checkpoint has what a training writes, NumPy numbers too."""
    folder = tmp_path_factory.mktemp("results") / "Dataset100_Abdomen"
    log = {"_best_ema": np.float64(0.9), "logging": {"mean_fg_dice": [np.float32(0.5)], "epoch_start": [1.5]}}
    write_model(folder / MODEL, NUMBERS, "nnUNetTrainerOfSomebody", log)
    return folder


def settings(folder: Path, file: Path, **changes: Any) -> ModelSettings:
    file.write_text(yaml.safe_dump({**DESCRIBED, **changes}))
    return ModelSettings(segmenter="nnunet", segmenter_dir=folder, segmenter_labels=file)


@pytest.fixture(scope="module")
def segmenter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return load_segmenter(settings(model, tmp_path_factory.mktemp("labels") / "labels.yaml"))


@pytest.fixture(scope="module")
def found(segmenter: Segmenter) -> AnatomyMap:
    printed = io.StringIO()
    with redirect_stdout(printed):
        result = segmenter.segment(phantom(), ("heart", "kidney", "liver"))
    assert printed.getvalue() == ""
    return result


def test_labels_lie_where_the_network_puts_them(found: AnatomyMap) -> None:
    """The network looks one voxel on along z, y and x; the map has the anatomies that the file names, no others."""
    assert found.names == ("kidney", "liver")
    np.testing.assert_array_equal(found.labels, expected((1, 1, 1)))
    assert found.measures["liver"].voxels == 16 * 26 * 14


def test_left_stays_left(found: AnatomyMap) -> None:
    sides = found.sides["kidney"]
    assert sides.measures["left"].voxels == 12 * 16 * 12
    assert sides.measures["right"].voxels == 14 * 16 * 10
    z, y, x = np.argwhere(sides.left).mean(axis=0) + [s.start for s in sides.box]
    assert (z, y, x) == pytest.approx((10.5, 46.5, 38.5))


@pytest.mark.parametrize(("orientation", "step"), [("RAS", (1, -1, -1)), ("LPI", (-1, 1, 1))])
def test_a_model_of_another_orientation_gets_the_scan_turned(
    model: Path, tmp_path: Path, orientation: str, step: tuple[int, int, int]
) -> None:
    segmenter = load_segmenter(settings(model, tmp_path / "labels.yaml", orientation=orientation))
    turned = segmenter.segment(phantom(), ("kidney", "liver"))
    np.testing.assert_array_equal(turned.labels, expected(step))


def test_identity_is_what_the_file_says_with_the_digest_of_all_files(
    segmenter: Segmenter, model: Path, tmp_path: Path
) -> None:
    identity = segmenter.identity
    assert (identity.name, identity.version, identity.manufacturer) == ("Abdomen", "2", "A hospital")
    assert len(bytes.fromhex(identity.digest)) == 32
    assert not identity.test_only
    same = load_segmenter(settings(model, tmp_path / "same.yaml")).identity
    assert same == identity
    other = load_segmenter(settings(model, tmp_path / "other.yaml", test_only=True)).identity
    assert other.test_only
    assert other.digest != identity.digest


class Payload:
    """What an attacker puts into a pickle."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_a_checkpoint_that_wants_to_run_code_is_refused(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "model"
    shutil.copytree(model, bad)
    checkpoint = bad / MODEL / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "logging": Payload(tmp_path / "owned")}, checkpoint)
    with pytest.raises(SegmenterWeightsError, match=r"checkpoint_final.pth: wants to run \S*mkdir.*not loaded"):
        load_segmenter(settings(bad, tmp_path / "labels.yaml"))
    checkpoint.write_bytes(pickle.dumps(Payload(tmp_path / "owned"), protocol=2))
    with pytest.raises(SegmenterWeightsError, match=r"not loaded|cannot be read"):
        load_segmenter(settings(bad, tmp_path / "labels.yaml"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("architecture", "network_class_name"), "subprocess.Popen", "subprocess.Popen"),
        (("architecture", "arch_kwargs", "nonlin"), "os.system", "os.system"),
        (("preprocessor_name",), "os", "preprocessor_name"),
        (("resampling_fn_data",), "sleep", "resampling_fn_data"),
        (("normalization_schemes",), ["os"], "normalization"),
        (("previous_stage",), "3d_lowres", "cascade"),
    ],
)
def test_plans_name_only_parts_of_nnunet(
    model: Path, tmp_path: Path, path: tuple[str, ...], value: object, named: str
) -> None:
    bad = tmp_path / "model"
    shutil.copytree(model, bad)
    file = bad / MODEL / "plans.json"
    plans = json.loads(file.read_text())
    node = plans["configurations"]["3d_fullres"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(json.dumps(plans))
    with pytest.raises(SegmenterWeightsError, match=named):
        load_segmenter(settings(bad, tmp_path / "labels.yaml"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": {"lunge": "lung"}}, "no 'lunge'; it has 'aorta'"),
        ({"labels": {"liver": "livre"}}, "no anatomy 'livre'; there are .*liver"),
        ({"labels": {"liver": {"anatomy": "liver", "side": "left"}}}, "liver has no sides"),
        ({"orientation": "XYZ"}, "orientation: "),
        ({"orientation": None}, "orientation: "),
        ({"input": {"spacing": [1, 1, 1], "window": [0, 1], "roi": [8, 8, 8]}}, "input: nnU-Net has it"),
    ],
)
def test_a_wrong_labels_file_is_named_with_what_is_wrong(
    model: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SegmenterWeightsError, match=named) as caught:
        load_segmenter(settings(model, tmp_path / "labels.yaml", **changes))
    assert str(tmp_path / "labels.yaml") in str(caught.value)


def test_a_folder_without_one_model_is_named_with_the_cure(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SegmenterWeightsError, match=r"there is none; name the folder TRAINER__PLANS__CONFIGURATION"):
        load_segmenter(settings(tmp_path, tmp_path / "labels.yaml"))
    bad = tmp_path / "model"
    shutil.copytree(model, bad)
    shutil.copytree(bad / MODEL, bad / "other__nnUNetPlans__3d_fullres")
    with pytest.raises(SegmenterWeightsError, match=f"{MODEL}, other__"):
        load_segmenter(settings(bad, tmp_path / "labels.yaml"))
    (bad / MODEL / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(SegmenterWeightsError, match=r"no fold has a checkpoint_final.pth"):
        load_segmenter(settings(bad / MODEL, tmp_path / "labels.yaml"))
    with pytest.raises(SegmenterWeightsError, match=r"model.segmenter_labels"):
        load_segmenter(ModelSettings(segmenter="nnunet", segmenter_dir=model, segmenter_labels=tmp_path / "no.yaml"))


def test_weights_of_another_network_are_refused(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "model"
    shutil.copytree(model, bad)
    dataset = bad / MODEL / "dataset.json"
    content = json.loads(dataset.read_text())
    dataset.write_text(json.dumps({**content, "labels": {**content["labels"], "spleen": 6}}))
    with pytest.raises(SegmenterWeightsError, match="do not fit the network"):
        load_segmenter(settings(bad, tmp_path / "labels.yaml"))
    dataset.write_text(json.dumps({**content, "channel_names": {"0": "CT", "1": "PET"}}))
    with pytest.raises(SegmenterWeightsError, match="a CT has one"):
        load_segmenter(settings(bad, tmp_path / "labels.yaml"))


@pytest.mark.parametrize("provider", ["nnunet", "monai"])
def test_settings_want_folder_and_labels(provider: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs `segmenter_dir` and `segmenter_labels`"):
        ModelSettings.model_validate({"segmenter": provider, "segmenter_dir": tmp_path})
