"""A model small enough for every test, and a scan with two block-shaped organs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_fvlm import WORDS, make_model
from transformers import BertTokenizer

from ct.anatomy import AlgorithmIdentity, AnatomyMap, AnatomyMeasure
from ct.volume import Grid, Volume
from fvlm import FVLM, save_release
from fvlm.config import FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig, TextConfig
from fvlm.tokenizer import load_tokenizer

SEGMENTER = AlgorithmIdentity("blocks", "1", "0" * 64)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig(
        anatomies=("lung", "heart", "aorta"),
        image_shape=(16, 32, 32),
        patch=(4, 8, 8),
        width=48,
        depth=4,
        heads=3,
        levels=(0, 1, 2),
        attention_heads=3,
        embedding=16,
        text=TextConfig(vocab_size=len(WORDS), width=24, depth=2, heads=2, max_positions=32, max_tokens=16),
    )


@pytest.fixture(scope="session")
def model(config: ModelConfig) -> FVLM:
    return make_model(config)


@pytest.fixture
def release_config(config: ModelConfig) -> ReleaseConfig:
    return ReleaseConfig(
        name="tiny",
        version="0.1",
        test_only=True,
        model=config,
        preprocess=PreprocessConfig(spacing=(4.0, 2.0, 2.0), window=(16, 32, 32), windows="whole"),
    )


@pytest.fixture
def findings() -> tuple[FindingConfig, ...]:
    return (
        FindingConfig(finding="lung.nodule", negative="No nodule.", positive="Nodules.", threshold=0.0),
        FindingConfig(
            finding="lung.emphysema",
            negative="No emphysema.",
            positive="Emphysema.",
            threshold=1.0,
            absent_below=1.0,
        ),
        FindingConfig(finding="heart.cardiomegaly", negative="No large heart.", positive="Large heart."),
    )


@pytest.fixture
def release_folder(
    tmp_path: Path,
    model: FVLM,
    release_config: ReleaseConfig,
    findings: tuple[FindingConfig, ...],
    tokenizer: BertTokenizer,
) -> Path:
    folder = tmp_path / "release"
    save_release(folder, model, release_config, findings, tokenizer, "# Tiny\nRandom weights.\n")
    return folder


Scan = Callable[..., tuple[Volume, AnatomyMap]]


@pytest.fixture
def scan() -> Scan:
    """`scan(boxes, shape, spacing)`: air at -1000 HU, each named box (six voxel bounds) at 40 HU."""

    def make(
        boxes: dict[str, tuple[slice, slice, slice]],
        shape: tuple[int, int, int] = (24, 64, 64),
        spacing: tuple[float, float, float] = (3.0, 1.0, 1.0),
    ) -> tuple[Volume, AnatomyMap]:
        grid = Grid.axis_aligned(shape, spacing, (0.0, 0.0, 0.0))
        hu = np.full(shape, -1000, dtype=np.int16)
        labels = np.zeros(shape, dtype=np.uint8)
        measures = {}
        for label, box in enumerate(boxes.values(), start=1):
            hu[box], labels[box] = 40, label
        for label, name in enumerate(boxes, start=1):
            voxels = int((labels == label).sum())
            measures[name] = AnatomyMeasure(voxels, voxels * grid.voxel_ml, 40.0)
        return Volume(hu, grid), AnatomyMap(labels, grid, tuple(boxes), SEGMENTER, measures)

    return make
