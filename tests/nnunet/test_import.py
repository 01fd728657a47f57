"""Folders of results become packages; what is missing, ambiguous or holds objects is refused with the reason."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.ensemble import merge_packages
from medseg.errors import ManifestError, ModelError, UsageError
from medseg.inference.accepted import orientation_findings
from medseg.loading import load_model
from medseg.model import load_package
from medseg.nnunet.checkpoint import read_checkpoint
from medseg.nnunet.package import NnunetChoice, import_nnunet
from medseg.volume import SourceSlice, Volume
from tests.nnunet.frozen import Frozen

PLANE, THICK = "plain_2d", "plain_3d_old"
OTHER = {"network_weights": {}, "trainer_name": "nnUNetTrainer", "init_args": {"configuration": "2d"}}


def shifted(frozen: Frozen, by: float) -> dict[str, torch.Tensor]:
    """The weights with the bias of the background changed: all logits of class 0 are higher by `by`."""
    bias = frozen.weights["decoder.seg_layers.1.bias"] + torch.tensor([by, 0, 0])
    return frozen.weights | {"decoder.seg_layers.1.bias": bias}


def with_fold(folder: Path, fold: int | str, checkpoint: dict[str, Any], file: str = "final") -> None:
    (folder / f"fold_{fold}").mkdir(exist_ok=True)
    torch.save(checkpoint, folder / f"fold_{fold}" / f"checkpoint_{file}.pth")


def test_what_a_package_says(tmp_path):
    frozen = Frozen(THICK)
    folder = frozen.results(tmp_path)
    package = import_nnunet(folder, tmp_path / "model")
    assert load_package(tmp_path / "model") == package
    assert package.name == "Dataset901_Frozen_3d_fullres"
    assert package.modalities == ("MR", "MR")
    assert [(label.index, label.name) for label in package.labels] == [(1, "core"), (2, "rim")]
    assert package.inference.mirror_axes == (0, 1)
    assert package.inference.tile_size == (6, 16, 8)
    (network,) = package.provenance.imported
    assert (network.software, network.trainer, network.plans) == ("nnU-Net 2", "nnUNetTrainer", "nnUNetPlans")
    assert (network.configuration, network.fold, network.epoch) == ("3d_fullres", "0", 1000)
    assert re.fullmatch("[0-9a-f]{64}", network.checkpoint_sha256)
    assert (package.provenance.folds, package.provenance.training_cases) == ((0,), 12)
    assert package.envelope.median_spacing_mm == (0.7, 0.8, 2.5)  # files store the last axis of nnU-Net's first
    assert package.envelope.median_shape == (50, 60, 20)
    assert package.envelope.foreground[1].percentile_99_5 == 220
    assert (package.envelope.modalities, package.envelope.labels) == (("MR", "MR"), {})
    assert not any(package.envelope.largest_spacing_mm + package.envelope.smallest_extent_mm)  # of no case known
    assert package.envelope.is_stored_order
    turned = import_nnunet(folder, tmp_path / "turned", NnunetChoice(orientation="LPS"))
    assert not turned.envelope.is_stored_order


def test_measurements_of_all_cases_where_nnunet_left_them(tmp_path):
    folder = Frozen(THICK).results(tmp_path)
    measured = {
        "spacings": [[2, 1, 1], [3, 1, 0.5], [4, 1, 1]],
        "shapes_after_crop": [[10, 20, 30], [20, 40, 60], [10, 20, 30]],
        "median_relative_size_after_cropping": 0.5,
        "foreground_intensity_properties_per_channel": Frozen(THICK).facts["plans"][
            "foreground_intensity_properties_per_channel"
        ],
    }
    (folder / "dataset_fingerprint.json").write_text(json.dumps(measured))
    envelope = import_nnunet(folder, tmp_path / "model").envelope
    assert (envelope.cases, envelope.kept_by_crop) == (3, 0.5)
    assert envelope.median_spacing_mm == (1, 1, 3)
    assert (envelope.smallest_spacing_mm, envelope.largest_spacing_mm) == ((0.5, 1, 2), (1, 1, 4))
    assert (envelope.smallest_extent_mm, envelope.largest_extent_mm) == ((30, 20, 20), (30, 40, 60))
    assert envelope.median_shape == (30, 20, 10)


def test_validation_dice_is_the_mean_over_the_folds(tmp_path):
    folder = Frozen(PLANE).results(tmp_path, folds=(0, 1))
    for fold, core in ((0, 0.5), (1, 0.7)):
        (folder / f"fold_{fold}" / "validation").mkdir()
        mean = {"1": {"Dice": core}, "2": {"Dice": float("nan")}}
        summary = {"mean": mean, "metric_per_case": [{}] * (3 - fold)}
        (folder / f"fold_{fold}" / "validation" / "summary.json").write_text(json.dumps(summary))
    provenance = import_nnunet(folder, tmp_path / "model").provenance
    assert provenance.validation_dice == {"core": 0.6, "rim": None}
    assert provenance.training_cases == 10


def test_logits_of_folds_are_averaged(tmp_path):
    """A fold that always says background, by far, outvotes another one; by little, it does not."""
    frozen = Frozen(THICK)
    labels = {}
    for by in (0.0, 1e3):
        folder = frozen.results(tmp_path / f"{by}")
        with_fold(
            folder, 3, frozen.checkpoint(3, network_weights=shifted(frozen, by), trainer_name="nnUNetTrainer")
        )
        package = import_nnunet(folder, tmp_path / f"model_{by}")
        assert (package.provenance.folds, len(package.weights_sha256)) == ((0, 3), 2)
        affine = np.diag([0.8, 0.8, 2.5, 1])
        array = np.random.default_rng(0).normal(size=(8, 16, 6)).astype(np.float32)
        images = [Volume(np.asfortranarray(array + n), affine) for n in (0, 1)]
        labels[by] = load_model(tmp_path / f"model_{by}").segment(images).array
    assert labels[0.0].any()
    assert not labels[1e3].any()


def test_folds_and_checkpoints_are_chosen(tmp_path):
    frozen = Frozen(PLANE)
    folder = frozen.results(tmp_path, folds=(0, 2, 10, "all"))
    with_fold(folder, 4, frozen.checkpoint(4, current_epoch=7), "best")

    def folds(target: str, **choice: Any) -> list[str]:
        package = import_nnunet(folder, tmp_path / target, NnunetChoice(**choice))
        return [network.fold for network in package.provenance.imported]

    assert folds("a") == ["0", "2", "10"]
    assert folds("b", folds=("2", "0")) == ["2", "0"]
    assert folds("c", folds=("all",)) == ["all"]
    assert load_package(tmp_path / "c").provenance.training_cases == 12
    assert folds("d", checkpoint="best") == ["4"]
    assert load_package(tmp_path / "d").provenance.imported[0].epoch == 7
    with pytest.raises(ModelError, match="checkpoint_final.pth in fold_1, found it in fold_0, fold_2, fold_10"):
        folds("e", folds=("0", "1"))
    only_all = frozen.results(tmp_path / "only", folds=("all",))
    assert import_nnunet(only_all, tmp_path / "f").provenance.folds == ()
    with pytest.raises(ModelError, match="in a folder of a fold, found it in none"):
        import_nnunet(frozen.results(tmp_path / "none", folds=()), tmp_path / "g")


def test_merged_packages_keep_where_they_come_from(tmp_path):
    frozen = Frozen(PLANE)
    folder = frozen.results(tmp_path)
    with_fold(folder, 1, frozen.checkpoint(1, network_weights=shifted(frozen, 1)))
    for fold in ("0", "1"):
        import_nnunet(folder, tmp_path / f"model_{fold}", NnunetChoice(folds=(fold,)))
    merged = merge_packages([tmp_path / "model_0", tmp_path / "model_1"], tmp_path / "merged")
    assert [network.fold for network in merged.provenance.imported] == ["0", "1"]


def test_folds_of_different_trainers_are_refused(tmp_path):
    frozen = Frozen(PLANE)
    folder = frozen.results(tmp_path)
    with_fold(folder, 1, frozen.checkpoint(1, trainer_name="nnUNetTrainerNoMirroring"))
    with pytest.raises(ModelError, match="fold_1: expected a network of 2d and nnUNetTrainer, .*NoMirroring"):
        import_nnunet(folder, tmp_path / "model")
    with pytest.raises(ModelError, match="expected a network of 3d_fullres and nnUNetTrainer"):
        import_nnunet(folder, tmp_path / "model", NnunetChoice(configuration="3d_fullres", folds=("0",)))


def test_the_folder_of_a_data_set(tmp_path):
    root = tmp_path / "Dataset901_Frozen"
    Frozen(PLANE).results(root)
    assert import_nnunet(root, tmp_path / "a").network.spatial_dims == 2
    Frozen(THICK).results(root)
    both = "nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__3d_fullres"
    with pytest.raises(UsageError, match=f"expected one model, found {both}; .*--configuration"):
        import_nnunet(root, tmp_path / "b")
    with pytest.raises(UsageError, match=f"expected one model of 3d_lowres, found {both}"):
        import_nnunet(root, tmp_path / "b", NnunetChoice(configuration="3d_lowres"))
    assert import_nnunet(root, tmp_path / "b", NnunetChoice(configuration="3d_fullres")).network.spatial_dims == 3
    with pytest.raises(ModelError, match="found no plans.json"):
        import_nnunet(tmp_path / "b", tmp_path / "c")
    with pytest.raises(ModelError, match="found no such folder"):
        import_nnunet(tmp_path / "z", tmp_path / "c")
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        import_nnunet(root, tmp_path / "b", NnunetChoice(configuration="3d_fullres"))


def test_files_that_cannot_be_read(tmp_path):
    folder = Frozen(PLANE).results(tmp_path)
    (folder / "dataset.json").write_text("[]")
    with pytest.raises(ModelError, match=r"dataset\.json: expected keys and values as JSON"):
        import_nnunet(folder, tmp_path / "model")
    (folder / "dataset.json").unlink()
    with pytest.raises(ModelError, match=r"dataset\.json: .*no such file"):
        import_nnunet(folder, tmp_path / "model")


def test_regions_and_a_value_to_ignore(tmp_path):
    def regions(dataset: dict[str, Any]) -> None:
        dataset["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3, "ignore": 4}
        dataset["regions_class_order"] = [1, 2, 3]
        dataset["channel_names"] = {"0": "CT", "1": "noNorm"}

    package = import_nnunet(Frozen(PLANE).results(tmp_path, dataset=regions), tmp_path / "model")
    assert [(r.name, r.labels, r.paint) for r in package.regions] == [
        ("whole", (1, 2, 3), 1),
        ("core", (2, 3), 2),
        ("rim", (3,), 3),
    ]
    assert (package.ignore_value, package.modalities) == (4, ("CT", "OT"))
    labels = Frozen(PLANE).results(tmp_path / "no_order", dataset=lambda d: d["labels"].update(whole=[1, 2]))
    with pytest.raises(ManifestError, match="expected regions_class_order"):
        import_nnunet(labels, tmp_path / "other")
    more = Frozen(PLANE).results(tmp_path / "more", dataset=lambda d: d["labels"].update(more=3))
    with pytest.raises(ModelError, match=r"decoder.heads.0.weight.*\(3, 4, 1, 1\) for \(4, 4, 1, 1\)"):
        import_nnunet(more, tmp_path / "other")


class Trainer:
    """What a trainer of one's own may put into its checkpoint: code that runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_a_checkpoint_with_objects_is_refused_and_runs_nothing(tmp_path):
    folder = Frozen(PLANE).results(tmp_path, trainer=Trainer(tmp_path / "made"))
    with pytest.raises(ModelError, match=r"checkpoint_final.pth: expected tensors.*found an object of \S*mkdir"):
        import_nnunet(folder, tmp_path / "model")
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "model").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    file = tmp_path / "checkpoint_final.pth"
    torch.save(Frozen(PLANE).checkpoint(logging=np.array([1, 2])), file)
    with pytest.raises(ModelError, match=r"found an object of numpy\S*_reconstruct"):
        read_checkpoint(file)


