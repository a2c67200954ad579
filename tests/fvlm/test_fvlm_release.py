"""A release folder: written whole, verified when read, known by its digest."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer

import fvlm
from fvlm import FVLM, ReleaseError, load_release, save_release
from fvlm.config import FindingConfig, ModelConfig, ReleaseConfig
from fvlm.release import read_release, seal


def test_round_trip(release_folder: Path, model: FVLM, findings: tuple[FindingConfig, ...]) -> None:
    loaded = load_release(release_folder)
    release = loaded.release
    assert release is not None
    assert (release.config.model, release.findings, release.card) == (
        model.config,
        findings,
        "# Tiny\nRandom weights.\n",
    )
    assert release.digest == hashlib.sha256((release_folder / "SHA256SUMS").read_bytes()).hexdigest()
    assert (release.identity.name, release.identity.digest, release.identity.test_only) == (
        "tiny",
        release.digest,
        True,
    )
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    ids, mask = release.tokenize(["No nodules.", "Nodule"])
    assert ids.tolist() == [[2, 5, 6, 7, 11, 3], [2, 6, 3, 0, 0, 0]]
    with torch.inference_mode():
        assert torch.equal(loaded.text_features(ids, mask), model.text_features(ids, mask))


def test_sha256sum_verifies_a_release(release_folder: Path) -> None:
    result = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release_folder, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_training_a_loaded_model_leaves_the_file_alone(release_folder: Path) -> None:
    before = read_release(release_folder).digest
    model = load_release(release_folder).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    ids = torch.tensor([[2, 5, 3]])
    model.text_features(ids, torch.ones_like(ids))[:, 0].sum().backward()
    optimizer.step()
    assert read_release(release_folder).digest == before


def test_half_is_half_the_size_and_close(
    tmp_path: Path, model: FVLM, release_config: ReleaseConfig, tokenizer: BertTokenizer, release_folder: Path
) -> None:
    save_release(tmp_path / "half", model, release_config, (), tokenizer, "card", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", release_folder)]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_release(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    image, labels = torch.rand(1, 1, 16, 32, 32), torch.ones(1, 16, 32, 32, dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.anatomy_features(image, labels)[0], model.anatomy_features(image, labels)[0], atol=5e-3, rtol=0
        )


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "findings.json", "card.md", "tokenizer.json", "tokenizer_config.json"]
)
def test_every_file_is_part_of_the_digest(release_folder: Path, name: str) -> None:
    before = read_release(release_folder).digest
    content = bytearray((release_folder / name).read_bytes())
    content[-2] ^= 1
    (release_folder / name).write_bytes(content)
    with pytest.raises(ReleaseError, match=f"changed since it was sealed: {name}; copy"):
        load_release(release_folder)
    assert seal(release_folder) != before


def test_new_thresholds_are_another_release(release_folder: Path) -> None:
    before = read_release(release_folder).digest
    table = json.loads((release_folder / "findings.json").read_bytes())
    table[2]["threshold"] = 0.5
    (release_folder / "findings.json").write_text(json.dumps(table), encoding="utf-8")
    after = seal(release_folder)
    release = read_release(release_folder)
    assert release.digest == after != before
    assert release.findings[2].threshold == 0.5


def test_missing_and_unknown_files_are_named(release_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no such folder"):
        load_release(tmp_path / "nowhere")
    (release_folder / "setup.py").write_text("", encoding="utf-8")
    with pytest.raises(ReleaseError, match=r"setup\.py: not part of a release; remove it"):
        load_release(release_folder)
    (release_folder / "setup.py").unlink()
    (release_folder / "card.md").unlink()
    with pytest.raises(ReleaseError, match=r"card\.md missing; copy"):
        load_release(release_folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0notjson!", "cannot be read"),
        ("model.safetensors", b"", "cannot be read"),
        ("config.json", b"{}", "config: ReleaseConfig is wrong: name: Field required"),
        ("config.json", b"{", "Invalid JSON"),
        ("findings.json", b'[{"finding": "lung.nodule"}]', "0.negative: Field required"),
        ("tokenizer.json", b"{", "not a tokenizer"),
        ("card.md", b"\xff\xfe", "codec"),
    ],
)
def test_damaged_files_are_release_errors(release_folder: Path, name: str, content: bytes, message: str) -> None:
    (release_folder / name).write_bytes(content)
    seal(release_folder)
    with pytest.raises(ReleaseError, match=message.replace("config: ", "")):
        load_release(release_folder)


def test_weights_that_do_not_fit_the_configuration(release_folder: Path) -> None:
    config = json.loads((release_folder / "config.json").read_bytes())
    config["model"]["embedding"] = 8
    (release_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    seal(release_folder)
    with pytest.raises(ReleaseError, match=r"does not fit config\.json: text_proj\.bias, text_proj\.weight, "):
        load_release(release_folder)


def test_parts_that_do_not_fit_are_not_saved(
    tmp_path: Path, model: FVLM, release_config: ReleaseConfig, tokenizer: BertTokenizer, release_folder: Path
) -> None:
    liver = FindingConfig(finding="liver.cyst", negative="No.", positive="Nodule.")
    with pytest.raises(ReleaseError, match=r"liver\.cyst: no such anatomy"):
        save_release(tmp_path / "new", model, release_config, (liver,), tokenizer, "card")
    lung = FindingConfig(finding="lung.nodule", negative="No.", positive="Nodule.")
    with pytest.raises(ReleaseError, match="stands twice"):
        save_release(tmp_path / "new", model, release_config, (lung, lung), tokenizer, "card")
    other = release_config.model_copy(update={"model": ModelConfig(anatomies=("lung",))})
    with pytest.raises(ReleaseError, match="another configuration"):
        save_release(tmp_path / "new", model, other, (), tokenizer, "card")
    with pytest.raises(ReleaseError, match="exists already"):
        save_release(release_folder, model, release_config, (), tokenizer, "card")
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_an_interrupted_save_leaves_nothing(
    tmp_path: Path, model: FVLM, release_config: ReleaseConfig, tokenizer: BertTokenizer
) -> None:
    with pytest.raises(UnicodeEncodeError):
        save_release(tmp_path / "new", model, release_config, (), tokenizer, "\ud800")
    assert not list(tmp_path.iterdir())


def test_the_package_names_what_it_offers() -> None:
    for name in fvlm.__all__:
        assert getattr(fvlm, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fvlm.nothing


def test_readings_and_configurations_need_no_torch() -> None:
    """The receiver and the console import them."""
    code = "import sys, fvlm, fvlm.reading, fvlm.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
