"""What makes reading fast changes nothing: kernels, shared and batched windows, precision, the naive way as peer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import BertTokenizer

from benchmarks.bench_naive_fvlm import NaiveReader
from ct.anatomy import AnatomyMap
from ct.volume import Volume
from fvlm import FVLM, Reader, encoders, load_release, save_release
from fvlm.config import FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig
from fvlm.encoders import PatchEmbedding
from fvlm.engine import Engine
from fvlm.kernels import attention, linear, linear_gelu
from fvlm.preprocess import prepare

Scan = Callable[..., tuple[Volume, AnatomyMap]]
TOGETHER = {
    "lung": (slice(4, 20), slice(10, 34), slice(8, 40)),
    "heart": (slice(6, 10), slice(40, 52), slice(30, 54)),
    "aorta": (slice(12, 16), slice(36, 44), slice(30, 36)),
}
"""Inside one window of the release below."""
APART = {
    "lung": (slice(4, 44), slice(10, 34), slice(8, 20)),
    "heart": (slice(6, 10), slice(80, 92), slice(70, 94)),
    "aorta": (slice(60, 64), slice(36, 44), slice(30, 36)),
}


@pytest.fixture
def reader(
    tmp_path: Path,
    model: FVLM,
    config: ModelConfig,
    findings: tuple[FindingConfig, ...],
    tokenizer: BertTokenizer,
) -> Reader:
    """Windows an organ, margin and least window as in the public chain, small."""
    settings = PreprocessConfig(spacing=(3.0, 1.0, 1.0), window=(20, 48, 48), margin=(1, 3, 4))
    release = ReleaseConfig(name="tiny", version="1", test_only=True, model=config, preprocess=settings)
    save_release(tmp_path / "organ", model, release, findings, tokenizer, "# Tiny\n")
    return Reader(load_release(tmp_path / "organ"))


def probabilities(reader: Reader, scan: tuple[Volume, AnatomyMap]) -> dict[str, float]:
    return {f.key: f.probability for a in reader.read(*scan).anatomies for f in a.findings}


@pytest.mark.parametrize(
    ("boxes", "shape", "windows"), [(TOGETHER, (24, 48, 48), 1), (APART, (72, 120, 120), 3)], ids=["shared", "own"]
)
def test_the_naive_way_says_the_same(
    reader: Reader, scan: Scan, boxes: dict[str, object], shape: tuple[int, int, int], windows: int
) -> None:
    study = scan(boxes, shape)
    assert len(prepare(*study, reader.release.config).windows) == windows
    naive = NaiveReader(reader.model)
    expected = naive.read(*study, naive.text())
    assert expected == pytest.approx(probabilities(reader, study), abs=1e-5)
    assert len(expected) == 3
    assert len({round(p, 3) for p in expected.values()}) == 3


def test_a_shared_pass_gives_the_very_features_of_one_pass_an_organ(reader: Reader, scan: Scan) -> None:
    study = scan(TOGETHER, (24, 48, 48))
    names = reader.release.config.model.anatomies
    engine = Engine(reader.model)
    with torch.inference_mode():
        (shared,) = engine.encode(prepare(*study, reader.release.config))
        assert shared.window.anatomies == names
        together = reader.model.pool_tokens(shared.tokens, shared.selected)[0][0]
        for row, name in enumerate(names):
            (alone,) = engine.encode(prepare(*study, reader.release.config, [name]))
            assert torch.equal(reader.model.pool_tokens(alone.tokens, alone.selected)[0][0, row], together[row])


def test_windows_of_one_shape_go_in_one_batch(reader: Reader, scan: Scan) -> None:
    """Heart and aorta have equal windows, the lung's is longer; a batch gives what single passes give."""
    passes: list[int] = []
    hook = reader.model.visual_encoder.register_forward_hook(
        lambda _module, images, _out: passes.append(len(images[0]))
    )
    prepared = prepare(*scan(APART, (72, 120, 120)), reader.release.config)
    encoded = list(Engine(reader.model, batch=4).encode(prepared))
    hook.remove()
    assert sorted(passes) == [1, 2]
    assert {e.window for e in encoded} == set(prepared.windows)
    with torch.inference_mode():
        for one in encoded:
            image, labels = prepared.tensors(one.window)
            selected = reader.model.select(labels, reader.model.levels)
            assert all(map(torch.equal, selected, one.selected))
            singles = reader.model.encode_tokens(image, selected[-1].any(1))
            for level, single in zip(one.tokens, singles, strict=True):
                torch.testing.assert_close(level, single, atol=1e-5, rtol=0)