def test_numbers_that_numpy_1_wrote(tmp_path):
    """Its module has another name, by which nnU-Net's published models know it."""
    new, old = tmp_path / "new.pth", tmp_path / "old.pth"
    torch.save(Frozen(PLANE).checkpoint(), new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            changed = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            assert (changed != content) == item.filename.endswith("data.pkl")
            target.writestr(item, changed)
    assert read_checkpoint(old).epoch == 1000


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": {}}, "no network_weights"),
        ([], "no network_weights"),
        (None, "no such file"),
        (OTHER | {"network_weights": [1]}, "network_weights that are list"),
        (OTHER | {"current_epoch": "many"}, "invalid literal"),
    ],
    ids=str,
)
def test_files_that_are_no_checkpoints(content, found, tmp_path):
    file = tmp_path / "checkpoint_final.pth"
    if content is not None:
        torch.save(content, file)
    with pytest.raises(ModelError, match=f"expected a checkpoint of nnU-Net 2, found .*{found}"):
        read_checkpoint(file)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_networks_that_were_wrapped(wrapper, tmp_path):
    file, frozen = tmp_path / "checkpoint_final.pth", Frozen(PLANE)
    weights = {f"{wrapper}{name}": tensor for name, tensor in frozen.weights.items()}
    torch.save(frozen.checkpoint(network_weights=weights, current_epoch=None), file)
    found = read_checkpoint(file)
    assert (found.weights.keys(), found.epoch) == (frozen.weights.keys(), 0)


