"""From folders to a provider of the node: resumed to the bit, every voxel in its place, read and written end to end."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dicom_sr
from config import load_vocabulary
from config.settings import ModelSettings
from ct.anatomy import Segmenter
from ct.nifti import read_volume
from ct.segment import load_segmenter
from fvlm import FVLM, Reader, load_release, save_release
from fvlm.config import FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig, TextConfig
from fvlm.tokenizer import load_tokenizer
from node.releases.check import check_release
from tests.dicom_sr.sr_synthetic import ct_headers
from tests.training.kipa22_cases import CONFIG, OBLIQUE, SMALL, SPACING, boxes, write_case, write_config, write_data
from training.cli import app
from training.kipa22.layout import ANATOMIES
from training.kipa22.report import Score, compare
from training.kipa22.run import train_kipa22
from training.kipa22.train import SegmenterTrainingError


class Cut(Exception):  # noqa: N818
    """Stands for a kill."""


@contextmanager
def _stages(title: str) -> Iterator[Callable[[int, int, float | None], None]]:
    def update(done: int, total: int, _: float | None) -> None:
        if title == "training" and done == 3 < total:
            raise Cut

    yield update


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("kipa22"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows the boxes."""
    folder = tmp_path_factory.mktemp("run")
    file = write_config(folder / "run.yaml", SMALL)
    _train(file, data, folder)
    return folder


