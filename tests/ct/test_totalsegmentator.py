"""TotalSegmentator as the segmenter: the real package on weights of the official layout, made here.

The network is a small nnU-Net whose answer is known: it reads the class off the HU (one level of 100 HU a class) of the
voxel that lies 3 mm further to the patient's right, front and head. So labels lie 3 mm left, behind and below of what
they name, and any confusion of directions moves them to the other side.
"""

import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from tiny_nnunet import LEVELS, let_package_run_alone, write_model

from config import load_vocabulary
from config.settings import ModelSettings
from config.totalsegmentator_classes import TOTAL_CLASSES
from ct.anatomy import AnatomyMap, SegmenterWeightsError
from ct.nnunet_predictor import ModelFiles, load_predictor
from ct.segment import load_segmenter
from ct.totalsegmentator import (
    TotalSegmentator,
    _nifti_affine,
    findable,
    merge_classes,
    needed_networks,
    network_numbers,
    quiet_package,
)
from ct.volume import Grid, Volume

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("totalsegmentator") is None and os.environ.get("CI") != "true",
    reason="TotalSegmentator is not installed; run: deploy/install.sh test",
)
pytestmark = pytest.mark.timeout(900)  # nnU-Net starts processes of its own, and each imports torch

MODEL = "Dataset297_TotalSegmentator_total_3mm_1559subj/nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"
ANATOMIES = ("kidney", "liver", "aorta", "lung", "heart")
BLOCKS = {
    "liver": (slice(4, 11), slice(8, 30), slice(4, 18)),
    "kidney": (slice(4, 10), slice(42, 60), slice(26, 38)),
    "aorta": (slice(14, 20), slice(30, 50), slice(22, 32)),
    "lung": (slice(14, 21), slice(6, 24), slice(6, 17)),
}
"""Where each anatomy is put, in voxels [z, y, x]; none has a mirror image."""


