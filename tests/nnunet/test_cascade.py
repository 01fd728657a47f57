"""Cascades of nnU-Net: both stages come along, and the second sees what the first drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import ModelError
from medseg.loading import load_model
from medseg.model import COARSE_FOLDER, load_package
from medseg.nnunet.package import NnunetChoice, import_nnunet
from medseg.volume import Volume
from tests.nnunet.frozen import Frozen

FIRST_CONVOLUTION = "encoder.stages.0.0.convs.0.conv.weight"


def with_cascade(plans: dict[str, Any]) -> None:
    plans["configurations"] |= {
        "3d_lowres": {
            "inherits_from": "3d_fullres",
            "spacing": [2.5, 1.6, 1.6],
            "next_stage": "3d_cascade_fullres",
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }


def save_cascade(root: Path, seen: torch.Tensor, *, first_stage: bool = True) -> Path:
    """Write both stages; the second one's first convolution weighs the two labels' masks by `seen`."""
    frozen = Frozen("plain_3d_old")
    images = frozen.weights[FIRST_CONVOLUTION]
    weights = frozen.weights | {FIRST_CONVOLUTION: torch.cat((images, seen.expand_as(images)), dim=1)}
    if first_stage:
        arguments = {"configuration": "3d_lowres"}
        frozen.results(root, plans=with_cascade, init_args=arguments, trainer_name="nnUNetTrainer")
    arguments = {"configuration": "3d_cascade_fullres"}
    return frozen.results(root, plans=with_cascade, init_args=arguments, network_weights=weights)


def images() -> list[Volume]:
    array = np.random.default_rng(0).normal(size=(16, 24, 7)).astype(np.float32)
    return [Volume(np.asfortranarray(array * n + n), np.diag([0.8, 0.8, 2.5, 1])) for n in (1, 2)]


def test_both_stages_come_along(tmp_path):
    package = import_nnunet(save_cascade(tmp_path, torch.zeros(1)), tmp_path / "model")
    assert package.preprocessing.coarse_labels == (1, 2)
    assert package.network.in_channels == 4
    first = load_package(tmp_path / "model" / COARSE_FOLDER)
    assert (first.name, first.coarse) == ("Dataset901_Frozen_3d_lowres", False)
    assert first.preprocessing.spacing_mm == (2.5, 1.6, 1.6)
    import_nnunet(Frozen("plain_3d_old").results(tmp_path / "alone"), tmp_path / "plain")
    blind, plain = (load_model(tmp_path / name).segment(images()).array for name in ("model", "plain"))
    assert np.array_equal(blind, plain)
    import_nnunet(save_cascade(tmp_path / "seeing", torch.ones(1)), tmp_path / "seeing_model")
    assert not np.array_equal(load_model(tmp_path / "seeing_model").segment(images()).array, plain)


def test_a_cascade_without_its_first_stage_is_refused(tmp_path):
    folder = save_cascade(tmp_path, torch.zeros(1), first_stage=False)
    missing = "nnUNetTrainer__nnUNetPlans__3d_lowres: expected the first stage of the cascade"
    with pytest.raises(ModelError, match=f"{missing}.*found no such folder"):
        import_nnunet(folder, tmp_path / "model", NnunetChoice(configuration="3d_cascade_fullres"))
    assert not (tmp_path / "model").exists()
