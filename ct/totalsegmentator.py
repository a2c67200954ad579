"""TotalSegmentator (the real package, your weights) as a segmenter; its classes are merged by the vocabulary.

Left to itself the package downloads weights that it misses, sends usage statistics, and loads its networks anew for
every scan, as pickles. Here it does none of it: the folders it is going to read are checked before every call, every
call gets settings in which statistics are off, and where the package runs a network it gets one that is loaded once,
without running code of its files. Only task `total` is ever asked for, which needs no licence, and of its five networks
only those with classes of the anatomies wanted.
"""

import importlib.metadata
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap, SegmenterWeightsError, UInt8Array, digest_of
from ct.measure import measure
from ct.nnunet_predictor import ModelFiles, load_predictor
from ct.sides import LEFT, RIGHT, OwnSides, tell_sides
from ct.volume import Grid, Volume

if TYPE_CHECKING:
    import torch
    from nibabel import Nifti1Image
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

_LEAST_SPLIT = 120
"""Slices at the network's spacing from which on a scan may be split into three parts."""


class TotalSegmentator:
    """Task `total` through the package's Python API (Wasserthal et al., Radiology: AI 2023)."""

    def __init__(self, weights: Path | None, *, fast: bool, device: str, frugal: bool = False) -> None:
        """`frugal`: the scan in three overlapping parts, one after another, in less memory; labels differ only where
        the network hesitates.
        """
        self.weights = weights or default_weights()
        self.fast = fast
        self.frugal = frugal
        self.device = device.replace("cuda", "gpu")
        self._version = _installed()
        self._digest = digest_of(self.files())
        self._predictors: dict[int, nnUNetPredictor] = {}

    @property
    def identity(self) -> AlgorithmIdentity:
        name = "TotalSegmentator total 3 mm" if self.fast else "TotalSegmentator total 1.5 mm"
        return AlgorithmIdentity(name, self._version, self._digest, "University Hospital Basel")

    def files(self) -> list[Path]:
        """Every file that is read, in the order of the digest. Raises SegmenterWeightsError if one is missing."""
        return [file for model in self._model_files().values() for file in model.all]

    def segment(self, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        """Label those of `anatomies` that the task has classes for, on the volume's grid.

        Raises SegmenterWeightsError if the weights are gone by now.
        """
        anatomies = findable(anatomies)
        self._model_files()
        with quiet_package(self.weights), self._warm_networks(anatomies):
            from totalsegmentator.map_to_binary import class_map
            from totalsegmentator.python_api import totalsegmentator

            found = totalsegmentator(
                nifti_image(volume),
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

    @contextmanager
    def _warm_networks(self, anatomies: tuple[str, ...]) -> Iterator[None]:
        """While open, the package runs the networks of this object, and only those that `anatomies` need.

        The rest of its way stays its own: turning, resampling, splitting, merging the parts, and back.
        """
        import totalsegmentator.nnunet as package
        from totalsegmentator.map_tasks_config import TASK_CONFIGS

        mode = TASK_CONFIGS["total"]["sub_modes"]["fast" if self.fast else "default"]
        theirs, all_tasks = package.nnUNetv2_predict, mode["task_id"]
        package.nnUNetv2_predict = self._predict
        if not self.fast:
            mode["task_id"] = needed_networks(anatomies)
        try:
            yield
        finally:
            package.nnUNetv2_predict, mode["task_id"] = theirs, all_tasks

    def _predict(
        self,
        folder_in: Path,
        folder_out: Path,
        task: int,
        *_model: object,
        device: "torch.device",
        step_size: float,
        use_cropped_logits_resampling: bool = False,
        **_options: object,
    ) -> None:
        """In place of the package's `nnUNetv2_predict`: the same files, by a predictor that is kept."""
        if task not in self._predictors:
            import torch

            self._predictors[task] = load_predictor(
                self._model_files()[task], torch.device(device), step=step_size, mirroring=False
            )
        options: dict[str, Any] = {"use_cropped_logits_resampling": True} if use_cropped_logits_resampling else {}
        self._predictors[task].predict_from_files_sequential(str(folder_in), str(folder_out), **options)

    def _model_files(self) -> dict[int, ModelFiles]:
        """What the package reads for this task, by network. Raises SegmenterWeightsError if a file is missing."""
        from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS

        mode = TASK_CONFIGS["total"]["sub_modes"]["fast" if self.fast else "default"]
        models = {}
        for task in network_numbers(self.fast):
            folder = self.weights / TASK_ID_WEIGHTS_CONFIGS[task]["foldername"]
            models[task] = ModelFiles(folder / f"{mode['trainer']}__nnUNetPlans__3d_fullres", ("0",))
        for file in (file for files in models.values() for file in files.all):
            if not file.is_file():
                raise SegmenterWeightsError(
                    f"{file}: missing in TotalSegmentator's weights; on a machine with internet run "
                    f"`fvlm-node model fetch totalsegmentator{' --fast' if self.fast else ''}`, copy the folder "
                    "here and name it in model.totalsegmentator_weights"
                )
        return models


def _installed() -> str:
    """Version of the package. Raises SegmenterWeightsError if it is not there."""
    try:
        return importlib.metadata.version("TotalSegmentator")
    except importlib.metadata.PackageNotFoundError as error:
        raise SegmenterWeightsError(
            "TotalSegmentator is not installed; run: .venv/bin/pip install --no-deps -c constraints.txt "
            "-r requirements/totalsegmentator.txt"
        ) from error


def network_numbers(fast: bool) -> list[int]:
    """The networks of task `total`, by the package's numbers: one of 3 mm if `fast`, or five of 1.5 mm.

    Raises SegmenterWeightsError if the package is not installed.
    """
    _installed()
    from totalsegmentator.map_tasks_config import TASK_CONFIGS

    numbers = TASK_CONFIGS["total"]["sub_modes"]["fast" if fast else "default"]["task_id"]
    return list(numbers) if isinstance(numbers, list) else [numbers]


def default_weights() -> Path:
    """Where the package itself looks for weights."""
    return Path(os.environ.get("TOTALSEG_WEIGHTS_PATH", Path.home() / ".totalsegmentator/nnunet/results"))


def needed_networks(anatomies: tuple[str, ...]) -> list[int]:
    """Those of the five 1.5 mm networks, by the package's numbers, that have a class of `anatomies`; at least one."""
    from totalsegmentator.map_to_binary import class_map_5_parts, map_taskid_to_partname_ct

    vocabulary = load_vocabulary()
    wanted = {name for anatomy in anatomies for name in vocabulary.anatomy(anatomy).totalsegmentator}
    five = [task for task, part in map_taskid_to_partname_ct.items() if part in class_map_5_parts]
    return [task for task in five if wanted & set(class_map_5_parts[map_taskid_to_partname_ct[task]].values())] or five[
        :1
    ]


@contextmanager
def quiet_package(weights: Path) -> Iterator[None]:
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


def findable(anatomies: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `anatomies` that task `total` has classes for."""
    return tuple(name for name in anatomies if load_vocabulary().anatomy(name).totalsegmentator)


def own_sides(classes: npt.NDArray[np.uint8], names: dict[int, str]) -> OwnSides:
    """The sides in the names of the classes (`kidney_left`, `rib_left_1`) of class numbers [z, y, x]."""
    table = np.zeros(256, dtype=np.uint8)
    for number, name in names.items():
        parts = name.split("_")
        table[number] = LEFT if "left" in parts else RIGHT if "right" in parts else 0
    return lambda box: table[classes[box]]


def nifti_image(volume: Volume) -> "Nifti1Image":
    """The scan as the package takes it: HU [x, y, z] with its place in RAS+."""
    from nibabel import Nifti1Image

    return Nifti1Image(volume.hu.transpose(2, 1, 0), _nifti_affine(volume.grid))


def _nifti_affine(grid: Grid) -> npt.NDArray[np.float64]:
    """Affine for [x, y, z] arrays in RAS+ mm, from ours for [z, y, x] in LPS."""
    affine = grid.affine[:, [2, 1, 0, 3]].copy()
    affine[:2] *= -1.0
    return affine
