"""Two processes of `torchrun`, joined by gloo, compute what one computes on the joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.ranks import BATCH, batches, gradients, run, trainees
from tests.training.toy_archive import ToyArchive
from training.pretraining import checkpoints
from training.pretraining.distributed import World

REPOSITORY = Path(__file__).parents[2]
Found = dict[tuple[str, int], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(REPOSITORY / "tests/training/ranks.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Found]:
    """What each of them found."""
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("micro", [BATCH // 2, BATCH // 4])
@pytest.mark.parametrize("name", ["fvlm", "clip", "supervised", "no anatomy here"])
def test_two_processes_find_the_gradient_of_the_joint_batch(ranks: list[Found], name: str, micro: int) -> None:
    """Also where one of them sees no anatomy at all, and in two passes over micro-batches."""
    archive = ToyArchive()
    alone = gradients(trainees(archive)[name], batches(name, archive, BATCH, World()), World(), parallel=False)
    assert max(float(gradient.abs().max()) for gradient in alone.values()) > 1e-3
    for rank in ranks:
        found = rank[name, micro]
        assert found.keys() == alone.keys()
        for parameter, gradient in alone.items():
            assert torch.allclose(found[parameter], gradient, rtol=0, atol=1e-5), parameter


def test_gathered_rows_get_the_gradient_of_every_process(ranks: list[Found]) -> None:
    """Loss of process r: r times the square of the sum 1 + 2; the gradient of each row is (1 + 2) * 2 * 3."""
    for rank in ranks:
        assert rank["gathered", 0]["rows"].tolist() == [[18.0, 18.0]]


def test_a_run_of_two_processes_is_that_of_one(folder: Path, tmp_path: Path) -> None:
    """Also interrupted and resumed, with two models that teach each other; one of them writes."""
    run(tmp_path, World())
    weights = [
        checkpoints.load(checkpoints.saved(each / "checkpoints")[-1])["students"] for each in (folder / "run", tmp_path)
    ]
    for together, alone in zip(*weights, strict=True):
        for part in ("weights", "average"):
            for name, tensor in alone[part].items():
                assert torch.allclose(together[part][name], tensor, rtol=0, atol=1e-5), name
    assert len((folder / "run" / "log.jsonl").read_text().splitlines()) == 4
