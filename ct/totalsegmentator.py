"""TotalSegmentator (the real package, your weights) as a segmenter; its classes are merged by the vocabulary.

Left to itself the package downloads weights that it misses, and sends usage statistics. Here it does neither: the
folders it is going to read are checked before every call, and every call gets settings in which statistics are off.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import numpy.typing as npt

from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap, SegmenterWeightsError, UInt8Array
from ct.measure import measure
from ct.sides import LEFT, RIGHT, OwnSides, tell_sides
from ct.volume import Grid, Volume

_LEAST_SPLIT = 120
"""Slices at the network's spacing from which on a scan may be split into three parts."""


class TotalSegmentator:
    """Task `total` through the package's Python API (Wasserthal et al., Radiology: AI 2023)."""

    def __init__(self, weights: Path | None, *, fast: bool, device: str, frugal: bool = False) -> None:
        """`frugal`: the scan in three overlapping parts, one after another, in less memory; labels differ only where
        the network hesitates.
        """
        self.weights = weights or Path(
            os.environ.get("TOTALSEG_WEIGHTS_PATH", Path.home() / ".totalsegmentator/nnunet/results")
        )
        self.fast = fast
        self.frugal = frugal
        self.device = device.replace("cuda", "gpu")
        try:
            self._version = importlib.metadata.version("TotalSegmentator")
        except importlib.metadata.PackageNotFoundError as error:
            raise SegmenterWeightsError(
                "TotalSegmentator is not installed; run: .venv/bin/pip install --no-deps -c constraints.txt "
                "-r requirements/totalsegmentator.txt"
            ) from error
        self._digest = _digest(self._model_files())

    @property
    def identity(self) -> AlgorithmIdentity:
        name = "TotalSegmentator total 3 mm" if self.fast else "TotalSegmentator total 1.5 mm"
        return AlgorithmIdentity(name, self._version, self._digest, "University Hospital Basel")

    def segment(self, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        """Label `anatomies` on the volume's grid. Raises SegmenterWeightsError if the weights are gone by now."""
        self._model_files()
        with _quiet_package(self.weights):
            import nibabel as nib
            from totalsegmentator.map_to_binary import class_map
            from totalsegmentator.python_api import totalsegmentator

            _register_trainers()
            image = nib.Nifti1Image(volume.hu.transpose(2, 1, 0), _nifti_affine(volume.grid))
            found = totalsegmentator(
                image,
                None,
                ml=True,
                fast=self.fast,
                device=self.device,
                quiet=True,
                nr_thr_saving=1,
                force_split=self.frugal and self._may_split(volume),
            )
        classes = np.asarray(found.dataobj).astype(np.uint8).transpose(2, 1, 0)
        labels = merge_classes(classes, class_map["total"], anatomies)
        measures = measure(volume, labels, anatomies)
        own = own_sides(classes, class_map["total"])
        sides = tell_sides(volume, labels, anatomies, measures, own)
        return AnatomyMap(labels, volume.grid, anatomies, self.identity, measures, sides)

    def _may_split(self, volume: Volume) -> bool:
        """The package splits the scan by z with a margin of 20 slices; its parts must be longer than that."""
        return volume.grid.shape[0] * volume.spacing[0] / (3.0 if self.fast else 1.5) >= _LEAST_SPLIT

    def _model_files(self) -> list[Path]:
        """Every file the package reads for this task. Raises SegmenterWeightsError if one is missing."""
        from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS

        mode = TASK_CONFIGS["total"]["sub_modes"]["fast" if self.fast else "default"]
        tasks = mode["task_id"] if isinstance(mode["task_id"], list) else [mode["task_id"]]
        files = []
        for task in tasks:
            folder = self.weights / TASK_ID_WEIGHTS_CONFIGS[task]["foldername"]
            model = folder / f"{mode['trainer']}__nnUNetPlans__3d_fullres"
            files += [model / "fold_0" / "checkpoint_final.pth", model / "plans.json", model / "dataset.json"]
        for file in files:
            if not file.is_file():
                download = "total_fast" if self.fast else "total"
                raise SegmenterWeightsError(
                    f"{file}: missing in TotalSegmentator's weights; on a machine with internet run "
                    f"`totalseg_download_weights -t {download}`, copy its folder nnunet/results here and name it in "
                    "model.totalsegmentator_weights"
                )
        return files


def _digest(files: list[Path]) -> str:
    """SHA-256 over the digests of `files`, hex."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _register_trainers() -> None:
    """Tell the package the trainer classes of task `total`.

    nnU-Net would look for them by importing all trainers it has, and one of these needs timm, which is not installed
    (requirements/totalsegmentator.txt says why).
    """
    from totalsegmentator.config import setup_nnunet

    setup_nnunet()  # nnU-Net reads its folders from the environment when it is imported
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )
    from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs_NoMirroring import (
        nnUNetTrainer_4000epochs_NoMirroring,
    )
    from totalsegmentator.nnunet import custom_trainers

    for trainer in (nnUNetTrainerNoMirroring, nnUNetTrainer_4000epochs_NoMirroring):
        custom_trainers[trainer.__name__] = trainer


@contextmanager
def _quiet_package(weights: Path) -> Iterator[None]:
    """The package's environment for one call: these weights, no usage statistics, nothing on standard output.

    The home folder is new every time: from one that was cleaned away the package would start over, with statistics on.
    """
    settings = {
        "totalseg_id": "none",
        "send_usage_stats": False,
        "prediction_counter": 0,
        "statistics_disclaimer_shown": True,
    }
    names = ("TOTALSEG_HOME_DIR", "TOTALSEG_WEIGHTS_PATH")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="totalsegmentator-") as home:
        Path(home, "config.json").write_text(json.dumps(settings))
        os.environ.update(zip(names, (home, str(weights)), strict=True))
        try:
            with redirect_stdout(io.StringIO()):
                yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def merge_classes(classes: npt.NDArray[np.uint8], names: dict[int, str], anatomies: tuple[str, ...]) -> UInt8Array:
    """TotalSegmentator's class numbers [z, y, x] -> labels of `anatomies`, by the vocabulary; the rest is 0."""
    vocabulary = load_vocabulary()
    number = {name: value for value, name in names.items()}
    table = np.zeros(256, dtype=np.uint8)
    for label, anatomy in enumerate(anatomies, start=1):
        for name in vocabulary.anatomy(anatomy).totalsegmentator:
            table[number[name]] = label
    return table[classes]


def own_sides(classes: npt.NDArray[np.uint8], names: dict[int, str]) -> OwnSides:
    """The sides in the names of the classes (`kidney_left`, `rib_left_1`) of class numbers [z, y, x]."""
    table = np.zeros(256, dtype=np.uint8)
    for number, name in names.items():
        parts = name.split("_")
        table[number] = LEFT if "left" in parts else RIGHT if "right" in parts else 0
    return lambda box: table[classes[box]]


def _nifti_affine(grid: Grid) -> npt.NDArray[np.float64]:
    """Affine for [x, y, z] arrays in RAS+ mm, from ours for [z, y, x] in LPS."""
    affine = grid.affine[:, [2, 1, 0, 3]].copy()
    affine[:2] *= -1.0
    return affine