def test_one_window_a_pass_says_the_same(reader: Reader, scan: Scan) -> None:
    passes: list[int] = []
    hook = reader.model.visual_encoder.register_forward_hook(
        lambda _module, images, _out: passes.append(len(images[0]))
    )
    study = scan(APART, (72, 120, 120))
    found = probabilities(Reader(reader.model, batch=1), study)
    hook.remove()
    assert passes == [1, 1, 1]
    assert found == pytest.approx(probabilities(reader, study), abs=1e-5)


def test_bfloat16_changes_probabilities_by_less_than_a_hundredth(reader: Reader, scan: Scan) -> None:
    other = Reader(reader.model, precision="bfloat16")
    for study in (scan(TOGETHER, (24, 48, 48)), scan(APART, (72, 120, 120))):
        found, exact = probabilities(other, study), probabilities(reader, study)
        assert found == pytest.approx(exact, abs=0.01)
        assert found != exact


def test_a_compiled_model_changes_probabilities_by_less_than_a_hundredth(reader: Reader, scan: Scan) -> None:
    """One window: each further shape is compiled anew, for half a minute."""
    study = scan(TOGETHER, (24, 48, 48))
    found, exact = probabilities(Reader(reader.model, compiled=True), study), probabilities(reader, study)
    assert found == pytest.approx(exact, abs=0.01)
    assert found != exact


def test_compiling_without_a_compiler_says_what_to_do(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="apt-get install"):
        Reader(reader.model, compiled=True)


@pytest.mark.parametrize("length", [1, 37, 600])
def test_kernels_are_the_functions_of_torch(length: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, length, 24), torch.randn(40, 24), torch.randn(40)
    query, key, value = torch.randn(3, 2, length, 4, 16).transpose(2, 3)
    expected = F.linear(x, weight, bias), F.scaled_dot_product_attention(query, key, value)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), expected[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(linear_gelu(x, weight, bias), F.gelu(expected[0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(attention(query, key, value), expected[1], atol=1e-5, rtol=0)
        some = attention(query[:, :, :5], key, value)
        torch.testing.assert_close(some, expected[1][:, :, :5], atol=1e-5, rtol=0)
    weight.requires_grad_()
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand(40, 24), atol=1e-4, rtol=1e-4)


def test_the_last_block_of_wanted_tokens_only_is_the_whole_ones(model: FVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """To within rounding; and a token's bits do not depend on which others are wanted."""
    encoder, passes = model.visual_encoder, []
    image, generator = torch.rand(2, 1, 16, 32, 32), torch.Generator().manual_seed(0)
    monkeypatch.setattr(encoders, "_GROUP", 8)
    few = torch.rand(2, 64, generator=generator) < 0.2
    more = few | (torch.rand(2, 64, generator=generator) < 0.5)
    hook = encoder.blocks[-1].mlp.register_forward_hook(lambda _module, states, _out: passes.append(states[0].shape[1]))
    with torch.inference_mode():
        whole, *levels = (encoder(image, wanted) for wanted in (None, few, more, torch.zeros_like(few)))
    hook.remove()
    assert passes[0] == 64
    assert set(passes[1:]) == {8}
    for tokens in levels:
        assert all(torch.equal(one, other) for one, other in zip(whole[:-1], tokens[:-1], strict=True))
        assert torch.isfinite(tokens[-1]).all()
    assert torch.equal(levels[0][-1][few], levels[1][-1][few])
    torch.testing.assert_close(levels[1][-1][more], whole[-1][more], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stem", [{}, {"stem": "conv", "stem_channels": (4,)}], ids=["patch", "conv"])
def test_patches_are_embedded_as_the_convolution_does(config: ModelConfig, stem: dict[str, object]) -> None:
    torch.manual_seed(0)
    embedding = PatchEmbedding(ModelConfig.model_validate({**config.model_dump(), **stem})).eval()
    image = torch.rand(2, 1, *config.image_shape)
    with torch.inference_mode():
        plain = embedding.patch_embeddings(embedding.stem(image)).flatten(2).transpose(1, 2)
        torch.testing.assert_close(embedding(image) - embedding.position_embeddings, plain, atol=1e-5, rtol=0)
