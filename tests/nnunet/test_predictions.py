"""Whole files, as nnU-Net predicts them: frozen by ``benchmarks/freeze_nnunet_predictions.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medseg.data.transforms import build_transforms, prepare
from medseg.inference.labelling import label_on_grid
from medseg.loading import load_model
from medseg.model import COARSE_FOLDER
from medseg.nifti import read_nifti
from medseg.nnunet.package import import_nnunet
from medseg.volume import Volume
from tests.nnunet.frozen import Frozen

PREDICTIONS = Path(__file__).parent / "predictions"
NAMES = ("thick_slices", "turned", "slices")
HEAD = "decoder.seg_layers.1.bias"
FIRST_CONVOLUTION = "encoder.stages.0.0.convs.0."
FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"


class Labels:
    """Frozen label maps, and the folder of the model that made them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.case: dict[str, Any] = json.loads((PREDICTIONS / f"{name}.json").read_text())
        self.images = [read_nifti(PREDICTIONS / f"{name}_000{channel}.nii.gz") for channel in (0, 1)]
        self.labels = self.map("labels").array

    def map(self, kind: str) -> Volume:
        return read_nifti(PREDICTIONS / f"{self.name}_{kind}.nii.gz")

    def results(self, root: Path, stage: str | None = None) -> Path:
        frozen = Frozen(self.case["network"])

        def change(plans: dict[str, Any]) -> None:
            plans |= self.case["plans"]
            plans["configurations"][frozen.configuration] |= self.case["configuration"]
            first = {"inherits_from": frozen.configuration, "next_stage": SECOND} | self.case.get("first_stage", {})
            second = {"inherits_from": frozen.configuration, "previous_stage": FIRST}
            plans["configurations"] |= {FIRST: first, SECOND: second} if stage else {}

        more = {
            "inference_allowed_mirroring_axes": tuple(self.case["mirror"]) or None,
            "init_args": {"configuration": stage or frozen.configuration},
        }
        own = frozen.weights
        if stage == SECOND:
            seen = {key: w for key, w in own.items() if FIRST_CONVOLUTION in key and w.ndim > 1}
            own = own | {key: torch.cat((w, 2 * w), dim=1) for key, w in seen.items()}
        dataset = self.case.get("dataset", {})
        folder = frozen.results(root, plans=change, dataset=lambda d: d.update(dataset), folds=(), **more)
        for fold, bias in enumerate(self.case["folds"]):
            (folder / f"fold_{fold}").mkdir()
            weights = own | {HEAD: own[HEAD] + torch.tensor(bias)}
            checkpoint = frozen.checkpoint(fold, network_weights=weights, **more)
            torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
        return folder


class Prediction(Labels):
    """Frozen logits, too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        tensors = load_file(PREDICTIONS / f"{name}.safetensors")
        self.logits, self.rounding = tensors["logits"].numpy(), tensors["rounding"].float().numpy()


@pytest.fixture(scope="module", params=NAMES)
def prediction(request, tmp_path_factory):
    frozen = Prediction(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    import_nnunet(frozen.results(folder), folder / "model")
    return frozen, load_model(folder / "model", device="cpu")


@pytest.mark.parametrize("mirror", [True, False], ids=["mirrored", "unmirrored"])
def test_labels_are_those_of_sums_in_32_bits(prediction, mirror):
    frozen, segmenter = prediction
    window = segmenter.window
    if not mirror:
        segmenter.window = window.model_copy(update={"mirror_axes": ()})
    labels = segmenter.segment(frozen.images).array
    segmenter.window = window
    same = not frozen.case["mirror"]
    assert np.array_equal(frozen.logits.argmax(axis=0), frozen.map("unmirrored").array) == same
    expected = frozen.logits.argmax(axis=0) if mirror else frozen.map("unmirrored").array
    assert np.array_equal(labels, expected)


def test_labels_are_nnunets(prediction):
    """Where they differ, nnU-Net's sums in 16 bits are off by more than lies between the two largest logits."""
    frozen, segmenter = prediction
    labels = segmenter.segment(frozen.images).array
    assert min(np.bincount(frozen.labels.ravel(), minlength=3)) > 100
    two = np.sort(frozen.logits, axis=0)[-2:]
    differ = labels != frozen.labels
    assert differ.mean() < 1e-3
    assert ((two[1] - two[0])[differ] < 2 * frozen.rounding[differ] + 1e-3).all()


