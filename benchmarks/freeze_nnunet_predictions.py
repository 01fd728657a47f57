"""What nnU-Net predicts of whole files, frozen for the tests: crop, normalisation, resampling, tiles, mirroring, export.

    peer/bin/python benchmarks/freeze_nnunet_predictions.py [OUT]

``peer`` is the environment of ``benchmarks/requirements.txt``; OUT is ``tests/nnunet/predictions`` by default. The
networks are those of ``freeze_nnunet.py``, the plans are changed as PREDICTIONS says. A prediction is NAME.json with
the changes, NAME_000n.nii.gz with the channels, NAME_labels.nii.gz with nnU-Net's label map, and NAME.safetensors with
the logits on the file's grid, their sums kept in 32 bits in place of nnU-Net's 16, and by how much its 16 bits are off
where they are off most; NAME_unmirrored.nii.gz are the labels of such 32-bit sums without mirroring. Of LABELS only
label maps are kept, of 32-bit sums; of a cascade also those of its first stage and what the second one sees of them. No
medseg is used here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nnunet_predict import in_single_precision, predict, predictor_of, prepare
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

TESTS = Path(__file__).parent.parent / "tests" / "nnunet"
HEAD = "decoder.seg_layers.1.bias"
FIRST_CONVOLUTION = "encoder.stages.0.0.convs.0."
TURN = ((-0.9, -0.42, 0.1), (0.41, -0.9, -0.14), (0.15, -0.09, 0.98))  # near to L, P, S

PREDICTIONS: dict[str, dict[str, Any]] = {
    "thick_slices": {  # half the spacing along z: exported logits lie half-way between two planes
        "network": "plain_3d_old",
        "plans": {"transpose_forward": [0, 1, 2], "image_reader_writer": "SimpleITKIO"},
        "configuration": {
            "spacing": [1.75, 0.8, 0.65],
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, True],
        },
        "mirror": [0, 2],
        "folds": [[0.1, 0.6, -0.7]],
        "shape": [22, 26, 12],
        "spacing_mm": [0.9, 0.7, 3.5],
    },
    "turned": {
        "network": "residual_3d",
        "plans": {"transpose_forward": [2, 0, 1], "image_reader_writer": "NibabelIOWithReorient"},
        "configuration": {
            "spacing": [1.3, 1.1, 0.9],
            "normalization_schemes": ["ZScoreNormalization", "RescaleTo01Normalization"],
            "use_mask_for_norm": [False, False],
        },
        "mirror": [],
        "folds": [[0.0, 0.0, 0.0], [0.5, -0.5, 0.0]],
        "shape": [18, 21, 16],
        "spacing_mm": [1.0, 1.25, 1.5],
    },
    "slices": {
        "network": "plain_2d",
        "plans": {"transpose_forward": [1, 0, 2], "image_reader_writer": "NibabelIO"},
        "configuration": {
            "spacing": [0.8, 1.3],
            "normalization_schemes": ["NoNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, True],
        },
        "mirror": [0, 1],
        "folds": [[0.0, 0.0, 0.0]],
        "shape": [31, 9, 23],
        "spacing_mm": [1.0, 2.0, 1.0],
    },
}

LABELS: dict[str, dict[str, Any]] = {
    "regions": {
        "network": "residual_3d",
        "plans": {"transpose_forward": [0, 1, 2], "image_reader_writer": "NibabelIO"},
        "configuration": {
            "spacing": [1.3, 1.1, 0.9],
            "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [True, True],
        },
        "dataset": {
            "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3},
            "regions_class_order": [1, 2, 3],
        },
        "mirror": [0, 1, 2],
        "folds": [[0.0, 0.0, 0.0], [0.3, -0.2, 0.0]],
        "shape": [18, 21, 16],
        "spacing_mm": [1.0, 1.25, 1.5],
    },
    "cascade": {
        "network": "plain_3d_old",
        "plans": {"transpose_forward": [0, 2, 1], "image_reader_writer": "NibabelIO"},
        "configuration": {
            "spacing": [1.5, 0.8, 0.65],
            "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, True],
        },
        "first_stage": {"spacing": [2.5, 1.6, 1.4]},
        "mirror": [0],
        "folds": [[0.1, 0.6, -0.7]],
        "shape": [22, 26, 18],
        "spacing_mm": [0.9, 0.7, 1.6],
    },
}
FIRST_STAGE, SECOND_STAGE = "3d_lowres", "3d_cascade_fullres"


def image(shape: list[int], seed: int, *, offset: float) -> NDArray[np.float32]:
    """Blobs on a border of zeros, with a hole of zeros inside."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    places = np.indices(shape) / np.reshape(shape, (3, 1, 1, 1)) - 0.5
    distance = np.sqrt((places**2).sum(axis=0))
    body = (distance < 0.42) & (distance > 0.08)
    return np.where(body, noise / noise.std() * 20 + offset, 0).astype(np.float32)


