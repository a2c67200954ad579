"""Evidence: the parts of a score add up to it, and they lie where the patient has them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_fvlm import make_model
from transformers import BertTokenizer

from ct.anatomy import AnatomyMap
from ct.volume import Grid, Volume
from fvlm import FVLM, Reader, load_release, save_release
from fvlm.config import FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig
from fvlm.evidence import Level, explain
from fvlm.heat import Heat

Scan = Callable[..., tuple[Volume, AnatomyMap]]
ORGANS = {
    "lung": (slice(4, 12), slice(10, 34), slice(8, 20)),
    "heart": (slice(6, 10), slice(40, 52), slice(30, 54)),
    "aorta": (slice(12, 16), slice(36, 44), slice(30, 36)),
}


def test_the_heat_of_a_finding_adds_up_to_its_score(release_folder: Path, scan: Scan) -> None:
    reading = Reader(load_release(release_folder)).read(*scan(ORGANS))
    telling = 0
    for anatomy in reading.anatomies:
        assert anatomy.attention is not None
        assert np.nansum(anatomy.attention.values.astype(float)) == pytest.approx(1.0, abs=2e-3)
        for finding in anatomy.findings:
            assert finding.heat is not None
            score = math.log(finding.probability / (1 - finding.probability))
            parts = finding.heat.values.astype(float)
            rounding = 5e-4 * np.nansum(np.abs(parts))
            assert np.nansum(parts) == pytest.approx(score, abs=rounding)
            telling += abs(score) > 10 * rounding
            assert np.array_equal(np.isnan(parts), np.isnan(anatomy.attention.values))
            assert 1 < np.isfinite(parts).sum() < parts.size
    assert telling


@pytest.fixture
def case(model: FVLM) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Tokens of each level [L, W], those of the anatomy [L], directions [F, E]."""
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randn(20, model.config.width, generator=generator) for _ in range(len(model.config.levels) + 1)]
    selected = torch.rand(20, generator=generator) < 0.6
    return tokens, selected, torch.randn(2, model.config.embedding, generator=generator)


@pytest.mark.parametrize("anatomy", [0, 2])
def test_parts_add_up_over_levels_and_heads(
    model: FVLM, case: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor], anatomy: int
) -> None:
    tokens, selected, directions = case
    every = torch.zeros(1, 3, 20, dtype=torch.bool)
    every[0, anatomy] = selected
    evidence = explain(model, [Level(level, selected) for level in tokens], (20, 1, 1), anatomy, directions)
    with torch.inference_mode():
        feature = model.pool_tokens([level[None] for level in tokens], [every] * len(tokens))[0][0, anatomy]
        scores = directions @ feature / model.temp
    assert evidence.contributions.nansum(1).tolist() == pytest.approx(scores.tolist(), abs=1e-4)
    assert evidence.attention.nansum().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(evidence.contributions.isfinite()[0], selected)


def test_a_part_belongs_to_its_token(model: FVLM, case: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]) -> None:
    """With attention that looks at all tokens alike, changing one token changes its own part and no other's.

    (All parts are divided by the length of the feature, which changes with any token.)
    """
    even = make_model(model.config, seed=3)
    with torch.no_grad():
        even.query_tokens.zero_()
        even.attention.in_proj_bias[: model.config.width].zero_()
    tokens, selected, directions = case
    changed = [level.clone() for level in tokens]
    at = int(selected.nonzero()[4])
    changed[1][at] += 3.0
    before, after = (
        explain(even, [Level(level, selected) for level in levels], (20, 1, 1), 1, directions).contributions
        for levels in (tokens, changed)
    )
    others = selected.clone()
    others[at] = False
    ratios = after[:, others] / before[:, others]
    assert ratios.std() < 1e-3
    assert (after[:, at] / before[:, at] - ratios.mean()).abs().min() > 0.01


def plain_model(config: ModelConfig) -> FVLM:
    """Tokens are the mean of their own voxels, in every channel another multiple, and all are looked at alike."""
    model = make_model(config, seed=5)
    with torch.no_grad():
        for block in model.visual_encoder.blocks:
            for layer in (block.attn.out_proj, block.mlp.linear2):
                layer.weight.zero_()
                layer.bias.zero_()
        embedding = model.visual_encoder.patch_embedding
        embedding.position_embeddings.zero_()
        kernel = embedding.patch_embeddings.weight
        kernel.copy_(kernel[..., :1, :1, :1].expand_as(kernel).clone())
        model.query_tokens.zero_()
        model.attention.in_proj_bias.zero_()
    return model


def oblique(spacing: tuple[float, float, float]) -> np.ndarray:
    """An affine whose axes are turned about all three axes of the patient, away from the origin."""
    matrix = np.eye(3)[::-1] @ np.diag(spacing)
    for (a, b), angle in zip(((0, 1), (1, 2), (0, 2)), (0.2, -0.35, 0.1), strict=True):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, (31.0, -120.0, 440.0)
    return affine