def test_regions_are_nnunets(tmp_path):
    frozen = Labels("regions")
    import_nnunet(frozen.results(tmp_path), tmp_path / "model")
    assert min(np.bincount(frozen.labels.ravel(), minlength=4)) > 20
    assert np.array_equal(load_model(tmp_path / "model", device="cpu").segment(frozen.images).array, frozen.labels)


def test_a_cascade_is_nnunets(tmp_path):
    """The first stage's labels, what the second one sees of them, and its own."""
    frozen = Labels("cascade")
    frozen.results(tmp_path, FIRST)
    package = import_nnunet(frozen.results(tmp_path, SECOND), tmp_path / "model")
    segmenter, first = load_model(tmp_path / "model", device="cpu"), frozen.map("first")
    assert np.array_equal(load_model(tmp_path / "model" / COARSE_FOLDER).segment(frozen.images).array, first.array)
    prepared = prepare(build_transforms(package.preprocessing, 2), frozen.images, coarse=first)
    assert np.array_equal(prepared.coarse.numpy(), frozen.map("seen").array)
    assert np.array_equal(segmenter.segment(frozen.images).array, frozen.labels)
    for labels in (first.array, frozen.labels):
        assert min(np.bincount(labels.ravel(), minlength=3)) > 100


def test_logits_on_the_files_grid_are_nnunets(prediction):
    frozen, segmenter = prediction
    package = segmenter.package
    prepared = prepare(build_transforms(package.preprocessing, 2), frozen.images)
    found = np.full_like(frozen.logits, np.nan)

    def sink(place: tuple[slice, slice, slice], logits: torch.Tensor) -> None:
        found[(slice(None), *place)] = logits.numpy()

    native = frozen.images[0].grid
    with torch.inference_mode():
        labels = label_on_grid(segmenter.engine(), prepared, native, package.scheme.drawn_values, sink=sink)
    inside = np.isfinite(frozen.logits).all(axis=0)
    assert np.array_equal(inside, np.isfinite(found).all(axis=0))
    assert inside.mean() < 0.9
    np.testing.assert_allclose(found[:, inside], frozen.logits[:, inside], atol=2e-4)
    assert np.array_equal(labels[inside], frozen.logits.argmax(axis=0)[inside])
    assert not labels[~inside].any()


def test_half_a_voxel_would_show(prediction):
    """From one voxel to the next, logits change by many times what the two may differ."""
    logits = prediction[0].logits
    for axis in (1, 2, 3):
        with np.errstate(invalid="ignore"):
            steps = np.abs(np.diff(logits, axis=axis))
        assert np.quantile(steps[np.isfinite(steps)], 0.75) / 2 > 50 * 2e-4


@pytest.mark.parametrize(("name", "same"), [("turned", True), ("slices", False)])
def test_files_that_store_the_patient_the_other_way_round(name, same, tmp_path):
    """A reader that reorients sees the same image; the others see it mirrored, as nnU-Net does."""
    frozen = Prediction(name)
    frozen.case["mirror"] = []
    import_nnunet(frozen.results(tmp_path), tmp_path / "model")
    segmenter = load_model(tmp_path / "model", device="cpu")
    flipped = []
    for image in frozen.images:
        affine = image.affine.copy()
        affine[:3, 3] += affine[:3, 0] * (image.array.shape[0] - 1)
        affine[:3, 0] *= -1
        flipped.append(Volume(np.asfortranarray(image.array[::-1]), affine))
    labels = segmenter.segment(frozen.images).array
    assert np.array_equal(segmenter.segment(flipped).array[::-1], labels) == same