def results(folder: Path, case: dict[str, Any], stage: str | None = None) -> Path:
    """Write the folder of a trained model: a frozen network with changed plans, folds that differ in a bias.

    The second stage of a cascade weighs the masks of the labels twice as much as the images.
    """
    facts = json.loads((TESTS / "cases" / f"{case['network']}.json").read_text())
    plans, configuration = facts["plans"] | case["plans"], facts["configuration"]
    plans["transpose_backward"] = [int(axis) for axis in np.argsort(plans["transpose_forward"])]
    plans["configurations"][configuration] |= case["configuration"]
    if stage:
        first = {"inherits_from": configuration, "next_stage": SECOND_STAGE} | case["first_stage"]
        second = {"inherits_from": configuration, "previous_stage": FIRST_STAGE}
        plans["configurations"] |= {FIRST_STAGE: first, SECOND_STAGE: second}
        configuration = stage
    model = folder / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    model.mkdir()
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(facts["dataset"] | case.get("dataset", {})))
    with safe_open(TESTS / "cases" / f"{case['network']}.safetensors", framework="pt") as file:
        aliases = json.loads(file.metadata()["aliases"])
        own = {key[8:]: file.get_tensor(key) for key in file.keys() if key.startswith("weights/")}  # noqa: SIM118
    weights = own | {alias: own[key] for alias, key in aliases.items()}
    if stage == SECOND_STAGE:
        own = {key: w for key, w in weights.items() if FIRST_CONVOLUTION in key and w.ndim > 1}
        weights |= {key: torch.cat((w, 2 * w), dim=1) for key, w in own.items()}
    for fold, bias in enumerate(case["folds"]):
        (model / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": weights | {HEAD: weights[HEAD] + torch.tensor(bias)},
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": configuration},
            "inference_allowed_mirroring_axes": tuple(case["mirror"]) or None,
        }
        torch.save(checkpoint, model / f"fold_{fold}" / "checkpoint_final.pth")
    return model


def images(out: Path, name: str, case: dict[str, Any]) -> tuple[NDArray[np.float64], list[str]]:
    """Write the channels of a case, and return their affine and their files."""
    affine = np.eye(4)
    axes, triangle = np.linalg.qr(np.array(TURN))
    affine[:3, :3] = axes * np.sign(np.diag(triangle)) * np.array(case["spacing_mm"])
    affine[:3, 3] = (12, -34, 56)
    files = []
    for channel in (0, 1):
        path = out / f"{name}_000{channel}.nii.gz"
        volume = nib.Nifti1Image(image(case["shape"], channel, offset=100.0 * (1 - channel)), affine)
        volume.set_qform(affine, 1)
        volume.set_sform(affine, 1)
        nib.save(volume, path)
        files.append(str(path))
    return affine, files


def freeze_labels(out: Path, name: str, case: dict[str, Any]) -> None:
    affine, files = images(out, name, case)
    first = None
    with tempfile.TemporaryDirectory() as folder, in_single_precision():
        for stage in (FIRST_STAGE, SECOND_STAGE) if "first_stage" in case else (None,):
            predictor = predictor_of(results(Path(folder), case, stage), mirror=True)
            maps = {"labels": predict(predictor, files, first)[0]}
            if first is not None:
                seen = prepare(predictor, files, first)[1].clip(0)
                maps |= {"first": first, "seen": seen}
            first = maps["labels"]
    for kind, labels in maps.items():
        nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), out / f"{name}_{kind}.nii.gz")
    (out / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")
    print(f"{name:14} {first.shape} {np.bincount(first.ravel()).tolist()}")


def freeze(out: Path, name: str, case: dict[str, Any]) -> None:
    affine, files = images(out, name, case)
    with tempfile.TemporaryDirectory() as folder:
        model = results(Path(folder), case)
        predictor = predictor_of(model, mirror=bool(case["mirror"]))
        labels, halves = predict(predictor, files)
        with in_single_precision():
            _, logits = predict(predictor, files)
            unmirrored, _ = predict(predictor_of(model, mirror=False), files)
    with np.errstate(invalid="ignore"):
        rounding = np.nan_to_num(np.abs(logits - halves)).max(axis=0)
    reoriented = case["plans"]["image_reader_writer"].endswith("Reorient")
    if reoriented:  # back to the file's own axes
        stored = nib.load(files[0])
        back = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.io_orientation(stored.affine)
        )
        labels, unmirrored = (nib.orientations.apply_orientation(one, back) for one in (labels, unmirrored))
        rounding = nib.orientations.apply_orientation(rounding, back)
        logits = np.stack([nib.orientations.apply_orientation(one, back) for one in logits])
    for kind, one in (("labels", labels), ("unmirrored", unmirrored)):
        nib.save(nib.Nifti1Image(one.astype(np.uint8), affine), out / f"{name}_{kind}.nii.gz")
    file = out / f"{name}.safetensors"
    tensors = {"logits": logits, "rounding": rounding.astype(np.float16)}
    save_file({key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in tensors.items()}, file)
    file.chmod(0o644)
    (out / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")
    print(f"{name:14} {labels.shape} {np.bincount(labels.ravel()).tolist()}")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else TESTS / "predictions"
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, case in PREDICTIONS.items():
        freeze(out, name, case)
    for name, case in LABELS.items():
        freeze_labels(out, name, case)


if __name__ == "__main__":
    main()
