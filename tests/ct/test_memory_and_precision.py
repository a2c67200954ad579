"""What the way from slices to labels takes in memory, over its inputs, and that a CPU never computes in half."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ct import monai_bundle
from ct.bundled import BundledSegmenter
from ct.load import load_volume
from ct.measure import measure
from ct.phantom import PhantomPatient, write_series
from ct.precision import half_on_gpu
from ct.series import scan_folder
from ct.vetting import vet
from ct.volume import Grid, Volume

SHAPE = (120, 512, 512)
MIB = 2**20


def _peak_bytes(work: Callable[[], object]) -> tuple[object, int]:
    """What it returns, and the greatest growth of this process meanwhile."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    made = work()
    return made, _status("VmHWM") - before


def _status(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) * 1024


def test_loading_streams_the_slices_into_one_volume(tmp_path: Path) -> None:
    write_series(PhantomPatient.draw(4, ()), tmp_path, spacing=(8.0, 0.78, 0.78), shape=(60, *SHAPE[1:]))
    (series,) = scan_folder(tmp_path).series
    vetted = vet(series)
    volume, peak = _peak_bytes(lambda: load_volume(vetted))
    assert isinstance(volume, Volume)
    assert peak < volume.hu.nbytes + 16 * MIB


def test_labels_on_the_fine_grid_take_no_more_than_themselves() -> None:
    scores = torch.rand(4, 60, 50, 50)
    spacing = (3.0, 0.78, 0.78)
    coarse = (6.0, 8.0, 8.0)
    labels, peak = _peak_bytes(lambda: monai_bundle.upsample_labels(scores, coarse, [1, 2, 3], SHAPE, spacing))
    assert isinstance(labels, np.ndarray)
    assert peak < labels.nbytes + 32 * MIB


def test_measures_do_not_depend_on_what_lies_around_the_labels() -> None:
    random = np.random.default_rng(5)
    shape = (9, 12, 14)
    hu = random.integers(-100, 100, shape, dtype=np.int16)
    labels = np.zeros(shape, np.uint8)
    labels[2:5, 3:9, 4:6], labels[4:7, 3:9, 8:13] = 1, 2
    volume = Volume(hu, Grid.axis_aligned(shape, (3.0, 2.0, 1.0), (0.0, 0.0, 0.0)))
    found = measure(volume, labels, ("liver", "spleen", "heart"))
    assert [each.voxels for each in found.values()] == [36, 90, 0]
    assert found["liver"].mean_hu == pytest.approx(hu[labels == 1].mean())
    assert found["spleen"].mean_hu == pytest.approx(hu[labels == 2].mean())


def test_a_cpu_computes_in_float32() -> None:
    with half_on_gpu("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_half_precision_finds_the_same() -> None:
    from ct.phantom import to_volume

    volume, _ = to_volume(PhantomPatient.draw(4, ()), (5.0, 3.0, 3.0), (124, 128, 128))
    cpu, gpu = BundledSegmenter(), BundledSegmenter(device="cuda")
    found = [each.segment(volume, each.anatomies).labels for each in (cpu, gpu)]
    assert np.mean(found[0] != found[1]) < 1e-3
