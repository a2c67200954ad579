"""Prompts are encoded once a release; a cache that cannot be trusted or written never stops anything."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fvlm import FVLM, Reader, ReleaseError, load_release
from fvlm.release import seal
from fvlm.text_cache import text_features, user_cache

TEXTS = ["No nodule.", "Nodules.", "Large heart."]


@pytest.fixture
def released(release_folder: Path) -> FVLM:
    return load_release(release_folder)


def without_text_encoder(model: FVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on encoding a text is an error."""

    def fail(*_: object) -> None:
        raise AssertionError("the text encoder ran")

    monkeypatch.setattr(model.text_encoder, "first_token", fail)


def test_encoded_once(released: FVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = text_features(released, TEXTS, tmp_path / "deep" / "cache")
    assert released.release is not None
    with torch.inference_mode():
        assert torch.equal(first, released.text_features(*released.release.tokenize(TEXTS)))
    without_text_encoder(released, monkeypatch)
    again = text_features(released, TEXTS, tmp_path / "deep" / "cache")
    assert torch.equal(first, again)
    assert first.dtype == again.dtype == torch.float32
    assert [f.suffix for f in (tmp_path / "deep" / "cache").iterdir()] == [".safetensors"]


def test_a_reader_starts_from_the_cache(released: FVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Reader(released, tmp_path)
    without_text_encoder(released, monkeypatch)
    Reader(released, tmp_path)
    with pytest.raises(AssertionError, match="the text encoder ran"):
        Reader(released)


def test_other_prompts_and_other_releases_have_other_files(
    released: FVLM, release_folder: Path, tmp_path: Path
) -> None:
    text_features(released, TEXTS, tmp_path)
    swapped = text_features(released, TEXTS[::-1], tmp_path)
    assert torch.equal(swapped.flip(0), text_features(released, TEXTS, tmp_path))
    assert len(list(tmp_path.glob("text-*"))) == 2
    (release_folder / "card.md").write_text("# Another\n", encoding="utf-8")
    seal(release_folder)
    text_features(load_release(release_folder), TEXTS, tmp_path)
    assert len(list(tmp_path.glob("text-*"))) == 3


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "flipped", "foreign", "folder"])
def test_a_damaged_file_is_made_again(
    released: FVLM, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = text_features(released, TEXTS, tmp_path)
    (file,) = tmp_path.glob("text-*")
    whole = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "foreign":
        save_file({"features": torch.ones(3, 16)}, file, {"key": "0", "sha256": "0"})
    else:
        contents = {
            "empty": b"",
            "cut": whole[:-40],
            "noise": b"\xff" * 200,
            "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        }
        file.write_bytes(contents[damage])
    assert torch.equal(text_features(released, TEXTS, tmp_path), right)
    if damage != "folder":  # a folder in the file's place stays; it is only slow
        without_text_encoder(released, monkeypatch)
        assert torch.equal(text_features(released, TEXTS, tmp_path), right)
    assert [f for f in tmp_path.iterdir() if f.name.startswith(".")] == []


def test_a_place_that_cannot_be_written_is_only_slow(released: FVLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    right = text_features(released, TEXTS, None)
    assert torch.equal(text_features(released, TEXTS, tmp_path / "file" / "cache"), right)


def test_no_texts_and_no_release(released: FVLM, model: FVLM, tmp_path: Path) -> None:
    assert text_features(released, [], tmp_path).shape == (0, 16)
    assert list(tmp_path.glob("text-*")) == []
    with pytest.raises(ReleaseError, match="load_release"):
        text_features(model, TEXTS, tmp_path)


def test_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "fvlm-node"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache() == tmp_path / "home" / ".cache" / "fvlm-node"