@pytest.mark.parametrize("windows", ["whole", "organ"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("spot", [(9, 21, 50), (13, 44, 12)])
def test_a_bright_spot_is_hot_where_the_patient_has_it(
    tmp_path: Path,
    config: ModelConfig,
    tokenizer: BertTokenizer,
    scan: Scan,
    windows: str,
    turned: bool,
    spot: tuple[int, int, int],
) -> None:
    release = ReleaseConfig(
        name="plain",
        version="1",
        test_only=True,
        model=config,
        preprocess=PreprocessConfig(
            spacing=(3.1, 1.9, 2.3), window=(16, 32, 32), windows=windows, hu_window=(-1000, 1000), antialias=True
        ),
    )
    finding = FindingConfig(finding="lung.nodule", negative="No nodule.", positive="Nodules.")
    save_release(tmp_path / "plain", plain_model(config), release, [finding], tokenizer, "# Plain\n")
    spacing = (2.5, 1.2, 0.8)
    volume, anatomy_map = scan(
        {"lung": (slice(3, 18), slice(8, 50), slice(6, 60)), "heart": (slice(0, 0),) * 3, "aorta": (slice(0, 0),) * 3},
        shape=(20, 54, 70),
        spacing=spacing,
    )
    affine = oblique(spacing) if turned else volume.grid.affine
    grid = Grid(volume.grid.shape, spacing, affine)
    ball = (slice(spot[0] - 1, spot[0] + 2), slice(spot[1] - 2, spot[1] + 3), slice(spot[2] - 3, spot[2] + 4))
    volume.hu[:] = -1000  # the organ too: nothing but the spot is to be seen
    volume.hu[ball] = 1000
    volume = Volume(volume.hu, grid)
    anatomy_map = AnatomyMap(anatomy_map.labels, grid, anatomy_map.names, anatomy_map.algorithm, anatomy_map.measures)
    reading = Reader(load_release(tmp_path / "plain")).read(volume, anatomy_map)
    heat = reading.anatomies[0].findings[0].heat
    assert heat is not None
    assert heat.grid.spacing == pytest.approx((4 * 3.1, 8 * 1.9, 8 * 2.3))

    apart = np.abs(heat.values.astype(float) - np.nanmedian(heat.values))
    hottest = np.unravel_index(np.nanargmax(apart), apart.shape)
    there = affine @ [*spot, 1]
    # the spot lies in the hottest token: at most half a token from its centre, along each of the scan's axes
    away = np.linalg.inv(heat.grid.affine) @ there - [*hottest, 1]
    assert np.abs(away[:3]).max() < 0.5
    # on the scan's grid, the hottest voxel lies in that token's voxels, inside the organ
    organ = anatomy_map.labels == 1
    shown = Heat(apart.astype(np.float16), heat.grid).on(grid, organ)
    assert np.array_equal(np.isfinite(shown), organ)
    place = np.unravel_index(np.nanargmax(shown), shown.shape)
    distance = np.linalg.inv(heat.grid.affine) @ affine @ [*place, 1] - [*hottest, 1]
    assert np.abs(distance[:3]).max() < 0.5


def test_heat_between_tokens_is_trilinear_in_the_patient() -> None:
    """A heat that grows evenly through the patient is shown as such on any grid."""
    tokens = Grid((4, 5, 6), (12.0, 9.0, 10.0), oblique((12.0, 9.0, 10.0)))
    slope = np.array([0.02, -0.05, 0.03])

    def even(grid: Grid) -> np.ndarray:
        places = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
        return (places @ grid.affine[:3, :3].T + grid.affine[:3, 3]) @ slope

    start = tokens.affine @ [0.4, 0.3, 0.2, 1]
    other = oblique((2.0, 2.5, 1.5))
    other[:3, 3] = start[:3]
    grid = Grid((14, 10, 20), (2.0, 2.5, 1.5), other)
    shown = Heat(even(tokens).astype(np.float16), tokens).on(grid, np.ones(grid.shape, bool))
    assert shown.astype(float) == pytest.approx(even(grid), abs=0.03)
    assert np.ptp(even(grid)) > 1.0


def test_tokens_of_other_anatomies_do_not_cool_the_border() -> None:
    grid = Grid.axis_aligned((4, 4, 4), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0))
    values = np.full(grid.shape, np.nan, np.float16)
    values[1:3, 1:3, 1:3] = 2.0
    fine = Grid.axis_aligned((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    organ = np.zeros(fine.shape, bool)
    organ[6:25, 6:25, 6:25] = True
    shown = Heat(values, grid).on(fine, organ)
    assert shown[organ].tolist() == pytest.approx([2.0] * int(organ.sum()))
    assert np.isnan(shown[~organ]).all()
    assert np.isnan(Heat(values, grid).on(fine, np.zeros(fine.shape, bool))).all()


def test_heat_that_does_not_fit_is_refused() -> None:
    grid = Grid.axis_aligned((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="float16"):
        Heat(np.zeros((2, 3, 4), np.float32), grid)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="differ in shape"):
        Heat(np.zeros((2, 3, 4), np.float16), grid).on(grid, np.ones((2, 3, 5), bool))