def _train(file: Path, data: Path, out: Path) -> str:
    done = CliRunner().invoke(
        app, ["segmenter", "--preset", str(file), "--data", str(data), "--out", str(out), "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    return done.output


def test_a_killed_run_goes_on_with_the_same_result(data: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path / "run.yaml", CONFIG)
    with pytest.raises(Cut):
        train_kipa22(data, tmp_path / "cut", CONFIG, "cpu", _stages)
    assert [f.name for f in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-00000002.pt"]
    _train(file, data, tmp_path / "cut")
    write_config(file, CONFIG.model_copy(update={"workers": 1}))
    shown = _train(file, data, tmp_path / "whole")
    weights = [(tmp_path / run / "bundle/models/model.safetensors").read_bytes() for run in ("cut", "whole")]
    assert weights[0] == weights[1]
    assert (tmp_path / "cut" / "report.txt").read_text() in shown
    other = CONFIG.model_copy(update={"seed": 1})
    with pytest.raises(SegmenterTrainingError, match=r"belongs to another run, seed was 0, is 1; .*another --out"):
        train_kipa22(data, tmp_path / "cut", other, "cpu", _stages)
    (tmp_path / "cut/checkpoints/step-00000004.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"step-00000004\.pt: cannot be read .*; delete it"):
        train_kipa22(data, tmp_path / "cut", CONFIG, "cpu", _stages)


def test_the_report_of_held_out_cases(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert list(report["scores"]) == ["4"]
    assert [row["anatomy"] for row in report["rows"]] == list(ANATOMIES)
    assert min(row["dice"] for row in report["rows"]) > 0.8, report["rows"]
    assert max(row["hd95_mm"] for row in report["rows"]) < 7
    assert (run / "report.txt").read_text().splitlines()[2].split()[:2] == ["kidney", "1"]


def test_dice_and_distance_of_masks_that_are_known() -> None:
    """A slab of 10 voxels moved by two along z: 8 are common."""
    truth, found = np.zeros((20, 6, 6), np.uint8), np.zeros((20, 6, 6), np.uint8)
    truth[2:12], found[4:14] = 2, 2
    truth[15:17, 0, 0], found[18, 0, 0] = 3, 4
    scores = compare(found, truth, (2.5, 1.0, 1.0))
    assert scores["kidney"].dice == pytest.approx(0.8)
    assert scores["kidney"].hd95_mm == pytest.approx(5.0)
    assert scores["renal_artery"] == Score(0.0, None, found=False)
    assert scores["renal_tumor"] == Score(None, None, found=True)
    assert scores["renal_vein"] == Score(None, None, found=False)


def test_labels_lie_where_the_structures_are_on_an_oblique_image_stored_backwards(run: Path, tmp_path: Path) -> None:
    hu, truth = boxes(4)
    write_case(tmp_path, "oblique", hu, truth, OBLIQUE, stored=(-1, 1, -1))
    volume = read_volume(tmp_path / "image" / "oblique.nii.gz")
    found = _segmenter(run).segment(volume, ANATOMIES)
    assert found.names == ANATOMIES
    stored = nib.load(tmp_path / "label" / "oblique.nii.gz")
    array = np.asanyarray(stored.dataobj)
    for label, name in enumerate(ANATOMIES, start=1):
        expected = _centre(array == label, stored.affine) * (-1, -1, 1)  # RAS -> LPS
        at = _centre(found.labels == found.label(name), volume.grid.affine)
        assert np.linalg.norm(at - expected) < 0.7 * SPACING[0], name


def _centre(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    centre: np.ndarray = affine[:3] @ np.append(np.argwhere(mask).mean(axis=0), 1.0)
    return centre


def _settings(run: Path) -> ModelSettings:
    return ModelSettings(
        segmenter="monai", segmenter_dir=run / "bundle", segmenter_labels=run / "bundle" / "labels.yaml"
    )


def _segmenter(run: Path) -> Segmenter:
    return load_segmenter(_settings(run))


def test_the_four_structures_are_read_and_written(run: Path, tmp_path: Path) -> None:
    release = _release(tmp_path)
    hu, truth = boxes(4)
    headers = ct_headers(
        hu.shape[0], hu.shape[1], hu.shape[2], PixelSpacing=list(SPACING[1:]), SliceThickness=SPACING[0]
    )
    for index, header in enumerate(headers):
        header.ImagePositionPatient = [-20.0, -25.0, -100.0 + index * SPACING[0]]
    write_case(tmp_path, "case", hu, truth, np.array([[1, 0, 0, -20], [0, 1, 0, -25], [0, 0, 1, -100], [0, 0, 0, 1.0]]))
    volume = read_volume(tmp_path / "image" / "case.nii.gz")
    segmenter = _segmenter(run)
    assert segmenter.identity.test_only
    found = segmenter.segment(volume, release.model.config.anatomies)
    reading = release.read(volume, found)
    assert {anatomy.anatomy for anatomy in reading.anatomies} == set(ANATOMIES), reading.not_assessed
    assert {f.key for a in reading.anatomies for f in a.findings} == {
        prompt.finding for prompt in load_vocabulary().preset("kipa22").prompts
    }
    seg, *_, report = dicom_sr.write(reading, found, headers)
    assert "TEST MODEL" in str(seg.SeriesDescription) + str(seg.ContentDescription)
    segments = {str(item.SegmentLabel): int(item.SegmentNumber) for item in seg.SegmentSequence}
    back = hd.seg.Segmentation.from_dataset(seg).get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers], combine_segments=True, ignore_spatial_locations=True
    )
    for name in ANATOMIES:
        own = [number for label, number in segments.items() if load_vocabulary().anatomy(name).title in label]
        np.testing.assert_array_equal(np.isin(back, own), found.labels == found.label(name))
    said = {anatomy.anatomy for anatomy in dicom_sr.read(report).reading.anatomies}
    assert said == set(ANATOMIES)
    assert check_release(str(tmp_path / "release"), _settings(run)).notes == ("TEST MODEL - NOT FOR CLINICAL USE",)


def test_what_is_found_in_air_is_never_read(run: Path, tmp_path: Path) -> None:
    hu = np.full(boxes(0)[0].shape, -1000, np.int16)
    write_case(tmp_path, "air", hu, np.zeros(hu.shape, np.uint8))
    found = _segmenter(run).segment(read_volume(tmp_path / "image" / "air.nii.gz"), ANATOMIES)
    assert all(measure.doubt is not None for measure in found.measures.values())


def _release(folder: Path) -> Reader:
    """Random weights with the four anatomies and their findings."""
    preset = load_vocabulary().preset("kipa22")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "renal", "tumor", "cyst", "vein", "artery", "no", "."]
    (folder / "words").mkdir()
    (folder / "words" / "vocab.txt").write_text("\n".join(words) + "\n")
    model = ModelConfig(
        anatomies=preset.anatomies, image_shape=(16, 24, 24), patch=(4, 8, 8), width=48, depth=2, heads=3, levels=(0,),
        attention_heads=3, embedding=16,
        text=TextConfig(vocab_size=len(words), width=24, depth=1, heads=2, max_positions=32, max_tokens=16),
    )  # fmt: skip
    config = ReleaseConfig(
        name="renal",
        version="0.1",
        test_only=True,
        model=model,
        preprocess=PreprocessConfig(spacing=(6.0, 4.0, 4.0), window=(16, 24, 24), windows="whole"),
    )
    torch.manual_seed(0)
    findings = tuple(FindingConfig.of(prompt) for prompt in preset.prompts)
    save_release(
        folder / "release", FVLM(model).eval(), config, findings, load_tokenizer(folder / "words"), "# Renal\n"
    )
    return Reader(load_release(folder / "release"))