def test_files_turned_as_the_training_files_were(tmp_path):
    """However a file stores the patient, the labels are the same, and nothing is left to say."""
    import_nnunet(Frozen(THICK).results(tmp_path), tmp_path / "model", NnunetChoice(orientation="LPS"))
    segmenter = load_model(tmp_path / "model", device="cpu")
    array = np.random.default_rng(0).normal(size=(9, 16, 6)).astype(np.float32)
    affine, mirrored = np.diag([-0.8, -0.8, 2.5, 1]), np.diag([0.8, -0.8, 2.5, 1])
    mirrored[0, 3] = -0.8 * 8
    labels = segmenter.segment([Volume(np.asfortranarray(array + n), affine) for n in (0, 1)])
    other = segmenter.segment([Volume(np.asfortranarray(array[::-1] + n), mirrored) for n in (0, 1)])
    assert labels.array.any()
    assert np.array_equal(other.array[::-1], labels.array)


def test_dicom_is_said_to_be_taken_as_stored(tmp_path):
    for name, orientation in (("stored", None), ("turned", "LPS")):
        folder = Frozen(THICK).results(tmp_path / f"{name}_results")
        package = import_nnunet(folder, tmp_path / name, NnunetChoice(orientation=orientation))
        file = Volume(np.zeros((3, 3, 3), np.float32), np.diag([-1.0, -1, 1, 1]))
        series = replace(file, slices=(SourceSlice(0.0, "1.2", "1.2.3"),) * 3)
        assert not orientation_findings(file, package)
        codes = [finding.code.value for finding in orientation_findings(series, package)]
        assert codes == (["stored-orientation"] if name == "stored" else [])


def test_a_damaged_checkpoint_is_refused(tmp_path):
    folder = Frozen(PLANE).results(tmp_path)
    file = folder / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="checkpoint_final.pth: expected a checkpoint of nnU-Net 2"):
        read_checkpoint(file)
