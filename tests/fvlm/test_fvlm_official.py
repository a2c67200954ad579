"""What the import accepts and what it refuses; the import of a full-size file is in test_fvlm_parity.py."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from config.vocabulary import read_preset
from fvlm import FVLM, ReleaseError, import_official
from fvlm.config import ModelConfig
from fvlm.official import WITHOUT_FUNCTION, official_state
from fvlm.release import read_release

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


PRESET = """name: site-abdomen
protocol: abdomen
anatomies: [liver, spleen, kidney, pancreas, gallbladder, stomach, colon, small_intestine, adrenal_gland, portal_vein,
            urinary_bladder, sacrum, heart, lung, esophagus]
prompts:
  - {finding: liver.cyst, negative: "Not Cyst.", positive: "Cyst."}
  - {finding: kidney.stone, negative: "Not Stone.", positive: "Stone."}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkpoint_of_another_body_part_with_a_preset_of_ones_own(tmp_path: Path, tokenizer_dir: Path) -> None:
    """15 anatomies on the abdominal grid, by the command line; every tensor is one repeated number, to be quick."""
    preset, file, out = tmp_path / "abdomen.yaml", tmp_path / "model.pth", tmp_path / "release"
    preset.write_text(PRESET, encoding="utf-8")
    names = tuple(read_preset(preset).anatomies)
    with torch.device("meta"):
        shapes = FVLM(ModelConfig(anatomies=names, image_shape=(96, 256, 384))).state_dict()
    torch.save({"model": {name: torch.ones(()).expand(t.shape) for name, t in shapes.items()}}, file)
    done = import_by_command(file, tokenizer_dir, out, preset)
    assert done.returncode == 0, done.stderr
    release = read_release(out)
    assert release.digest in done.stdout
    assert release.config.model.anatomies == names
    assert release.config.model.grid == (6, 16, 12)
    assert release.config.version.startswith("site-abdomen-")
    settings = release.config.preprocess
    assert (settings.spacing, settings.hu_window, settings.antialias) == ((5.0, 1.0, 1.0), (-300.0, 400.0), False)
    assert [f.finding for f in release.findings] == ["liver.cyst", "kidney.stone"]
    shown = fvlm_node("model", "show", out).stdout
    for part in ("liver, spleen, kidney", release.digest, "ViT of 12 blocks, width 768", "BERT of 12", "Imported from"):
        assert part in " ".join(shown.split())


def fvlm_node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *map(str, arguments)]
    wide = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=wide)


def import_by_command(file: Path, tokenizer: Path, out: Path, preset: Path) -> subprocess.CompletedProcess[str]:
    return fvlm_node("model", "import", file, "--tokenizer", tokenizer, "--out", out, "--preset", preset)


def test_what_is_wrong_is_one_line_on_the_command_line(tmp_path: Path, tokenizer_dir: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save({"model": {"temp": torch.ones(()), "momentum.temp": torch.ones(())}}, file)
    done = import_by_command(file, tokenizer_dir, tmp_path / "out", Path("ct-rate"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "unknown: momentum.temp" in done.stderr
    assert "query_tokens" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name: x\nanatomies: [toe]\nprompts: []", "no anatomy named 'toe'"),
        ("anatomies: [lung]", "name: Field required"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_preset_is_told(tmp_path: Path, tokenizer_dir: Path, content: str, told: str) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text(content, encoding="utf-8")
    with pytest.raises(ReleaseError, match=told):
        import_official(FILE, tokenizer_dir, tmp_path / "out", preset)


def test_arguments_are_checked_before_the_file_is_opened(tmp_path: Path, tokenizer_dir: Path) -> None:
    with pytest.raises(ReleaseError, match=r"'mri'.*; there are: ct-rate"):
        import_official(FILE, tokenizer_dir, tmp_path / "out", preset="mri")
    with pytest.raises(ReleaseError, match=r"neither vocab\.txt nor tokenizer\.json"):
        import_official(FILE, tmp_path, tmp_path / "out")
    (tokenizer_dir / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match="5 tokens instead of 30522; give the folder of microsoft"):
        import_official(FILE, tokenizer_dir, tmp_path / "out")
