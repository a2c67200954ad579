"""`fvlm-node model fetch`: the package's own download, from a server of this test instead of GitHub."""

import functools
import hashlib
import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ct.totalsegmentator import TotalSegmentator
from node.cli import app
from node.errors import CommandError
from node.fetch_weights import fetch_totalsegmentator

sys.path.insert(0, str(Path(__file__).parents[1] / "ct"))
from tiny_nnunet import write_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("totalsegmentator") is None and os.environ.get("CI") != "true",
    reason="TotalSegmentator is not installed; run: deploy/install.sh test",
)
DATASET = "Dataset297_TotalSegmentator_total_3mm_1559subj"
TRAINER = "nnUNetTrainer_4000epochs_NoMirroring"
MODEL = f"{DATASET}/{TRAINER}__nnUNetPlans__3d_fullres"


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the package downloads from, by its own code."""
    import totalsegmentator.libs as package

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    download = package.download_url_and_unpack

    def from_here(url: str, config_dir: Path) -> None:
        download(f"http://127.0.0.1:{server.server_port}/{url.rsplit('/', 1)[1]}", config_dir)

    monkeypatch.setattr(package, "download_url_and_unpack", from_here)
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_weights_are_fetched_once_and_their_checksums_shown(served: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "made" / MODEL, {"liver": 1}, TRAINER)
    shutil.make_archive(str(served / DATASET), "zip", tmp_path / "made")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["model", "fetch", "totalsegmentator", "--fast", "--out", str(out)])
    assert done.exit_code == 0, done.output
    printed = done.output.replace("\n", "")
    for file in ("fold_0/checkpoint_final.pth", "plans.json", "dataset.json"):
        assert f"{hashlib.sha256((model / file).read_bytes()).hexdigest()}  {MODEL}/{file}" in printed
        assert (out / MODEL / file).read_bytes() == (model / file).read_bytes()
    assert TotalSegmentator(out, fast=True, device="cpu").identity.digest in printed
    (served / f"{DATASET}.zip").unlink()
    assert list(fetch_totalsegmentator(out, fast=True))[-1].endswith("model.totalsegmentator_fast: true")


def test_a_download_that_fails_is_named_with_the_cure(served: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="404") as caught:
        list(fetch_totalsegmentator(tmp_path / "out", fast=True))
    assert "Run the same command on a machine with internet" in caught.value.cure
    (served / f"{DATASET}.zip").write_bytes(b"<html>not a zip</html>")
    with pytest.raises(CommandError, match="cannot be downloaded"):
        list(fetch_totalsegmentator(tmp_path / "out", fast=True))


@pytest.mark.usefixtures("served")
def test_half_a_download_is_not_taken_for_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "out" / MODEL, {"liver": 1}, TRAINER)
    (model / "plans.json").unlink()
    with pytest.raises(CommandError, match=r"plans\.json: missing") as caught:
        list(fetch_totalsegmentator(tmp_path / "out", fast=True))
    assert "delete it and try again" in caught.value.cure


def test_without_a_network_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(CommandError, match="cannot be downloaded"):
        list(fetch_totalsegmentator(tmp_path / "out", fast=True))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be written") as caught:
        list(fetch_totalsegmentator(tmp_path / "file" / "out", fast=True))
    assert "--out" in caught.value.cure
