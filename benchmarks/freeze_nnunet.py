"""What nnU-Net's own networks compute, built by nnU-Net from plans of both forms, frozen for the tests.

    python -m venv peer && peer/bin/pip install -r benchmarks/requirements.txt
    peer/bin/python benchmarks/freeze_nnunet.py [OUT]

OUT is ``tests/nnunet/cases`` by default. Each case is a pair of files: NAME.json holds ``plans.json`` and
``dataset.json`` as nnU-Net writes them and the configuration; NAME.safetensors holds the weights, an input and the
logits. A tensor that nnU-Net's state dict has under several names is stored under one; the metadata's ``aliases`` has
the others. No medseg is used here.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file
from torch import nn

OUT = Path(__file__).parent.parent / "tests" / "nnunet" / "cases"
CHANNELS = {"0": "T1", "1": "FLAIR"}
LABELS = {"background": 0, "core": 1, "rim": 2}
UNET = "dynamic_network_architectures.architectures.unet."


def resampling(order: int, *, is_seg: bool) -> dict[str, Any]:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


def plans(name: str, configuration: dict[str, Any]) -> dict[str, Any]:
    size = configuration["patch_size"]
    statistics = {"mean": 100.0, "median": 99.0, "std": 20.0, "min": 0.0, "max": 250.0}
    percentiles = {"percentile_00_5": 10.0, "percentile_99_5": 220.0}
    common = {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "median_image_size_in_voxels": [float(n) for n in size],
        "spacing": [2.5, 0.8, 0.8][-len(size) :],
        "normalization_schemes": ["ZScoreNormalization"] * len(CHANNELS),
        "use_mask_for_norm": [False] * len(CHANNELS),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling(3, is_seg=False),
        "resampling_fn_seg_kwargs": resampling(1, is_seg=True),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling(1, is_seg=False),
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset901_Frozen",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.5, 0.8, 0.7],
        "original_median_shape_after_transp": [20, 60, 50],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: common | configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": dict.fromkeys(CHANNELS, statistics | percentiles),
    }


def new_form(kind: str, patch: list[int], **arguments: Any) -> dict[str, Any]:
    dims, stages = len(patch), len(arguments["features_per_stage"])
    norm = arguments.pop("norm", "instancenorm.InstanceNorm")
    own = {
        "n_stages": stages,
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.{norm}{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "patch_size": patch,
        "architecture": {
            "network_class_name": UNET + kind,
            "arch_kwargs": own | arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


PLANE = {
    "features_per_stage": [4, 6, 8],
    "kernel_sizes": [[3, 3]] * 3,
    "strides": [[1, 1], [2, 2], [2, 2]],
}
THICK = {
    "features_per_stage": [4, 6, 8],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 1]],
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain_2d": (
        "2d",
        new_form("PlainConvUNet", [16, 24], **PLANE, n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2]),
    ),
    "plain_3d_old": (
        "3d_fullres",
        {
            "patch_size": [6, 16, 8],
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "n_conv_per_stage_encoder": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
            "num_pool_per_axis": [1, 2, 1],
            "pool_op_kernel_sizes": THICK["strides"],
            "conv_kernel_sizes": THICK["kernel_sizes"],
            "unet_max_num_features": 10,
        },
    ),
    "plain_3d_uneven": (
        "3d_fullres",
        new_form(
            "PlainConvUNet",
            [6, 16, 8],
            **THICK,
            n_conv_per_stage=[1, 2, 3],
            n_conv_per_stage_decoder=[3, 1],
            conv_bias=False,
            nonlin="torch.nn.ReLU",
        ),
    ),
    "plain_2d_batch_norm": (
        "2d",
        new_form(
            "PlainConvUNet",
            [16, 24],
            **PLANE,
            n_conv_per_stage=[2, 2, 2],
            n_conv_per_stage_decoder=[2, 2],
            norm="batchnorm.BatchNorm",
        ),
    ),
    "residual_2d": (
        "2d",
        new_form(
            "ResidualEncoderUNet",
            [16, 24],
            **PLANE,
            n_blocks_per_stage=[1, 3, 2],
            n_conv_per_stage_decoder=[1, 1],
        ),
    ),
    "residual_3d": (
        "3d_fullres",
        new_form(
            "ResidualEncoderUNet",
            [6, 16, 8],
            **THICK,
            n_blocks_per_stage=[2, 1, 2],
            n_conv_per_stage_decoder=[1, 2],
        ),
    ),
}


def scramble(network: nn.Module) -> None:
    """Give every tensor a value of its own, norms and biases too: what is taken for another shows."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if name.endswith("running_var") or (".norm." in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif not name.endswith("num_batches_tracked") and tensor.ndim < 2:
            tensor.normal_(0, 0.3)


def freeze(folder: Path, case: str, name: str, configuration: dict[str, Any]) -> None:
    written = plans(name, configuration)
    chosen = PlansManager(deepcopy(written)).get_configuration(name)
    network = get_network_from_plans(
        chosen.network_arch_class_name,
        chosen.network_arch_init_kwargs,
        chosen.network_arch_init_kwargs_req_import,
        len(CHANNELS),
        len(LABELS),
        deep_supervision=False,
    ).eval()
    scramble(network)
    image = torch.randn(1, len(CHANNELS), *configuration["patch_size"])
    logits = network(image)
    weights: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for key, tensor in network.state_dict(keep_vars=True).items():
        if first := names.setdefault(id(tensor), key):
            aliases |= {} if first == key else {key: first}
            weights |= {f"weights/{key}": tensor.detach().clone()} if first == key else {}
    file = folder / f"{case}.safetensors"
    save_file(weights | {"image": image, "logits": logits}, file, {"aliases": json.dumps(aliases)})
    file.chmod(0o644)
    facts = {
        "configuration": name,
        "plans": written,
        "dataset": {"channel_names": CHANNELS, "labels": LABELS, "numTraining": 12, "file_ending": ".nii.gz"},
    }
    (folder / f"{case}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{case:20} {sum(t.numel() for t in weights.values()):7,} numbers, logits {logits.std():.3f}")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(901)
    with torch.no_grad():
        for case, (name, configuration) in CASES.items():
            freeze(folder, case, name, configuration)


if __name__ == "__main__":
    main()
