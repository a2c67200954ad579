"""A small nnU-Net v2 model in the official layout, whose answer is known.

It reads the class off the HU (one level of 100 HU a class) of the voxel that lies 3 mm further along each axis.
"""

import json
from pathlib import Path
from typing import Any

import torch

LEVELS = ("liver", "kidney_left", "kidney_right", "aorta", "lung_upper_lobe_left", "lung_lower_lobe_right", "sternum")
"""Class of level 1, 2, ...; the last one belongs to no anatomy of the vocabulary."""


def write_model(model: Path, numbers: dict[str, int], trainer: str, extra: dict[str, Any] | None = None) -> Path:
    """TRAINER__PLANS__CONFIGURATION with fold 0; `numbers`: class by name, of which those in LEVELS are found."""
    described = plans()
    kwargs = described["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    labels = {"background": 0, **numbers}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    fold = model / "fold_0"
    fold.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(described))
    (model / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": network_weights(kwargs, numbers, len(labels)),
        "trainer_name": trainer,
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
        **(extra or {}),
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")
    return model


def plans() -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    kwargs = {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": None,
        "norm_op_kwargs": None,
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32, 32, 32],
        "median_image_size_in_voxels": [40, 33, 33],
        "spacing": [3.0, 3.0, 3.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "batch_dice": True,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    intensity = {"mean": 0.0, "std": 100.0, "percentile_00_5": 0.0, "percentile_99_5": 100.0 * len(LEVELS)}
    return {
        "dataset_name": "Dataset297_TotalSegmentator_total_3mm_1559subj",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensity},
    }


def network_weights(kwargs: dict[str, Any], numbers: dict[str, int], outputs: int) -> dict[str, torch.Tensor]:
    """Weights that answer with the nearest level: logit of level j is 2 j x - j², so its maximum is at x = j."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    located = {**kwargs, "conv_op": torch.nn.Conv3d, "nonlin": torch.nn.LeakyReLU}
    network = PlainConvUNet(input_channels=1, num_classes=outputs, **located)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # Arrays are [z, y, x] of an RAS+ image: one voxel on is towards the head, the front and the right.
        network.encoder.stages[0][0].convs[0].conv.weight[0, 0, 2, 2, 2] = 1.0
        network.decoder.stages[0].convs[0].conv.weight[0, 4, 1, 1, 1] = 1.0  # channels 4 to 7 are the skip connection
        head = network.decoder.seg_layers[0]
        head.bias.fill_(-1000.0)
        head.bias[0] = 0.0
        for level, name in enumerate(LEVELS, start=1):
            if name not in numbers:
                continue
            head.weight[numbers[name], 0] = 2.0 * level
            head.bias[numbers[name]] = -float(level**2)
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


def let_package_run_alone(weights: Path) -> None:
    """What TotalSegmentator's own loading needs: the folder, which it reads when imported, and trainers.

    nnU-Net would look for these by importing all that it has, and one of them needs timm, which is not installed.
    """
    import nnunetv2.utilities.file_path_utilities as paths
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )
    from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs_NoMirroring import (
        nnUNetTrainer_4000epochs_NoMirroring,
    )
    from totalsegmentator.nnunet import custom_trainers

    paths.nnUNet_results = str(weights)
    for trainer in (nnUNetTrainerNoMirroring, nnUNetTrainer_4000epochs_NoMirroring):
        custom_trainers[trainer.__name__] = trainer
