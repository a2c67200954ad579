"""Cells: a level of tokens finer than the others, in features and in evidence."""

import pytest
import torch
from pydantic import ValidationError
from tiny_fvlm import make_model

from fvlm import FVLM
from fvlm.cells import Cells
from fvlm.config import CellsConfig, ModelConfig
from fvlm.evidence import Level, explain

CELLS = CellsConfig(windows=((0.0, 1.0), (0.4, 0.6)), channels=(8,), strides=((2, 2, 4),), blocks=1)


@pytest.fixture(scope="module")
def fine(config: ModelConfig) -> FVLM:
    """The tests' small model, tokens of 4 x 8 x 8 voxels, with cells of 2 x 2 x 4."""
    return make_model(ModelConfig.model_validate(config.model_dump() | {"cells": CELLS}))


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(2, 16, 32, 32, dtype=torch.uint8)
    labels[0, 3:9, 5:20, 6:17], labels[1, 6:7, 9:10, 11:12] = 1, 2
    return torch.rand(2, 1, 16, 32, 32, generator=generator), labels


def test_cells_are_one_more_level_on_their_own_grid(fine: FVLM) -> None:
    image, labels = _inputs()
    with torch.inference_mode():
        tokens = fine.encode_tokens(image)
        selected = fine.select(labels, len(tokens))
    assert [level.shape[1] for level in tokens] == [8 * 16 * 8, 64, 64, 64, 64]
    assert [level.shape[2] for level in selected] == [level.shape[1] for level in tokens]
    assert selected[0].sum((0, 2)).tolist() == [4 * 8 * 4, 1, 0]
    assert selected[0][1, 1].view(8, 16, 8)[3, 4, 2]


def test_features_heed_cells_and_tokens(fine: FVLM) -> None:
    """Each level has its share: a change of any changes the feature."""
    image, labels = _inputs()
    with torch.inference_mode():
        tokens = fine.encode_tokens(image)
        plain, present = fine.pool_anatomies(tokens, labels)
        assert torch.equal(present, torch.tensor([[True, False, False], [False, True, False]]))
        torch.testing.assert_close(plain, fine.anatomy_features(image, labels)[0])
        for index in range(len(tokens)):
            changed = [level + (1.0 if index == at else 0.0) for at, level in enumerate(tokens)]
            assert (fine.pool_anatomies(changed, labels)[0] - plain)[present].abs().max() > 1e-3


def test_windows_stretch_their_part_of_the_input() -> None:
    """What differs by little inside a narrow window differs by much for the cells, and not at all beyond it."""
    wide, narrow = (
        CellsConfig(windows=windows, channels=(4,), strides=((2, 2, 2),)) for windows in (((0, 1),), ((0.5, 0.6),))
    )
    image = torch.full((1, 1, 4, 4, 4), 0.52)
    seen = {}
    for name, config in (("wide", wide), ("narrow", narrow)):
        torch.manual_seed(0)
        cells = Cells(config, 8).eval()
        with torch.inference_mode():
            plain = cells.strided[0](torch.zeros_like(image))
            seen[name] = [
                (cells.features(image + step) - cells.features(image)).abs().max().item() for step in (0.05, 0.5)
            ]
            assert plain.abs().max() == 0
    assert seen["narrow"][0] > 5 * seen["wide"][0]
    torch.manual_seed(0)
    cells = Cells(narrow, 8).eval()
    with torch.inference_mode():
        assert torch.equal(cells.features(image + 0.2), cells.features(image + 0.4))


@pytest.mark.parametrize("anatomy", [0, 1])
def test_evidence_is_on_cells_and_adds_up(fine: FVLM, anatomy: int) -> None:
    image, labels = _inputs()
    directions = torch.randn(2, fine.config.embedding, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = fine.encode_tokens(image[anatomy : anatomy + 1])
        selected = fine.select(labels[anatomy : anatomy + 1], len(tokens))
        levels = [Level(level[0], own[0, anatomy]) for level, own in zip(tokens, selected, strict=True)]
        evidence = explain(fine, levels, (8, 16, 8), anatomy, directions)
        feature = fine.pool_tokens(tokens, selected)[0][0, anatomy]
    scores = directions @ feature / fine.temp
    assert evidence.contributions.nansum(1).tolist() == pytest.approx(scores.tolist(), abs=1e-3)
    assert evidence.attention.nansum().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(evidence.attention.isfinite(), levels[0].own)
    assert torch.equal(evidence.contributions.isfinite()[0], levels[0].own)


def test_what_a_token_adds_is_spread_over_its_own_cells(fine: FVLM) -> None:
    """All tokens alike to the query, but one: the cells of the anatomy in it are colder or hotter, all by the same."""
    image, labels = _inputs()
    directions = torch.randn(1, fine.config.embedding, generator=torch.Generator().manual_seed(1))
    even = make_model(fine.config, seed=3)
    with torch.no_grad():
        even.query_tokens.zero_()
        even.attention.in_proj_bias[: fine.config.width].zero_()
    with torch.inference_mode():
        tokens = [torch.ones_like(level[:1]) for level in even.encode_tokens(image[:1])]
        selected = even.select(labels[:1], len(tokens))
        own = [level[0, 0] for level in selected]
        at = int(own[-1].nonzero()[3])
        tokens[2][0, at] += 2.0
        heat = explain(even, [Level(t[0], o) for t, o in zip(tokens, own, strict=True)], (8, 16, 8), 0, directions)
    values = heat.contributions[0].view(4, 2, 4, 4, 4, 2)
    z, y, x = at // 16, at // 4 % 4, at % 4
    here = values[z, :, y, :, x].flatten()
    here = here[here.isfinite()]
    assert torch.allclose(here, here[0].expand_as(here))
    others = values.clone()
    others[z, :, y, :, x] = torch.nan
    others = others[others.isfinite()]
    assert (others - here[0]).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": ()}, "at least 1"),
        ({"windows": ((0.5, 0.5),)}, "must rise"),
        ({"strides": ((2, 2, 2), (2, 2, 2))}, "differ in length"),
        ({"strides": ((2, 2, 3),)}, "multiple of the cells"),
    ],
)
def test_impossible_cells_are_refused(config: ModelConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(config.model_dump() | {"cells": CELLS.model_dump() | change})
