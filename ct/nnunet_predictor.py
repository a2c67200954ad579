"""A trained nnU-Net v2 model, loaded once and without running code of its files.

nnU-Net loads its checkpoints as pickles, and the classes that its plans name by importing whatever stands there. Here
the checkpoint goes through PyTorch's weights-only loader, which builds tensors and plain values and refuses the rest,
and the plans may name only nnU-Net's own parts in the lists below.
"""

import io
import json
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ct.anatomy import SegmenterWeightsError

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

CHECKPOINT = "checkpoint_final.pth"
_NETWORKS = {
    f"dynamic_network_architectures.architectures.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")
}
_LAYER = re.compile(r"torch\.nn\.(modules\.[a-z]+\.)?[A-Za-z0-9]+")
_PARTS = {
    "preprocessor_name": {"DefaultPreprocessor"},
    "resampling_fn_data": {"resample_data_or_seg_to_shape", "resample_torch_fornnunet"},
    "resampling_fn_seg": {"resample_data_or_seg_to_shape", "resample_torch_fornnunet"},
    "resampling_fn_probabilities": {"resample_data_or_seg_to_shape", "resample_torch_fornnunet"},
}
_NORMALIZATIONS = {
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
_INSTALL = ".venv/bin/pip install --no-deps -c constraints.txt -r requirements/totalsegmentator.txt"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one trained configuration: TRAINER__PLANS__CONFIGURATION of a results folder."""

    folder: Path
    folds: tuple[str, ...]
    """`0`, `1`, … or `all`; the answers of several are averaged, as nnU-Net does."""

    @property
    def checkpoints(self) -> list[Path]:
        return [self.folder / f"fold_{fold}" / CHECKPOINT for fold in self.folds]

    @property
    def all(self) -> list[Path]:
        return [*self.checkpoints, self.folder / "plans.json", self.folder / "dataset.json"]

    def json(self, name: str) -> dict[str, Any]:
        """plans.json or dataset.json. Raises SegmenterWeightsError."""
        file = self.folder / name
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise SegmenterWeightsError(
                f"{file}: cannot be read as JSON ({error}); copy the results folder again"
            ) from error
        if not isinstance(content, dict):
            raise SegmenterWeightsError(f"{file}: not a file of nnU-Net v2; copy the results folder again")
        return content


@contextmanager
def quiet_nnunet() -> Iterator[None]:
    """nnU-Net prints as it works, and warns of folders that only training needs."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def load_predictor(
    files: ModelFiles, device: torch.device, *, step: float = 0.5, mirroring: bool = True
) -> "nnUNetPredictor":
    """nnU-Net's own predictor with the network and all folds in memory.

    `step`: of the sliding window, in windows; `mirroring`: average over the mirrorings that the checkpoint allows.
    Raises SegmenterWeightsError, with the cure, for files that are missing, damaged, or ask for more than loading.
    """
    checkpoints = [read_checkpoint(file) for file in files.checkpoints]
    plans, dataset = files.json("plans.json"), files.json("dataset.json")
    with quiet_nnunet():
        try:
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
            from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
            from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
        except ModuleNotFoundError as error:
            raise SegmenterWeightsError(f"{error.name} is not installed; run: {_INSTALL}") from error
        try:
            manager = PlansManager(plans)
            configuration = manager.get_configuration(checkpoints[0]["init_args"]["configuration"])
            _check_names(plans, configuration, files.folder / "plans.json")
            if configuration.previous_stage_name is not None:
                raise SegmenterWeightsError(
                    f"{files.folder}: the second stage of a cascade, which needs the first one's answer; name "
                    "3d_fullres or 3d_lowres"
                )
            network = get_network_from_plans(
                configuration.network_arch_class_name,
                configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import,
                determine_num_input_channels(manager, configuration, dataset),
                manager.get_label_manager(dataset).num_segmentation_heads,
                allow_init=False,
                deep_supervision=False,
            )
            weights = [checkpoint["network_weights"] for checkpoint in checkpoints]
            for parameters in reversed(weights):
                network.load_state_dict(parameters)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
            raise SegmenterWeightsError(
                f"{files.folder}: not a model of nnU-Net v2 ({type(error).__name__}: {error}); copy the results "
                "folder again"
            ) from error
        except SegmenterWeightsError:
            raise
        except RuntimeError as error:
            raise SegmenterWeightsError(
                f"{files.folder}: the weights do not fit the network of plans.json "
                f"({' '.join(str(error).split())[:200]}); a trainer with a network of its own cannot be used"
            ) from error
        predictor = nnUNetPredictor(
            tile_step_size=step,
            use_mirroring=mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
        predictor.manual_initialization(
            network.eval(),
            manager,
            configuration,
            weights,
            dataset,
            checkpoints[0].get("trainer_name", ""),
            checkpoints[0].get("inference_allowed_mirroring_axes"),
        )
    return predictor


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net: tensors and plain values. Raises SegmenterWeightsError."""
    try:
        with torch.serialization.safe_globals(_numpy_numbers()):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SegmenterWeightsError(f"{file}: missing; copy the whole results folder of nnU-Net") from error
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"wants to run {asked[1]}" if asked else "is damaged, or more than tensors and plain values"
        raise SegmenterWeightsError(
            f"{file}: {what}, and is not loaded. If you trust it, keep only `network_weights`, `trainer_name`, "
            "`init_args` and `inference_allowed_mirroring_axes`: docs/operations/segmenters.md says how"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise SegmenterWeightsError(
            f"{file}: cannot be read ({' '.join(str(error).split())[:200]}); copy it again"
        ) from error
    if not isinstance(checkpoint, dict) or not {"network_weights", "init_args"} <= checkpoint.keys():
        raise SegmenterWeightsError(f"{file}: not a checkpoint of nnU-Net v2")
    return checkpoint


def _numpy_numbers() -> list[Any]:
    """What NumPy numbers in a checkpoint's log are built with: no object arrays, nothing that calls anything."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    types = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "bool")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *types]


def _check_names(plans: dict[str, Any], configuration: Any, file: Path) -> None:
    """SegmenterWeightsError unless all that would be looked up by name is nnU-Net's own."""
    named = {"network": (configuration.network_arch_class_name, _NETWORKS)}
    named |= {key: (configuration.configuration[key], allowed) for key, allowed in _PARTS.items()}
    named |= {f"normalization {i}": (n, _NORMALIZATIONS) for i, n in enumerate(configuration.normalization_schemes)}
    named["label_manager"] = (plans.get("label_manager") or "LabelManager", {"LabelManager"})
    for key, (name, allowed) in named.items():
        if name not in allowed:
            raise SegmenterWeightsError(f"{file}: {key} {name!r} is not run; allowed: {', '.join(sorted(allowed))}")
    arguments = configuration.network_arch_init_kwargs
    for key in configuration.network_arch_init_kwargs_req_import:
        if arguments[key] is not None and not _LAYER.fullmatch(str(arguments[key])):
            raise SegmenterWeightsError(f"{file}: {key} {arguments[key]!r} is not run; allowed: layers of torch.nn")
