"""First weights: made-up files of the layouts of MAE's ViT-B and of CXR-BERT; what does not fit is listed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertModel

from fvlm.config import ModelConfig, TextConfig
from fvlm.model import FVLM
from training.pretraining.config import PretrainError
from training.pretraining.initial import load_bert, load_mae, mae_state

TEXT = TextConfig(vocab_size=50, width=24, depth=2, heads=2, max_positions=20, max_tokens=20)
SMALL = ModelConfig(
    anatomies=("lung", "heart"), image_shape=(16, 32, 64), patch=(4, 8, 8), width=48, depth=3, heads=4, levels=(0,),
    attention_heads=4, embedding=8, text=TEXT,
)  # fmt: skip


def _mae(width: int = 48, depth: int = 3, side: int = 14) -> dict[str, Tensor]:
    """The names and shapes of `mae_pretrain_vit_base.pth`: 150 tensors at width 768 and depth 12."""
    generator = torch.Generator().manual_seed(0)

    def new(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    state = {
        "cls_token": new(1, 1, width),
        "pos_embed": new(1, side * side + 1, width),
        "patch_embed.proj.weight": new(width, 3, 16, 16),
        "patch_embed.proj.bias": new(width),
    }
    for index in range(depth):
        block = {
            "norm1.weight": new(width),
            "norm1.bias": new(width),
            "attn.qkv.weight": new(3 * width, width),
            "attn.qkv.bias": new(3 * width),
            "attn.proj.weight": new(width, width),
            "attn.proj.bias": new(width),
            "norm2.weight": new(width),
            "norm2.bias": new(width),
            "mlp.fc1.weight": new(4 * width, width),
            "mlp.fc1.bias": new(4 * width),
            "mlp.fc2.weight": new(width, 4 * width),
            "mlp.fc2.bias": new(width),
        }
        state |= {f"blocks.{index}.{name}": tensor for name, tensor in block.items()}
    return {**state, "norm.weight": new(width), "norm.bias": new(width)}


def _decoder(width: int = 48) -> dict[str, Tensor]:
    return {"mask_token": torch.ones(1, 1, width), "decoder_embed.weight": torch.ones(8, width)}


def _file(folder: Path, state: object) -> Path:
    torch.save(state, folder / "mae.pth")
    return folder / "mae.pth"


def test_the_public_file_maps_150_tensors_to_147_and_leaves_the_patches() -> None:
    config = ModelConfig(anatomies=("lung", "heart", "esophagus", "aorta"))
    given = {**_mae(width=8, depth=12), "pos_embed": torch.zeros(1, 197, 768)}
    assert len(given) == 150
    with torch.device("meta"):
        expected = FVLM(config, text=False).visual_encoder.state_dict()
    mapped = mae_state(given, config, Path("mae.pth"))
    assert len(mapped) == 147
    left = expected.keys() - mapped.keys()
    assert left == {"patch_embedding.patch_embeddings.weight", "patch_embedding.patch_embeddings.bias"}
    assert mapped.keys() <= expected.keys()
    assert mapped["patch_embedding.position_embeddings"].shape == (1, 1232, 768)


def test_mae_fills_the_transformer_and_spreads_positions_over_depth(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, fresh = FVLM(SMALL), FVLM(SMALL)
    fresh.load_state_dict(model.state_dict())
    given = _mae()
    load_mae(model, _file(tmp_path, {"model": {**given, **_decoder()}, "epoch": 1600}))
    state, before = model.state_dict(), fresh.state_dict()
    assert torch.equal(state["visual_encoder.blocks.2.mlp.linear2.weight"], given["blocks.2.mlp.fc2.weight"])
    assert torch.equal(state["visual_encoder.blocks.0.attn.out_proj.bias"], given["blocks.0.attn.proj.bias"])
    assert torch.equal(state["visual_encoder.norm.weight"], given["norm.weight"])
    table = state["visual_encoder.patch_embedding.position_embeddings"].view(4, 4, 8, 48)
    assert all(torch.equal(table[0], table[z]) for z in range(1, 4))
    plane = given["pos_embed"][0, 1:].T.reshape(1, 48, 14, 14)
    expected = F.interpolate(plane, size=(4, 8), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    assert torch.equal(table[0], expected)
    stays = [name for name in state if not name.startswith("visual_encoder.") or "patch_embeddings" in name]
    assert all(torch.equal(state[name], before[name]) for name in stays)


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: {"model": {k: t for k, t in s.items() if k != "blocks.1.norm2.bias"}},
            "missing: blocks.1.norm2.bias",
        ),
        (lambda s: {"model": {**s, "blocks.1.gamma": s["norm.bias"]}}, "unknown: blocks.1.gamma"),
        (lambda s: {"model": {**s, "norm.weight": s["norm.weight"][:7]}}, r"norm.weight is \(7,\), expected \(48,\)"),
        (lambda s: {"model": {**s, "norm.bias": s["norm.bias"] / 0}}, "norm.bias has values that are not finite"),
        (lambda s: {"model": {**s, "pos_embed": s["pos_embed"][:, :100]}}, "pos_embed is not the table of a square"),
        (lambda s: s, 'no entry "model"'),
        (lambda s: {"model": Path("x"), **s}, "holds more than weights"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    with pytest.raises(PretrainError, match=said):
        load_mae(FVLM(SMALL), _file(tmp_path, change(_mae())))


def _bert() -> BertForMaskedLM:
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        max_position_embeddings=20,
    )  # fmt: skip
    return BertForMaskedLM(config).eval()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_bert_computes_what_the_given_one_does(tmp_path: Path, suffix: str) -> None:
    """CXR-BERT's file: a BERT with its MLM head, a pooler and a projection head; token types are not lost."""
    bert = _bert()
    state = {name: tensor.clone() for name, tensor in bert.state_dict().items()}
    state["cls_projection_head.dense_to_hidden.weight"] = torch.ones(3, 24)
    state["bert.pooler.dense.weight"] = torch.ones(24, 24)
    state["bert.embeddings.position_ids"] = torch.arange(20)[None]
    file = tmp_path / f"model{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    model = FVLM(SMALL).eval()
    load_bert(model, file)
    ids, mask = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    reference: BertModel = bert.bert
    expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    assert float(reference.embeddings.token_type_embeddings.weight[0].detach().abs().max()) > 1e-3
    assert torch.allclose(model.text_encoder.first_token(ids, mask), expected, atol=1e-5)


def test_a_bert_of_another_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    torch.save({k: t for k, t in _bert().state_dict().items() if "layer.1" not in k}, file)
    with pytest.raises(PretrainError, match=r"missing: encoder\.layer\.1\.attention"):
        load_bert(FVLM(SMALL), file)
    file.write_bytes(b"not a file of weights")
    with pytest.raises(PretrainError, match=r"model\.bin: "):
        load_bert(FVLM(SMALL), file)
    (tmp_path / "model.safetensors").write_bytes(b"neither")
    with pytest.raises(PretrainError, match="cannot be read"):
        load_bert(FVLM(SMALL), tmp_path / "model.safetensors")
