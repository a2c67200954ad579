"""KiPA22's folders and the run's YAML file: what is odd is told with its reason before anything is learned."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tests.training.kipa22_cases import CONFIG, OBLIQUE, SHAPE, boxes, write_case, write_config, write_data
from training.cli import app
from training.kipa22.config import SegmenterConfigError, load_config
from training.kipa22.layout import Case, LayoutError, find_cases, read_case


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("kipa22"), 11)


def test_every_fifth_case_is_held_out_unless_there_is_a_labelled_test_folder(data: Path, tmp_path: Path) -> None:
    split = find_cases(data)
    assert [case.name for case in split.held_out] == ["4", "9"]
    assert [case.name for case in split.train] == ["0", "1", "2", "3", "5", "6", "7", "8", "10"]
    whole = tmp_path / "whole"
    write_data(whole, 2)
    with pytest.raises(LayoutError, match=r"NO_CASES.*2 cases; at least 5"):
        find_cases(whole)
    write_case(whole / "test", "7", *boxes(7))
    assert [case.name for case in find_cases(whole).held_out] == ["7"]
    assert [case.name for case in find_cases(whole).train] == ["0", "1"]


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"FOLDER_MISSING.*train/image: no such folder"):
        find_cases(tmp_path)
    write_data(tmp_path, 5)
    (tmp_path / "train" / "label" / "3.nii.gz").unlink()
    with pytest.raises(LayoutError, match=r"LABEL_MISSING: .*image/3\.nii\.gz: no file of that name in .*label;"):
        find_cases(tmp_path)
    (tmp_path / "train" / "image" / "3.nii.gz").unlink()
    for name in ("2", "4"):
        (tmp_path / "train" / "image" / f"{name}.nii.gz").unlink()
    with pytest.raises(LayoutError, match=r"IMAGE_MISSING: .*label/2\.nii\.gz.*, nor of 1 more"):
        find_cases(tmp_path)


def _odd(folder: Path, change: str) -> Case:
    hu, labels = boxes(0)
    if change == "label":
        labels[0, 0, 0] = 5
    elif change == "empty":
        labels[:] = 0
    elif change == "shifted":
        hu += 1024
    write_case(folder, "0", hu, labels)
    case = Case("0", folder / "image" / "0.nii.gz", folder / "label" / "0.nii.gz")
    if change == "shape":
        write_case(folder / "other", "0", hu[1:], labels[1:])
        case = Case("0", case.image, folder / "other" / "label" / "0.nii.gz")
    elif change == "place":
        write_case(folder / "other", "0", hu, labels, OBLIQUE)
        case = Case("0", case.image, folder / "other" / "label" / "0.nii.gz")
    elif change == "cut":
        case.image.write_bytes(case.image.read_bytes()[:900])
    return case


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        ("label", "UNKNOWN_LABEL", "label 5; known are 0 background, 1 renal_vein, 2 kidney, 3 renal_artery"),
        ("empty", "NOTHING_LABELLED", "remove the case"),
        ("shifted", "NOT_HU", "`intercept`"),
        ("shape", "OTHER_GRID", r"\(27, 28, 32\) \(z, y, x\).* the image \(28, 28, 32\)"),
        ("place", "OTHER_GRID", r"at \(31\.0, -52\.5, -410\.0\) mm"),
        ("cut", "UNREADABLE", "0.nii.gz: not a readable NIfTI file"),
    ],
)
def test_an_odd_case_is_refused_with_its_reason(tmp_path: Path, change: str, reason: str, text: str) -> None:
    with pytest.raises(LayoutError, match=text) as refused:
        read_case(_odd(tmp_path, change))
    assert refused.value.reason == reason
    assert str(refused.value).startswith(f"{reason}: ")


def test_shifted_numbers_become_hu_with_the_intercept(tmp_path: Path) -> None:
    volume, labels = read_case(_odd(tmp_path, "shifted"), -1024)
    hu, truth = boxes(0)
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_array_equal(labels, truth)
    assert volume.hu.shape == SHAPE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch": [24, 22, 24]}, "patch: 3 filters need multiples of 4, at least 8"),
        ({"deep_supervision": 2}, "deep_supervision: at most 1 with 3 filters"),
        ({"window": [500, -200]}, "window: the lower end"),
        ({"stepps": 3}, "stepps: Extra inputs"),
        ({"optimizer": {"peak_lr": 0}}, r"optimizer\.peak_lr: Input should be greater"),
    ],
)
def test_the_configuration_is_checked_before_the_first_step(
    data: Path, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**CONFIG.model_dump(mode="json"), **change}))
    with pytest.raises(SegmenterConfigError, match=named):
        load_config(str(file))
    arguments = ["segmenter", "--preset", str(file), "--data", str(data), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_what_the_command_cannot_do(tmp_path: Path) -> None:
    """And both shipped presets are whole."""
    assert load_config("kipa22").patch == (160, 128, 192)
    assert load_config("kipa22-phantom").test_only
    with pytest.raises(SegmenterConfigError, match="kipa23: no preset and no file; presets are kipa22-phantom, kipa22"):
        load_config("kipa23")
    file = str(write_config(tmp_path / "run.yaml", CONFIG))
    for more, said in (
        (["--preset", file], "--preset and --data go together"),
        (["--preset", file, "--data", str(tmp_path), "--steps", "3"], "it stands in the YAML file"),
        (["--preset", file, "--data", str(tmp_path)], "FOLDER_MISSING"),
    ):
        done = CliRunner().invoke(app, ["segmenter", "--out", str(tmp_path / "out"), *more])
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())
    shown = CliRunner().invoke(app, ["segmenter", "--help"])
    assert "--preset kipa22 --data KiPA22" in " ".join(shown.output.split())
