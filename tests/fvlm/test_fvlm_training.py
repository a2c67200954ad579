"""What training computes differently from plain PyTorch: the same values and the same gradients."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fvlm.config import ModelConfig, TextConfig
from fvlm.kernels import attention, linear
from fvlm.model import FVLM


def _model(dropout: float = 0.0) -> FVLM:
    torch.manual_seed(0)
    model = FVLM(
        ModelConfig(
            anatomies=("lung", "heart"), image_shape=(16, 16, 16), patch=(4, 4, 4), width=32, depth=3, heads=2,
            levels=(0, 1), attention_heads=2, embedding=8, dropout=dropout,
            text=TextConfig(vocab_size=9, width=8, depth=1, heads=1),
        ),
        text=False,
    )  # fmt: skip
    nn.init.normal_(model.query_tokens)
    return model.train()


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("frozen", [0, 1])
def test_linear_has_the_gradient_of_plain_linear(with_bias: bool, frozen: int) -> None:
    """Whether or not the input, or the weight, needs one."""
    torch.manual_seed(0)
    found: list[list[Tensor | None]] = []
    inputs = [torch.randn(2, 5, 7), torch.randn(3, 7), torch.randn(3)]
    towards = torch.randn(2, 5, 3)
    for function in (linear, F.linear):
        leaves = [tensor.clone().requires_grad_(index != frozen) for index, tensor in enumerate(inputs)]
        out = function(leaves[0], leaves[1], leaves[2] if with_bias else None)
        out.backward(towards)
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for ours, plain in zip(*found, strict=True):
        assert (ours is None) == (plain is None)
        assert ours is None or plain is None or torch.allclose(ours, plain, atol=1e-5)


def test_attention_drops_weights_with_and_without_a_gradient() -> None:
    """The first of two passes over a micro-batch has no gradient; its features must be those of the second."""
    query = torch.randn(1, 2, 6, 4)
    torch.manual_seed(1)
    kept = attention(query, query, query, dropout=0.5)
    with torch.no_grad():
        torch.manual_seed(1)
        assert torch.equal(attention(query, query, query, dropout=0.5), kept)
        assert not torch.allclose(attention(query, query, query), kept)


def test_the_last_block_for_some_tokens_is_the_whole_one_for_them() -> None:
    model, image = _model(), torch.rand(3, 1, 16, 16, 16)
    wanted = torch.rand(3, 64) < torch.tensor([[0.1], [0.6], [0.0]])
    towards = torch.randn(3, 64, 32) * wanted[..., None]
    found = []
    for choice in (None, wanted):
        model.zero_grad()
        levels = model.encode_tokens(image, choice)
        torch.autograd.backward([levels[-1], levels[0]], [towards, torch.ones_like(levels[0])])
        encoder = model.visual_encoder
        found.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
        found[-1]["tokens"] = (levels[-1] * wanted[..., None]).detach()
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-4, rtol=1e-4), name


def test_features_of_a_batch_without_anatomies_have_a_gradient_of_zero() -> None:
    model = _model(dropout=0.1)
    features, present = model.anatomy_features(
        torch.rand(2, 1, 16, 16, 16), torch.zeros(2, 16, 16, 16, dtype=torch.uint8)
    )
    features.sum().backward()
    assert not present.any()
    gradients = [p.grad for p in model.visual_encoder.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
