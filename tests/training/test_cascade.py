"""A cascade: the second stage sees what the first one drew, from training to the hospital."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from medseg import load_model
from medseg.cli import app
from medseg.config import ExperimentConfig
from medseg.data.manifest import Dataset
from medseg.ensemble import merge_packages
from medseg.errors import InputError, ManifestError, ModelError, UsageError
from medseg.model import COARSE_FOLDER, MODEL_FILE, ModelPackage, NetworkSpec, load_networks, load_package
from medseg.nifti import read_nifti, write_nifti
from medseg.plan.request import Request, cascade_of
from medseg.segmenter import Segmenter
from medseg.train import cross_validate, train
from medseg.training.cascade import with_coarse
from medseg.training.finetune import InitFrom, initialise
from medseg.training.setup import set_up
from medseg.volume import Volume
from medseg.yamlfile import dump_yaml
from tests.builders import LABELS, Silent, save_tiny_model, tiny_case, tiny_config, tiny_dataset, tiny_package

SHAPE, AFFINE = (16, 16, 16), np.diag([1.5, 1.5, 2.0, 1.0])  # one tile at the network's own spacing


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def oracle(dataset: Dataset, tmp_path_factory) -> Path:
    """A finished cross-validation that drew the truth, whose package would draw something else."""
    run = tmp_path_factory.mktemp("oracle")
    for fold in dataset.folds:
        place = run / f"fold_{fold}" / "validation"
        place.mkdir(parents=True)
        (place / "scores.csv").touch()
        for case in dataset.fold(fold)[1]:
            shutil.copy(case.label, place / f"{case.id}.nii.gz")
    save_tiny_model(run / "model")
    return run


def second(coarse: Path, preprocessing: dict | None = None, **training) -> ExperimentConfig:
    facts = tiny_config(**{"epochs": 1, "steps_per_epoch": 2} | training).model_dump()
    facts["data"]["coarse"] = coarse
    facts["preprocessing"] |= preprocessing or {}
    return ExperimentConfig.model_validate(facts)


def test_each_case_gets_the_map_of_the_fold_that_it_validated(dataset, oracle):
    found = with_coarse(dataset, oracle)
    for fold in dataset.folds:
        for case in found.fold(fold)[1]:
            assert case.coarse == oracle / f"fold_{fold}" / "validation" / f"{case.id}.nii.gz"
    assert [case.images for case in found.cases] == [case.images for case in dataset.cases]


def test_the_second_stage_sees_the_true_masks_where_the_first_one_drew_the_truth(dataset, oracle, tmp_path):
    config = second(oracle, augmentation={"preset": "none"}, foreground_share=1.0)
    run = set_up(config, dataset, tmp_path / "run", Silent(), device="cpu", budget_s=None, resume=False)
    image, label = next(run.data.loader.batches(0))
    masks = torch.stack((label == 1, label == 2), dim=1).float()
    assert image.shape == (2, 3, 16, 16, 16)
    assert masks.any()
    assert torch.equal(image[:, 1:], masks)
    assert run.package.network.in_channels == 3
    assert run.package.modalities == ("MR",)
    assert len(run.package.envelope.foreground) == 1  # nothing is measured of the map


def test_a_trained_package_holds_both_stages_and_segments_as_both_do_by_hand(dataset, oracle, tmp_path):
    train(second(oracle), dataset, tmp_path / "run", Silent())
    shutil.move(tmp_path / "run" / "model", tmp_path / "elsewhere")
    package = load_package(tmp_path / "elsewhere")
    model, first = load_model(tmp_path / "elsewhere"), load_model(oracle)
    alone = Segmenter(package, load_networks(tmp_path / "elsewhere", package), torch.device("cpu"))
    image, _ = tiny_case(9)
    drawn = first.segment(image)
    assert package.coarse
    assert drawn.array.any()
    expected = alone.segment(image, coarse=drawn.volume)
    np.testing.assert_array_equal(model.segment(image).array, expected.array)
    nothing = Volume(np.zeros_like(drawn.array, order="F"), image.affine)
    assert not np.array_equal(alone.segment(image, coarse=nothing).array, expected.array)
    with pytest.raises(ModelError, match="the first stage of the cascade, found none"):
        alone.segment(image)
    for case in with_coarse(dataset, oracle).fold(0)[1]:  # validation took the map of the fold, not of the package
        found = read_nifti(tmp_path / "run" / "validation" / f"{case.id}.nii.gz").array
        by_hand = alone.segment(read_nifti(case.images[0]), coarse=read_nifti(case.coarse))
        np.testing.assert_array_equal(found, by_hand.array)


def cascade_package(flags: bool = False) -> ModelPackage:
    facts = {"spatial_dims": 3, "in_channels": 3 + flags, "num_classes": 3, "fields": {"channels": (4, 8)}}
    content = tiny_package().model_dump() | {"network": NetworkSpec(name="unet", **facts)}
    content["preprocessing"] |= {"coarse_labels": (1, 3), "channel_flags": flags}
    return ModelPackage.model_validate(content)


@pytest.mark.parametrize("flags", [False, True])
def test_the_network_sees_image_flags_and_masks_in_this_order(flags):
    package = cascade_package(flags)
    torch.manual_seed(0)
    model = Segmenter(package, [package.network.build().eval()], torch.device("cpu"))
    rng = np.random.default_rng(0)
    image = Volume(np.asfortranarray(rng.normal(50, 20, SHAPE).astype(np.float32)), AFFINE, modality="MR")
    drawn = Volume(np.asfortranarray(rng.choice([0, 1, 3], SHAPE).astype(np.uint8)), AFFINE)
    z = (image.array - image.array.mean()) / image.array.std()
    channels = [z, *([np.ones(SHAPE)] if flags else []), drawn.array == 1, drawn.array == 3]
    with torch.inference_mode():
        logits = model.networks[0](torch.from_numpy(np.stack(channels).astype(np.float32))[None])[0]
    expected = np.array([0, 1, 3])[logits.argmax(0).numpy()]
    found = model.segment(image, coarse=drawn).array
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999  # but for ties that rounding decides


@pytest.mark.parametrize("change", ["case", "scores", "package", "one fold"])
def test_what_is_no_finished_cross_validation_of_every_case_is_refused(dataset, oracle, tmp_path, change):
    run = tmp_path / "run"
    if change == "one fold":
        shutil.copytree(oracle / "fold_0", run)
    else:
        shutil.copytree(oracle, run)
    case = dataset.fold(1)[1][0].id
    gone = {"case": f"fold_1/validation/{case}.nii.gz", "scores": "fold_1/validation/scores.csv"}
    gone["package"] = f"model/{MODEL_FILE}"
    if change in gone:
        (run / gone[change]).unlink()
    found = {"case": f"none of 1 of them: {case}", "scores": "fold_1 without validation/scores.csv"}
    found |= {"package": f"no model/{MODEL_FILE}", "one fold": "no folds"}
    with pytest.raises(ManifestError, match=f"found {found[change]}"):
        train(second(run), dataset, tmp_path / "second", Silent())
    assert not (tmp_path / "second").exists()


def test_a_first_stage_of_another_modality_and_labels_without_a_first_stage_are_refused(dataset, oracle, tmp_path):
    other = shutil.copytree(oracle, tmp_path / "other")
    save_tiny_model(other / "model", modality="CT")
    with pytest.raises(ManifestError, match="for the channels MR, found CT"):
        train(second(other), dataset, tmp_path / "second", Silent())
    with pytest.raises(ValidationError, match="coarse_labels needs data.coarse"):
        second(None, preprocessing={"coarse_labels": (1, 3)})


def test_another_map_is_other_data_to_resume_on(dataset, oracle, tmp_path):
    run = shutil.copytree(oracle, tmp_path / "first")
    train(second(run), dataset, tmp_path / "second", Silent())
    train(second(run), dataset, tmp_path / "second", Silent(), resume=True)
    case = dataset.fold(1)[1][0]
    label = read_nifti(case.label)
    empty = Volume(np.zeros_like(label.array, order="F"), label.affine)
    write_nifti(run / "fold_1" / "validation" / f"{case.id}.nii.gz", empty)
    with pytest.raises(UsageError, match="the data that the run was started with"):
        train(second(run), dataset, tmp_path / "second", Silent(), resume=True)


def test_two_dimensional_with_slices_trains_and_segments(dataset, oracle, tmp_path):
    config = second(oracle, patch_size=(16, 16), ema_decay=0.9)
    config = config.model_copy(update={"network": config.network.model_copy(update={"slices": 3})})
    result = train(config, dataset, tmp_path / "run", Silent())
    assert load_package(result.model).network.in_channels == 3
    image, _ = tiny_case(9)
    assert load_model(result.model).segment(image).array.shape == image.array.shape


def test_the_package_of_all_folds_keeps_the_first_stage_and_other_ones_are_refused(oracle, tmp_path):
    for name, stage in (("a", oracle), ("b", oracle), ("c", tmp_path / "stage")):
        if stage != oracle:
            torch.manual_seed(1)
            tiny = tiny_package()
            tiny.save(stage, {"fold_0": tiny.network.build().state_dict()})
        merge_packages([stage], tmp_path / name / COARSE_FOLDER)
        torch.manual_seed(ord(name))
        package = cascade_package()
        package.save(tmp_path / name, {name: package.network.build().state_dict()})
    merged = merge_packages([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert len(merged.weights_sha256) == 2
    model = load_model(tmp_path / "all")
    assert model.coarse is not None
    assert model.coarse.package.weights_sha256 == load_package(oracle).weights_sha256
    with pytest.raises(ModelError, match="the first stage of .* found another one"):
        merge_packages([tmp_path / "a", tmp_path / "c"], tmp_path / "other")
    shutil.rmtree(tmp_path / "all" / COARSE_FOLDER)
    with pytest.raises(ModelError):
        load_model(tmp_path / "all")


def test_a_package_without_a_word_of_stages_is_none(tmp_path):
    save_tiny_model(tmp_path)
    facts = json.loads((tmp_path / MODEL_FILE).read_text())
    facts["preprocessing"].pop("coarse_labels")
    (tmp_path / MODEL_FILE).write_text(json.dumps(facts))
    model = load_model(tmp_path)
    assert not model.package.coarse
    assert model.coarse is None
    with pytest.raises(InputError):
        model.segment([tiny_case(0)[0], tiny_case(0)[0]])


def test_fine_tuned_from_a_single_stage_it_begins_as_that_whatever_the_masks_are(tmp_path):
    plain, target = save_tiny_model(tmp_path), cascade_package()
    network = target.network.build().eval()
    initialise(network, target, InitFrom(model=tmp_path))
    (single,) = load_networks(tmp_path, plain)
    image = torch.randn(1, 1, *SHAPE)
    with torch.inference_mode():
        found = network(torch.cat((image, torch.rand(1, 2, *SHAPE).round()), dim=1))
        torch.testing.assert_close(found, single(image))


DRAFT = {
    "network": {"name": "unet", "channels": [4, 8]},
    "training": {"patch_size": [8, 8, 8], "batch_size": 2, "epochs": 1, "steps_per_epoch": 2},
}


def test_one_command_trains_both_stages(dataset, tmp_path):
    dump_yaml(tmp_path / "draft.yaml", DRAFT)
    run = tmp_path / "run"
    words = ["train", str(tmp_path / "draft.yaml"), "--manifest", str(dataset.root / "tiny.yaml"), "-o", str(run)]
    words += ["--fold", "all", "--cascade", "--no-dry-run", "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    low, package = load_package(run / "low"), load_package(run)
    assert package.coarse
    assert not low.coarse
    coarser = zip(low.preprocessing.spacing_mm, package.preprocessing.spacing_mm, strict=True)
    assert all(a >= b for a, b in coarser)
    assert low.preprocessing.spacing_mm != package.preprocessing.spacing_mm
    model = load_model(run)
    assert len(model.networks) == 3
    assert model.coarse is not None
    assert len(model.coarse.networks) == 3
    assert model.coarse.package.weights_sha256 == low.weights_sha256
    image, _ = tiny_case(9)
    expected = load_model(run / "low").segment(image).volume
    np.testing.assert_array_equal(model.segment(image).array, model.segment(image, coarse=expected).array)


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ({"all_folds": False}, "expected --fold all, found one fold"),
        ({"given": {"data.coarse": "low"}}, "data.coarse open"),
        ({"given": {"preprocessing.spacing_mm": [1, 1, 1]}}, "preprocessing.spacing_mm and"),
        ({"config": "hippocampus_unet3d"}, "a plan of both stages"),
    ],
)
def test_a_cascade_needs_all_folds_and_a_plan(dataset, request_, found):
    facts = {"config": None, "given": {}, "all_folds": True} | request_
    facts["given"] = {"data.manifest": str(dataset.root / "tiny.yaml"), **facts["given"]}
    with pytest.raises(UsageError, match=found):
        cascade_of(Request(**facts))


def test_cross_validated_second_stages_share_the_first_one(dataset, oracle, tmp_path):
    result = cross_validate(second(oracle), dataset, tmp_path / "run", Silent())
    assert set(result.dice) == {label.name for label in LABELS}
    assert load_model(result.model).coarse is not None
    for fold in dataset.folds:
        assert len(list((tmp_path / "run" / f"fold_{fold}" / "validation").glob("*.nii.gz"))) == 2