def _volume() -> Volume:
    """Blocks in air, and a corner full of every level at random; 5 x 1.5 x 2 mm."""
    hu = np.full((24, 66, 50), -1000, dtype=np.int16)
    for anatomy, class_name in (("liver", "liver"), ("kidney", "kidney_left"), ("aorta", "aorta")):
        hu[BLOCKS[anatomy]] = 100 * (LEVELS.index(class_name) + 1)
    hu[BLOCKS["lung"]] = 500
    levels = np.random.default_rng(5).integers(0, len(LEVELS) + 1, (3, 3, 3))
    hu[15:24, 48:66, 32:50] = np.kron(100 * levels, np.ones((3, 6, 6)))
    return Volume(hu, Grid.axis_aligned(hu.shape, (5.0, 1.5, 2.0), (-37.0, 12.0, -400.0)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TOTALSEG_WEIGHTS_PATH with the fast model in the official layout."""
    from totalsegmentator.map_to_binary import class_map

    folder = tmp_path_factory.mktemp("weights")
    numbers = {name: number for number, name in class_map["total"].items()}
    assert len(numbers) == 117
    write_model(folder / MODEL, numbers, "nnUNetTrainer_4000epochs_NoMirroring")
    return folder


@dataclass
class Network:
    """What this process asked of the network: names looked up and addresses connected to."""

    asked: list[str] = field(default_factory=list)


@contextmanager
def _no_network() -> Iterator[Network]:
    """Record and refuse look-ups and internet connections (local sockets of multiprocessing may pass)."""
    network, connect = Network(), socket.socket.connect

    def refuse_lookup(host: object, *_args: object, **_kwargs: object) -> NoReturn:
        network.asked.append(str(host))
        raise socket.gaierror("no network in this test")

    def refuse_connection(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            network.asked.append(str(address))
            raise ConnectionRefusedError("no network in this test")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse_lookup)
        patch.setattr(socket.socket, "connect", refuse_connection)
        yield network


@dataclass
class Run:
    """One segmentation by the provider, and what it did beside."""

    volume: Volume
    found: AnatomyMap
    asked: list[str]
    settings: list[dict[str, Any]]
    """The package's settings at each point where it would send statistics."""
    printed: str


@pytest.fixture(scope="module")
def run(weights: Path) -> Run:
    import totalsegmentator.python_api as package
    from totalsegmentator.config import get_config

    segmenter = load_segmenter(
        ModelSettings(segmenter="totalsegmentator", totalsegmentator_weights=weights, totalsegmentator_fast=True)
    )
    volume, settings, printed, send = _volume(), [], io.StringIO(), package.send_usage_stats

    def recorded_send(*args: object) -> None:
        settings.append(get_config())
        send(*args)

    with pytest.MonkeyPatch.context() as patch, _no_network() as network, redirect_stdout(printed):
        patch.setattr(package, "send_usage_stats", recorded_send)
        found = segmenter.segment(volume, ANATOMIES)
    return Run(volume, found, network.asked, settings, printed.getvalue())


def _reference(volume: Volume, weights: Path, folder: Path, *, fast: bool = True) -> npt.NDArray[np.uint8]:
    """Class numbers [z, y, x] by the package itself, from a NIfTI file in RAS+ made from the patient's geometry."""
    from totalsegmentator.python_api import totalsegmentator

    first = volume.grid.affine @ [0, 65, 49, 1]  # the most posterior and left corner: RAS+ starts there
    affine = np.diag([2.0, 1.5, 5.0, 1.0])
    affine[:3, 3] = (-first[0], -first[1], first[2])
    image = folder / "ct.nii.gz"
    nib.save(nib.Nifti1Image(np.flip(volume.hu, (1, 2)).transpose(2, 1, 0).copy(), affine), image)
    (folder / "config.json").write_text(json.dumps({"send_usage_stats": False, "statistics_disclaimer_shown": True}))
    with pytest.MonkeyPatch.context() as patch:
        let_package_run_alone(weights)
        patch.setenv("TOTALSEG_HOME_DIR", str(folder))
        patch.setenv("TOTALSEG_WEIGHTS_PATH", str(weights))
        found = totalsegmentator(image, None, ml=True, fast=fast, device="cpu", quiet=True, nr_thr_saving=1)
    return np.flip(found.get_fdata().astype(np.uint8).transpose(2, 1, 0), (1, 2))


@needs_package
@pytest.mark.slow
def test_labels_are_those_of_the_package_voxel_for_voxel(run: Run, weights: Path, tmp_path: Path) -> None:
    from totalsegmentator.map_to_binary import class_map

    numbers = {name: number for number, name in class_map["total"].items()}
    reference = _reference(run.volume, weights, tmp_path)
    assert {class_map["total"][number] for number in np.unique(reference) if number} == set(LEVELS)
    expected = np.zeros(run.volume.grid.shape, dtype=np.uint8)
    for label, classes in enumerate(
        (("kidney_left", "kidney_right"), ("liver",), ("aorta",), ("lung_upper_lobe_left", "lung_lower_lobe_right")), 1
    ):
        expected[np.isin(reference, [numbers[name] for name in classes])] = label
    assert run.found.labels.dtype == np.uint8
    assert run.found.grid is run.volume.grid
    np.testing.assert_array_equal(run.found.labels, expected)


@needs_package
@pytest.mark.parametrize("anatomy", sorted(BLOCKS))
def test_directions_of_the_patient_are_kept(run: Run, anatomy: str) -> None:
    """The label of a block lies 3 mm further left, posterior and inferior, on the side where the block is."""
    labels = run.found.labels == run.found.label(anatomy)
    labels[13:, 46:, 30:] = False  # the random corner
    grid = run.volume.grid
    block = np.zeros(grid.shape, dtype=bool)
    block[BLOCKS[anatomy]] = True
    moved_zyx = (np.argwhere(labels).mean(axis=0) - np.argwhere(block).mean(axis=0)) * grid.spacing
    np.testing.assert_allclose(moved_zyx, (-3.0, 3.0, 3.0), atol=2.0)


@needs_package
def test_measures_are_filled(run: Run) -> None:
    for label, name in enumerate(ANATOMIES, start=1):
        measured = run.found.measures[name]
        assert measured.voxels == np.count_nonzero(run.found.labels == label)
        assert measured.volume_ml == pytest.approx(measured.voxels * 0.015)
    assert run.found.measures["liver"].voxels > 1000
    assert run.found.measures["heart"].voxels == 0


@needs_package
def test_no_usage_statistics_and_nothing_printed(run: Run) -> None:
    from totalsegmentator.config import send_usage_stats

    assert [found["send_usage_stats"] for found in run.settings] == [False]
    assert run.asked == []
    assert run.printed == ""
    assert not {"TOTALSEG_HOME_DIR", "TOTALSEG_WEIGHTS_PATH"} & set(os.environ)
    with _no_network() as network:  # the package does send when it is not told otherwise, and that is seen
        send_usage_stats({"send_usage_stats": True, "totalseg_id": "none", "prediction_counter": 1}, {
            "task": "total", "fast": True, "preview": False, "multilabel": True, "roi_subset": None,
            "statistics": False, "radiomics": False,
        })  # fmt: skip
    assert network.asked


@needs_package
def test_identity_names_version_and_weights(run: Run, weights: Path, tmp_path: Path) -> None:
    identity = run.found.algorithm
    assert identity.name == "TotalSegmentator total 3 mm"
    assert identity.version == importlib.metadata.version("TotalSegmentator")
    assert len(bytes.fromhex(identity.digest)) == 32
    assert not identity.test_only
    assert TotalSegmentator(weights, fast=True, device="cpu").identity == identity
    for name in ("fold_0/checkpoint_final.pth", "plans.json"):
        other = tmp_path / name.replace("/", "-")
        shutil.copytree(weights, other)
        changed = bytearray((other / MODEL / name).read_bytes())
        changed[-1] ^= 1
        (other / MODEL / name).write_bytes(changed)
        assert TotalSegmentator(other, fast=True, device="cpu").identity.digest != identity.digest


@needs_package
@pytest.mark.parametrize("missing", ["fold_0/checkpoint_final.pth", "plans.json", "dataset.json"])
def test_missing_weights_are_named_with_the_cure(weights: Path, tmp_path: Path, missing: str) -> None:
    part = tmp_path / "part"
    shutil.copytree(weights, part)
    segmenter = TotalSegmentator(part, fast=True, device="cpu")
    (part / MODEL / missing).unlink()
    with pytest.raises(SegmenterWeightsError, match="fvlm-node model fetch totalsegmentator --fast") as caught:
        TotalSegmentator(part, fast=True, device="cpu")
    assert str(part / MODEL / missing) in str(caught.value)
    with _no_network() as network, pytest.raises(SegmenterWeightsError, match="missing"):
        segmenter.segment(_volume(), ANATOMIES)
    assert network.asked == []


@needs_package
def test_weights_under_another_name_are_not_taken_for_them(weights: Path, tmp_path: Path) -> None:
    """The package would not find them either, and download."""
    folder = tmp_path / "renamed"
    shutil.copytree(weights, folder)
    (folder / MODEL).parent.rename(folder / "Dataset297_TotalSegmentator_total_3mm_1559subj_copy")
    with pytest.raises(SegmenterWeightsError, match="Dataset297_TotalSegmentator_total_3mm_1559subj/"):
        TotalSegmentator(folder, fast=True, device="cpu")
    with pytest.raises(SegmenterWeightsError, match=r"Dataset291_.*fetch totalsegmentator`"):
        TotalSegmentator(weights, fast=False, device="cpu")


def test_missing_package_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(SegmenterWeightsError, match=r"not installed; run: .*requirements/totalsegmentator\.txt"):
        TotalSegmentator(tmp_path, fast=True, device="cpu")


def test_the_environment_is_given_back(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TOTALSEG_HOME_DIR", "/home/of/the/user")
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    with quiet_package(Path("/weights")):
        home = Path(os.environ["TOTALSEG_HOME_DIR"])
        assert json.loads((home / "config.json").read_text())["send_usage_stats"] is False
        assert os.environ["TOTALSEG_WEIGHTS_PATH"] == "/weights"
        print("a package that talks")
    assert not home.exists()
    assert os.environ["TOTALSEG_HOME_DIR"] == "/home/of/the/user"
    assert "TOTALSEG_WEIGHTS_PATH" not in os.environ
    assert capsys.readouterr().out == ""


@needs_package
def test_each_anatomy_gets_exactly_its_classes() -> None:
    from totalsegmentator.map_to_binary import class_map

    names = class_map["total"]
    vocabulary = load_vocabulary()
    assert set(names.values()) == TOTAL_CLASSES
    anatomies = tuple(reversed(findable(tuple(anatomy.name for anatomy in vocabulary.anatomies))))
    not_found = {anatomy.name for anatomy in vocabulary.anatomies} - set(anatomies)
    assert not_found == {"face", "pulmonary_artery", "renal_artery", "renal_tumor", "renal_vein"}
    merged = merge_classes(np.arange(118, dtype=np.uint8).reshape(2, 59, 1), names, anatomies)
    assert merged.shape == (2, 59, 1)
    assert merged.dtype == np.uint8
    found = {name: {names[int(n)] for n in np.flatnonzero(merged == i)} for i, name in enumerate(anatomies, start=1)}
    whole = {
        anatomy.name: set(anatomy.totalsegmentator) for anatomy in vocabulary.anatomies if anatomy.totalsegmentator
    }
    assert found == whole | {"small_intestine": {"small_bowel"}}
    assert found["lung"] == {name for name in names.values() if name.startswith("lung_")}
    assert found["kidney"] == {"kidney_left", "kidney_right"}  # and not kidney_cyst_left
    assert merged.ravel()[0] == 0
    assert set(merge_classes(np.arange(118, dtype=np.uint8), names, ("spleen",))) == {0, 1}


def test_oblique_affine_keeps_every_point_of_the_patient() -> None:
    """Rotated 20 degrees about x and 10 about z: the same voxel is the same point, in RAS instead of LPS."""
    a, b = np.deg2rad(20.0), np.deg2rad(10.0)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    spacing = (5.0, 0.7, 0.8)
    affine = np.eye(4)
    affine[:3, :3] = (about_z @ about_x)[:, ::-1] * spacing
    affine[:3, 3] = (-150.0, -120.0, 40.0)
    nifti = _nifti_affine(Grid((10, 20, 30), spacing, affine))
    for z, y, x in ((0, 0, 0), (9, 0, 0), (0, 19, 0), (0, 0, 29), (3, 7, 11)):
        left, posterior, superior, _ = affine @ (z, y, x, 1)
        np.testing.assert_allclose(nifti @ (x, y, z, 1), (-left, -posterior, superior, 1))
    np.testing.assert_allclose(nib.affines.voxel_sizes(nifti), (0.8, 0.7, 5.0))
    assert nib.aff2axcodes(nifti) == ("L", "P", "S")
    assert np.linalg.det(nifti[:3, :3]) > 0


PARTS = {
    291: "Dataset291_TotalSegmentator_part1_organs_1559subj",
    292: "Dataset292_TotalSegmentator_part2_vertebrae_1532subj",
    293: "Dataset293_TotalSegmentator_part3_cardiac_1559subj",
    294: "Dataset294_TotalSegmentator_part4_muscles_1559subj",
    295: "Dataset295_TotalSegmentator_part5_ribs_1559subj",
}


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TOTALSEG_WEIGHTS_PATH with the five models of 1.5 mm; each finds those of LEVELS that are its classes."""
    from totalsegmentator.map_to_binary import class_map_5_parts, map_taskid_to_partname_ct

    folder = tmp_path_factory.mktemp("five")
    for number, name in PARTS.items():
        numbers = {what: i for i, what in class_map_5_parts[map_taskid_to_partname_ct[number]].items()}
        write_model(
            folder / name / "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres", numbers, "nnUNetTrainerNoMirroring"
        )
    return folder


@needs_package
def test_only_the_networks_of_the_anatomies_run_and_each_is_loaded_once(
    five: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aorta and liver need two of the five, the liver alone one; labels do not depend on the others."""
    import ct.totalsegmentator as provider

    loaded: list[str] = []

    def recorded(files: ModelFiles, *arguments: Any, **options: Any) -> Any:
        loaded.append(files.folder.parent.name)
        return load_predictor(files, *arguments, **options)

    monkeypatch.setattr(provider, "load_predictor", recorded)
    segmenter = TotalSegmentator(five, fast=False, device="cpu")
    volume = _volume()
    assert segmenter.identity.name == "TotalSegmentator total 1.5 mm"
    liver = segmenter.segment(volume, ("liver",))
    assert loaded == [PARTS[291]]
    both = segmenter.segment(volume, ("aorta", "liver"))
    assert loaded == [PARTS[291], PARTS[293]]
    again = segmenter.segment(volume, ("aorta", "liver"))
    assert loaded == [PARTS[291], PARTS[293]]
    assert liver.measures["liver"].voxels > 1000
    assert both.measures["aorta"].voxels > 1000
    np.testing.assert_array_equal(liver.labels == 1, both.labels == 2)
    np.testing.assert_array_equal(again.labels, both.labels)


@needs_package
@pytest.mark.slow
def test_labels_of_several_networks_are_those_of_the_package(
    five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's own call, told to run the same two of its five networks."""
    from totalsegmentator.map_tasks_config import TASK_CONFIGS
    from totalsegmentator.map_to_binary import class_map

    volume = _volume()
    found = TotalSegmentator(five, fast=False, device="cpu").segment(volume, ANATOMIES[1:3])
    monkeypatch.setitem(TASK_CONFIGS["total"]["sub_modes"]["default"], "task_id", [291, 293])
    reference = _reference(volume, five, tmp_path, fast=False)
    # The second network knows one level only, takes all higher ones for it, and paints over what the first one found.
    assert {class_map["total"][number] for number in np.unique(reference) if number} == {
        "liver",
        "kidney_left",
        "aorta",
    }
    np.testing.assert_array_equal(found.labels, merge_classes(reference, class_map["total"], ANATOMIES[1:3]))


@needs_package
def test_every_anatomy_finds_its_networks_and_none_needs_a_licence() -> None:
    from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
    from totalsegmentator.map_to_binary import commercial_models

    assert network_numbers(fast=False) == list(PARTS)
    assert network_numbers(fast=True) == [297]
    everything = findable(tuple(anatomy.name for anatomy in load_vocabulary().anatomies))
    assert not {"renal_vein", "renal_artery", "renal_tumor"} & set(everything)
    assert set(needed_networks(everything)) <= set(PARTS)
    assert all(needed_networks((name,)) for name in everything)
    assert needed_networks(("liver", "lung")) == [291]
    assert needed_networks(("heart", "rib")) == [293, 295]
    assert not TASK_CONFIGS["total"].get("commercial")
    for number in (*PARTS, 297):
        assert number not in commercial_models.values()
        assert not TASK_ID_WEIGHTS_CONFIGS[number].get("commercial")
    assert commercial_models  # there are such


@needs_package
@pytest.mark.usefixtures("run")
def test_the_package_is_as_before_after_a_scan() -> None:
    import totalsegmentator.nnunet as package
    from totalsegmentator.map_tasks_config import TASK_CONFIGS

    assert package.nnUNetv2_predict.__module__ == "totalsegmentator.nnunet"
    assert TASK_CONFIGS["total"]["sub_modes"]["default"]["task_id"] == list(PARTS)


@needs_package
@pytest.mark.slow
def test_a_scan_in_parts_gives_the_labels_of_the_whole_and_a_short_one_is_not_split(weights: Path) -> None:
    import totalsegmentator.python_api as package

    settings = ModelSettings(segmenter="totalsegmentator", totalsegmentator_weights=weights, totalsegmentator_fast=True)
    short = _volume()
    hu = np.tile(short.hu, (4, 1, 1))
    tall = Volume(hu, Grid.axis_aligned(hu.shape, (5.0, 1.5, 2.0), (-37.0, 12.0, -400.0)))
    split: list[bool] = []
    call = package.totalsegmentator

    def recorded(*arguments: Any, **options: Any) -> Any:
        split.append(options["force_split"])
        return call(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "totalsegmentator", recorded)
        frugal = load_segmenter(settings.model_copy(update={"frugal": True}))
        frugal.segment(short, ANATOMIES)
        parts = frugal.segment(tall, ANATOMIES)
        whole = load_segmenter(settings).segment(tall, ANATOMIES)
    assert split == [False, True, False]
    assert set(np.unique(whole.labels)) == {0, 1, 2, 3, 4}
    assert np.mean(parts.labels != whole.labels) < 0.001
