"""nnU-Net v2 (Isensee et al., Nature Methods 2021): any trained model of one CT channel as a segmenter."""

from pathlib import Path

import numpy as np
import torch

from ct.anatomy import AlgorithmIdentity, AnatomyMap, SegmenterWeightsError, digest_of
from ct.nnunet_predictor import CHECKPOINT, ModelFiles, load_predictor, quiet_nnunet
from ct.segmenter_file import LabelMap, read_segmenter_file
from ct.volume import Volume


class NnUNet:
    """`Segmenter` through nnU-Net's predictor, with its preprocessing, sliding window, mirroring and resampling."""

    def __init__(self, folder: Path, labels: Path, device: str = "cpu") -> None:
        """`folder`: of a trained configuration, or of a data set that has only one. Raises SegmenterWeightsError."""
        self._described = read_segmenter_file(labels)
        if self._described.input is not None:
            raise SegmenterWeightsError(f"{labels}: input: nnU-Net has it in plans.json; leave it out")
        files = find_model(folder)
        plans, dataset = files.json("plans.json"), files.json("dataset.json")
        if len(dataset.get("channel_names", ())) != 1:
            raise SegmenterWeightsError(
                f"{files.folder}: its network wants the channels {dataset.get('channel_names')}; a CT has "
                "one: use a model of one"
            )
        reoriented = plans.get("image_reader_writer") == "NibabelIOWithReorient"
        if reoriented and self._described.orientation != "RAS":
            raise SegmenterWeightsError(
                f"{labels}: orientation {self._described.orientation}, but plans.json says that the images "
                "were turned to RAS"
            )
        self._map = LabelMap.of(labels, self._described, _numbers(files, dataset))
        self._digest = digest_of([*files.all, labels])
        self._predictor = load_predictor(files, torch.device(device))

    @property
    def identity(self) -> AlgorithmIdentity:
        return self._described.identity(self._digest)

    def segment(self, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        """Label those of `anatomies` that the labels file names, on the volume's grid; the map has no other names."""
        flipped = self._described.flipped
        hu = np.ascontiguousarray(np.flip(volume.hu, flipped), dtype=np.float32)[None]
        with quiet_nnunet():
            found = self._predictor.predict_single_npy_array(hu, {"spacing": list(volume.spacing)})
        classes = np.ascontiguousarray(np.flip(found, flipped))
        return self._map.anatomy_map(volume, classes, anatomies, self.identity)


def find_model(folder: Path) -> ModelFiles:
    """The configuration in `folder`, or the only one below it, with its folds. Raises SegmenterWeightsError."""
    models = (
        [folder] if (folder / "plans.json").is_file() else sorted(path.parent for path in folder.glob("*/plans.json"))
    )
    if len(models) != 1:
        found = f"there are {', '.join(model.name for model in models)}" if models else "there is none"
        raise SegmenterWeightsError(
            f"{folder}: not one trained nnU-Net v2 model (plans.json, dataset.json, fold_0/{CHECKPOINT}), {found}; "
            "name the folder TRAINER__PLANS__CONFIGURATION in model.segmenter_dir"
        )
    trained = [path.parent.name.removeprefix("fold_") for path in sorted(models[0].glob(f"fold_*/{CHECKPOINT}"))]
    folds = [fold for fold in trained if fold.isdecimal()] or [fold for fold in trained if fold == "all"]
    if not folds:
        raise SegmenterWeightsError(
            f"{models[0]}: no fold has a {CHECKPOINT}; copy the folders fold_0, fold_1, … there"
        )
    return ModelFiles(models[0], tuple(folds))


def _numbers(files: ModelFiles, dataset: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Label -> its values in the segmentation; a region (a list of labels) has all of these."""
    labels = dataset.get("labels")
    try:
        assert isinstance(labels, dict)
        listed = {name: value if isinstance(value, list | tuple) else [value] for name, value in labels.items()}
        return {
            str(name): tuple(int(v) for v in values)
            for name, values in listed.items()
            if name not in ("background", "ignore")
        }
    except (AssertionError, TypeError, ValueError) as error:
        raise SegmenterWeightsError(
            f"{files.folder / 'dataset.json'}: labels is not a table of names and numbers"
        ) from error
