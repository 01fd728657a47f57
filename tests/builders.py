"""What several tests build: a tiny data set, a tiny experiment, a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medseg.config import ExperimentConfig
from medseg.data.fingerprint import Fingerprint, IntensityStatistics
from medseg.data.folds import patient_folds
from medseg.data.manifest import Dataset, Manifest, load_manifest, save_manifest
from medseg.labels import LabelMap, LabelSet
from medseg.model import ModelPackage, NetworkSpec, Provenance
from medseg.nifti import write_nifti
from medseg.volume import Volume

TINY_YAML = """\
name: tiny
data:
  manifest: MANIFEST
preprocessing:
  spacing_mm: [1.5, 1.5, 2.0]
  intensity:
    - kind: zscore
network:
  name: unet
  channels: [4, 8]
loss:
  name: ce_dice
training:
  patch_size: [16, 16, 16]
  batch_size: 2
  epochs: 1
  steps_per_epoch: 2
  optimizer:
    learning_rate: 1.0e-3
"""
LABELS = LabelSet.from_names({1: "ball", 3: "box"})


def tiny_case(seed: int, size: int = 20) -> tuple[Volume, LabelMap]:
    """A bright ball and a brighter box in noise; label values 1 and 3."""
    rng = np.random.default_rng(seed)
    index = np.indices((size, size - 2, size - 4))
    centre = rng.integers(6, 9, 3)[:, None, None, None]
    labels = np.where(((index - centre) ** 2).sum(0) < 16, 1, 0)
    labels[12:17, 11:16, 9:14] = 3
    image = 100.0 * labels + rng.normal(0, 10, labels.shape)
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    return (
        Volume(np.asfortranarray(image.astype(np.float32)), affine, modality="MR"),
        LabelMap(Volume(np.asfortranarray(labels.astype(np.uint8)), affine), LABELS),
    )


def tiny_dataset(folder: Path, cases: int = 6) -> Dataset:
    """Write cases and their manifest with three folds."""
    names = [f"case_{n}" for n in range(cases)]
    for n, name in enumerate(names):
        image, label = tiny_case(n)
        write_nifti(folder / "images" / f"{name}.nii.gz", image)
        write_nifti(folder / "labels" / f"{name}.nii.gz", label)
    entries = [
        {"id": name, "images": [f"images/{name}.nii.gz"], "label": f"labels/{name}.nii.gz"} for name in names
    ]
    manifest = Manifest.model_validate(
        {
            "name": "tiny",
            "root": ".",
            "channels": [{"name": "T1", "modality": "MR"}],
            "labels": LABELS.model_dump(),
            "cases": entries,
            "splits": {"seed": 0, "folds": dict(enumerate(patient_folds(names, 3, 0)))},
        }
    )
    save_manifest(folder / "tiny.yaml", manifest)
    return load_manifest(folder / "tiny.yaml")


def tiny_config(**training) -> ExperimentConfig:
    """An experiment of seconds; keywords change its training block."""
    patch = training.pop("patch_size", (16, 16, 16))
    return ExperimentConfig.model_validate(
        {
            "name": "tiny",
            "data": {"manifest": "tiny.yaml"},
            "preprocessing": {"spacing_mm": (1.5, 1.5, 2.0), "intensity": ({"kind": "zscore"},)},
            "network": {"name": "unet", "channels": (4, 8, 16)},
            "loss": {"name": "ce_dice"},
            "training": {"patch_size": patch, "batch_size": 2, "epochs": 3, "steps_per_epoch": 4} | training,
        }
    )


def tiny_package(modality: str = "MR", dims: int = 3, **network) -> ModelPackage:
    """A package of an untrained network for one channel and the tiny labels."""
    triple = (1.0, 1.0, 1.0)
    return ModelPackage.model_validate(
        {
            "name": "tiny",
            "modalities": (modality,),
            "network": NetworkSpec(
                name="unet",
                spatial_dims=dims,
                in_channels=1,
                num_classes=3,
                fields={"channels": (4, 8)} | network,
            ),
            "labels": LABELS,
            "preprocessing": {"spacing_mm": (1.5, 1.5, 2.0), "intensity": ({"kind": "zscore"},)},
            "inference": {"tile_size": (16, 16, 16)[:dims]},
            "envelope": Fingerprint(
                cases=1,
                median_spacing_mm=triple,
                smallest_spacing_mm=triple,
                largest_spacing_mm=triple,
                smallest_extent_mm=triple,
                largest_extent_mm=triple,
                foreground=(IntensityStatistics(mean=0, std=1, percentile_00_5=-1, percentile_99_5=1),),
            ),
            "provenance": Provenance(
                medseg_version="0",
                created="",
                dataset="tiny",
                config_sha256="",
                data_sha256="",
                fold=0,
                training_cases=1,
                validation_dice={},
            ),
        }
    )


def save_tiny_model(folder: Path, **package) -> ModelPackage:
    """Write a package with random weights, the same for every call."""
    torch.manual_seed(0)
    tiny = tiny_package(**package)
    return tiny.save(folder, {"fold_0": tiny.network.build().state_dict()})


class Silent:
    """An observer that counts what it is told."""

    def __init__(self) -> None:
        self.validations: list[dict[str, float]] = []
        self.steps = 0

    def preparing(self, what, done, total) -> None:
        pass

    def stepped(self, fraction, epoch, loss, waiting) -> None:
        self.steps += 1

    def validated(self, epoch, dice, is_best) -> None:
        self.validations.append(dict(dice))
