"""What the import accepts and what it refuses; the import of a full-size file is in test_fvlm_parity.py."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fvlm import FVLM, ReleaseError, import_official
from fvlm.config import ModelConfig
from fvlm.official import WITHOUT_FUNCTION, official_state

FILE = Path("model.pth")


@pytest.fixture
def state(model: FVLM) -> dict[str, Tensor]:
    leftovers = {name: torch.zeros(1) for name in WITHOUT_FUNCTION}
    return {**model.state_dict(), **leftovers}


@pytest.fixture
def tokenizer_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "cxr-bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(5, 30522))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def test_only_what_has_no_function_is_left_out(state: dict[str, Tensor], model: FVLM, config: ModelConfig) -> None:
    taken = official_state({"model": state, "epoch": 19, "optimizer": {}}, config, FILE)
    assert taken.keys() == model.state_dict().keys()
    for name in WITHOUT_FUNCTION:
        without = {key: tensor for key, tensor in state.items() if key != name}
        assert official_state({"model": without}, config, FILE).keys() == taken.keys()


def test_every_difference_is_listed_at_once(state: dict[str, Tensor], config: ModelConfig) -> None:
    del state["text_proj.bias"], state["visual_encoder.norm.weight"]
    state["text_encoder.embeddings.token_type_embeddings.weight"] = torch.zeros(2, 24)
    state["momentum.temp"] = torch.zeros(())
    state["vision_projs.1.weight"] = state["vision_projs.1.weight"][:5]
    state["text_proj.weight"] = state["text_proj.weight"] * torch.nan
    with pytest.raises(ReleaseError) as error:
        official_state({"model": state}, config, FILE)
    for part in (
        "model.pth: not the public fVLM layout: missing: text_proj.bias, visual_encoder.norm.weight;",
        "unknown: momentum.temp, text_encoder.embeddings.token_type_embeddings.weight;",
        "text_proj.weight has values that are not finite",
        "vision_projs.1.weight is (5, 48), expected (16, 48)",
        "download it again",
    ):
        assert part in str(error.value)


def test_another_number_of_anatomies_is_explained(state: dict[str, Tensor], config: ModelConfig) -> None:
    state["query_tokens"] = torch.zeros(15, config.width)
    with pytest.raises(ReleaseError, match=r"has 15 anatomies, the preset 3 \(lung, heart, aorta\); choose or write"):
        official_state({"model": state}, config, FILE)


@pytest.mark.parametrize("loaded", [None, [], {"state_dict": {}}, {"model": torch.zeros(3)}])
def test_other_contents(loaded: object, config: ModelConfig) -> None:
    with pytest.raises(ReleaseError, match='no entry "model"'):
        official_state(loaded, config, FILE)


class Payload:
    """Would run code on unpickling."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('/nowhere/pwned', 'w')",)


def test_files_that_are_no_checkpoint(tmp_path: Path, tokenizer_dir: Path) -> None:
    file, out = tmp_path / "model.pth", tmp_path / "out"
    with pytest.raises(ReleaseError, match="no such file"):
        import_official(file, tokenizer_dir, out)
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100)):
        file.write_bytes(content)
        with pytest.raises(ReleaseError, match=r"model\.pth: "):
            import_official(file, tokenizer_dir, out)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data", "x")
    with pytest.raises(ReleaseError, match="not a PyTorch checkpoint"):
        import_official(file, tokenizer_dir, out)
    torch.save({"model": Payload()}, file)
    with pytest.raises(ReleaseError, match="holds more than weights, or is damaged"):
        import_official(file, tokenizer_dir, out)
    assert not out.exists()


def test_arguments_are_checked_before_the_file_is_opened(tmp_path: Path, tokenizer_dir: Path) -> None:
    with pytest.raises(ReleaseError, match=r"'mri'.*; there are: ct-rate"):
        import_official(FILE, tokenizer_dir, tmp_path / "out", preset="mri")
    with pytest.raises(ReleaseError, match=r"neither vocab\.txt nor tokenizer\.json"):
        import_official(FILE, tmp_path, tmp_path / "out")
    (tokenizer_dir / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match="5 tokens instead of 30522; give the folder of microsoft"):
        import_official(FILE, tokenizer_dir, tmp_path / "out")
