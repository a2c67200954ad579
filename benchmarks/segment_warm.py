"""TotalSegmentator, series after series in one worker: our provider, which keeps the networks, and the package's own call.

Both go the package's way (turning, resampling, sliding window, back) over the same scans with the same weights, which
are made up, small, and of the official layout. Real networks compute longer, on both sides alike, so the ratio is higher
than it is with them: what counts is the difference, which is saved a series. The first series of each side stands apart.
Labels are compared voxel for voxel. Times are wall seconds; `_cpu_s` are seconds of all cores, processes that the
package starts included, and hold on a machine that does something else too.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from bench_result import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ct"))
from tiny_nnunet import let_package_run_alone, write_model

from ct.totalsegmentator import TotalSegmentator, merge_classes, nifti_image
from ct.volume import Grid, Volume

DATASET = "Dataset297_TotalSegmentator_total_3mm_1559subj"
TRAINER = "nnUNetTrainer_4000epochs_NoMirroring"
ANATOMIES = ("liver", "kidney", "aorta", "lung")
SHAPE, SPACING = (40, 96, 96), (5.0, 2.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--series", type=int, default=3, help="scans a side, the first one cold")
    arguments = parser.parse_args()
    result = Result("segment_warm", ("TotalSegmentator", "nnunetv2", "torch"))
    result.conditions |= {"shape": SHAPE, "spacing_mm": SPACING, "series": arguments.series, "task": "total, fast"}
    scans = [_scan(seed) for seed in range(arguments.series)]
    with TemporaryDirectory() as name:
        weights = _weights(Path(name))
        provider = TotalSegmentator(weights, fast=True, device="cpu")
        ours = [_timed(lambda scan=scan: provider.segment(scan, ANATOMIES).labels) for scan in scans]
        theirs = [_timed(lambda scan=scan: _package(scan, weights, Path(name))) for scan in scans]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(ours, theirs, strict=True)), "labels differ"
    assert all(labels.any() for labels, _, _ in ours), "nothing was found"
    result.figures["labels_equal"] = 1
    for side, runs in (("ours", ours), ("package", theirs)):
        result.figures[f"{side}_first_s"] = round(runs[0][1], 2)
        result.add(f"{side}_s", [wall for _, wall, _ in runs[1:]])
        result.add(f"{side}_cpu_s", [cpu for _, _, cpu in runs[1:]])
    for what in ("s", "cpu_s"):
        saved = result.figures[f"package_{what}"] - result.figures[f"ours_{what}"]
        result.figures[f"saved_a_series_{what}"] = round(saved, 2)
        result.figures[f"ratio_vs_package_{what}"] = round(
            result.figures[f"package_{what}"] / result.figures[f"ours_{what}"], 2
        )
    result.finish()


def _timed(run: Callable[[], npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.uint8], float, float]:
    """Labels, wall seconds, seconds of all cores."""
    before, started = os.times(), time.perf_counter()
    labels = run()
    wall, after = time.perf_counter() - started, os.times()
    return labels, wall, sum(after[:4]) - sum(before[:4])


def _package(scan: Volume, weights: Path, home: Path) -> npt.NDArray[np.uint8]:
    """The package's own call, statistics off."""
    from totalsegmentator.map_to_binary import class_map
    from totalsegmentator.python_api import totalsegmentator

    settings = {"send_usage_stats": False, "statistics_disclaimer_shown": True}
    (home / "config.json").write_text(json.dumps(settings))
    os.environ |= {"TOTALSEG_HOME_DIR": str(home), "TOTALSEG_WEIGHTS_PATH": str(weights)}
    let_package_run_alone(weights)
    found: Any = totalsegmentator(
        nifti_image(scan), None, ml=True, fast=True, device="cpu", quiet=True, nr_thr_saving=1
    )
    classes = np.asarray(found.dataobj).astype(np.uint8).transpose(2, 1, 0)
    return merge_classes(classes, class_map["total"], ANATOMIES)


def _scan(seed: int) -> Volume:
    """Boxes of 12 voxels with a level of HU each, which the networks tell apart."""
    levels = np.random.default_rng(seed).integers(0, 8, (4, 8, 8))
    hu = np.kron(100 * levels, np.ones((10, 12, 12))).astype(np.int16)
    return Volume(hu, Grid.axis_aligned(SHAPE, SPACING, (0.0, 0.0, 0.0)))


def _weights(folder: Path) -> Path:
    from totalsegmentator.map_to_binary import class_map

    numbers = {name: number for number, name in class_map["total"].items()}
    write_model(folder / "weights" / DATASET / f"{TRAINER}__nnUNetPlans__3d_fullres", numbers, TRAINER)
    return folder / "weights"


if __name__ == "__main__":
    main()
