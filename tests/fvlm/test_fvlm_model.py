"""The architecture against plain, slow ways of writing the same thing."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import ValidationError
from tiny_fvlm import make_model

from fvlm import FVLM
from fvlm.config import ModelConfig
from fvlm.model import tokens_of_anatomies


def inputs(batch: int = 3, shape: tuple[int, int, int] = (16, 32, 32)) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and labels in which patient 0 has no label 2."""
    random = torch.Generator().manual_seed(7)
    image = torch.rand((batch, 1, *shape), generator=random)
    labels = torch.zeros((batch, *shape), dtype=torch.uint8)
    labels[:, 2:9, 3:20, 4:30] = 1
    labels[1:, 5:12, 10:14, 9:25] = 2
    labels[:, 14, 30, 1:9] = 3
    return image, labels


@pytest.mark.parametrize("anatomies", [1, 4, 15, 36, 62])
def test_any_voxel_selects_its_token(anatomies: int) -> None:
    random = torch.Generator().manual_seed(anatomies)
    labels = torch.randint(0, 256, (2, 12, 20, 24), generator=random, dtype=torch.uint8)
    labels *= torch.rand(labels.shape, generator=random) < 0.05
    patch = (3, 5, 8)
    pooled = [F.max_pool3d((labels == k + 1).float(), patch, patch).flatten(1) > 0 for k in range(anatomies)]
    assert torch.equal(tokens_of_anatomies(labels, patch, anatomies), torch.stack(pooled, 1))


def test_anatomy_attention_is_multihead_attention_over_the_selected_tokens(model: FVLM, config: ModelConfig) -> None:
    """The reference: per patient and organ, `nn.MultiheadAttention` over the organ's tokens of all levels."""
    image, labels = inputs()
    peer = torch.nn.MultiheadAttention(config.width, config.attention_heads, batch_first=True).eval()
    peer.load_state_dict(model.attention.state_dict())
    with torch.inference_mode():
        features, present = model.anatomy_features(image, labels)
        tokens = model.encode_tokens(image)
        selected = tokens_of_anatomies(labels, config.patch, 3)
        for patient in range(3):
            for organ in range(3):
                chosen = torch.cat([level[patient][selected[patient, organ]] for level in tokens])[None]
                if not chosen.numel():
                    assert not present[patient, organ]
                    assert not features[patient, organ].any()
                    continue
                pooled = peer(model.query_tokens[organ][None, None], chosen, chosen)[0][0, 0]
                expected = F.normalize(model.vision_projs[organ](pooled), dim=-1)
                torch.testing.assert_close(features[patient, organ], expected, atol=2e-5, rtol=0)
    assert present.tolist() == [[True, False, True], [True, True, True], [True, True, True]]


def test_batched_equals_one_by_one_and_is_deterministic(model: FVLM) -> None:
    image, labels = inputs()
    with torch.inference_mode():
        batched = model.anatomy_features(image, labels)[0]
        again = model.anatomy_features(image, labels)[0]
        single = torch.cat([model.anatomy_features(image[i : i + 1], labels[i : i + 1])[0] for i in range(3)])
    assert torch.equal(batched, again)
    torch.testing.assert_close(batched, single, atol=1e-5, rtol=0)


def test_an_organ_is_blind_to_the_other_masks(model: FVLM) -> None:
    image, labels = inputs()
    alone = torch.where(labels == 1, labels, 0)
    with torch.inference_mode():
        together, apart = model.anatomy_features(image, labels)[0], model.anatomy_features(image, alone)[0]
    torch.testing.assert_close(together[:, 0], apart[:, 0], atol=1e-6, rtol=0)


def test_text_padding_changes_nothing(model: FVLM) -> None:
    ids = torch.tensor([[2, 5, 6, 11, 3]])
    padded = F.pad(ids, (0, 9))
    with torch.inference_mode():
        plain = model.text_features(ids, torch.ones_like(ids))
        both = model.text_features(
            torch.cat([padded, torch.tensor([[2, *[8] * 12, 3]])]),
            torch.stack([padded[0] > 0, torch.ones(14) > 0]).long(),
        )
    torch.testing.assert_close(both[:1], plain, atol=1e-5, rtol=0)
    assert plain.norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("channels", [(8,), (8, 12)])
def test_conv_stem_keeps_the_token_grid_and_learns(config: ModelConfig, channels: tuple[int, ...]) -> None:
    changed = {"stem": "conv", "stem_channels": channels, "stem_strides": ((2, 4, 2), (2, 2, 4))[: len(channels)]}
    model = make_model(ModelConfig.model_validate(config.model_dump() | changed)).train()
    image, labels = inputs()
    assert [tuple(level.shape) for level in model.encode_tokens(image)] == [(3, 64, 48)] * 4
    features, present = model.anatomy_features(image, labels)
    features[present][:, 0].sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None and not name.startswith("text_")]
    assert silent == ["temp"]
    weight = model.visual_encoder.patch_embedding.stem[0].weight
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


def test_positions_are_resized_only_for_another_grid(model: FVLM, config: ModelConfig) -> None:
    embedding = model.visual_encoder.patch_embedding
    assert embedding.positions(config.grid) is embedding.position_embeddings
    taller = embedding.positions((4, 6, 4)).detach().view(4, 6, 4, -1)
    table = embedding.position_embeddings.detach().view(4, 4, 4, -1)
    torch.testing.assert_close(taller[:, 0], table[:, 0])
    torch.testing.assert_close(taller[:, 1], table[:, 0] / 2 + table[:, 1] / 2)


def test_dropout_is_for_training_only(model: FVLM) -> None:
    image, labels = inputs()
    try:
        model.train()
        assert not torch.equal(model.anatomy_features(image, labels)[0], model.anatomy_features(image, labels)[0])
    finally:
        model.eval()


def test_temperature_is_brought_back(config: ModelConfig) -> None:
    model = FVLM(config)
    for value, expected in ((-1.0, 0.001), (0.07, 0.07), (9.0, 0.5)):
        torch.nn.init.constant_(model.temp, value)
        model.clamp_temperature()
        assert model.temp.item() == pytest.approx(expected)


def test_queries_start_uniform(config: ModelConfig) -> None:
    """Zero queries and zero biases: attention starts as the mean of the organ's tokens (as the reference)."""
    model = FVLM(config).eval()
    image, labels = inputs()
    with torch.inference_mode():
        tokens = torch.cat(model.encode_tokens(image), 1)
        chosen = tokens_of_anatomies(labels, config.patch, 3).repeat(1, 1, 4)[1, 0]
        value = model.attention.in_proj_weight[-config.width :] @ tokens[1, chosen].mean(0)
        expected = F.normalize(model.vision_projs[0](model.attention.out_proj(value)), dim=-1)
        torch.testing.assert_close(model.anatomy_features(image, labels)[0][1, 0], expected, atol=1e-5, rtol=0)


def test_wrong_shapes_are_named(model: FVLM) -> None:
    image, labels = inputs()
    with pytest.raises(ValueError, match="multiple of the patch"):
        model.anatomy_features(image[..., :30], labels[..., :30])
    with pytest.raises(ValueError, match="must be"):
        model.anatomy_features(image, labels[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anatomies": ("lung", "lung")}, "twice"),
        ({"heads": 5}, "multiple of its heads"),
        ({"levels": (3,)}, "before the last block"),
        ({"image_shape": (16, 30, 32)}, "multiple of patch"),
        ({"stem": "conv"}, "needs stem_channels"),
        ({"stem_channels": (8,)}, "belong to stem 'conv'"),
        ({"stem": "conv", "stem_channels": (8, 8, 8)}, "stem's stride"),
        ({"colour": 1}, "Extra inputs"),
    ],
)
def test_impossible_architectures_are_refused(config: ModelConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(config.model_dump() | change)
