"""Selection: hand-computed comparisons, ensembles scored as their folds are, largest components, and refusals."""

import json
import math
import shutil

import numpy as np
import pytest

from medseg import load_model
from medseg.config import ExperimentConfig, load_config
from medseg.data.manifest import load_manifest
from medseg.ensemble import merge_packages
from medseg.errors import ManifestError, ModelError, UsageError
from medseg.evaluate import evaluate
from medseg.evaluation import read_evaluation
from medseg.model import load_networks, load_package
from medseg.nifti import read_nifti, write_nifti
from medseg.postprocess import Postprocessing
from medseg.selection.select import SELECTION_FILE, select
from medseg.train import cross_validate
from medseg.yamlfile import dump_yaml
from tests.builders import LABELS, Silent, tiny_config, tiny_dataset
from tests.selection.folders import write_fold, write_run

CASES = [f"case_{n}" for n in range(6)]


def scores(ball, box, surface=0.5):
    """The same surface Dice everywhere; Dice by case, or one for all."""
    of = {"ball": ball, "box": box}
    return {
        (case, name): (value[n] if isinstance(value, list) else value, surface)
        for name, value in of.items()
        for n, case in enumerate(CASES)
    }


def with_islands(_case, reference):
    """A small second component of the ball."""
    reference[0:2, 0, 0] = 1
    return reference


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pair(dataset, tmp_path_factory):
    """Two runs that can be averaged and score low, so that an ensemble may win."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", dataset, scores(0.0, 0.0, 0.0), seed=1)
    write_run(folder / "b", dataset, scores(0.001, 0.0, 0.0), seed=2, channels=(4, 6, 8))
    return folder


def test_the_higher_mean_dice_is_chosen_with_intervals_of_the_difference(dataset, tmp_path):
    write_run(tmp_path / "a", dataset, scores([0.6, 0.7, 0.8, 0.6, 0.7, 0.8], 0.5, 0.25), seed=1)
    write_run(tmp_path / "b", dataset, scores([0.7, 0.8, 0.9, 0.7, 0.8, 0.9], 0.5, 0.75), seed=2)
    write_run(tmp_path / "c", dataset, scores([math.nan, 0.3, 0.9, math.nan, 0.9, 0.3], math.nan, 0.5), seed=3)
    result = select([tmp_path / x for x in "abc"], tmp_path / "best", ensemble=False)
    a, b, c = result.candidates
    assert result.chosen == "b"
    assert (a.mean_dice, b.mean_dice, c.mean_dice) == pytest.approx((0.6, 0.65, 0.6))
    assert a.dice == pytest.approx({"ball": 0.7, "box": 0.5})
    assert (a.mean_surface_dice, b.mean_surface_dice) == pytest.approx((0.25, 0.75))
    # the ball's Dice differs by 0.1 in every case, the box's by nothing: half of 0.1 whatever is drawn
    found = a.dice_difference
    assert (found.difference, found.low, found.high) == pytest.approx((-0.05, -0.05, -0.05))
    assert a.surface_dice_difference.low == pytest.approx(-0.5)
    assert (b.dice_difference.low, b.dice_difference.high) == (0, 0)
    assert c.dice_difference.low < -0.05 < c.dice_difference.high
    assert (result.cases, result.patients, result.folds, result.resamples) == (6, 6, (0, 1, 2), 10_000)
    tree = json.loads((tmp_path / "best" / SELECTION_FILE).read_text())
    assert tree["chosen"] == "b"
    assert tree["candidates"][0]["dice_difference"] == pytest.approx(
        {"difference": -0.05, "low": -0.05, "high": -0.05}
    )
    package = load_package(tmp_path / "best")
    assert package.provenance.folds == (0, 1, 2)
    assert package.provenance.validation_dice == {"ball": 0.8, "box": 0.5}
    single = [load_package(tmp_path / "b" / f"fold_{n}" / "model") for n in range(3)]
    assert package.weights_sha256 == {k: v for one in single for k, v in one.weights_sha256.items()}
    again = select([tmp_path / x for x in "abc"], tmp_path / "best", ensemble=False)
    assert repr(again.candidates) == repr(result.candidates)  # NaN is not equal to itself


def test_of_equal_means_the_first_given_is_chosen(dataset, tmp_path):
    write_run(tmp_path / "a", dataset, scores(0.5, 0.7), seed=1)
    write_run(tmp_path / "b", dataset, scores(0.7, 0.5), seed=2)
    write_run(tmp_path / "nothing", dataset, scores(math.nan, math.nan), seed=3)
    folders = [tmp_path / "nothing", tmp_path / "b", tmp_path / "a"]
    assert select(folders, tmp_path / "one", ensemble=False).chosen == "b"
    assert select(folders[::-1], tmp_path / "two", ensemble=False).chosen == "a"


def test_an_ensemble_is_scored_on_each_fold_with_the_folds_own_networks(pair, dataset, tmp_path):
    told = []
    result = select([pair / "a", pair / "b"], tmp_path / "best", progress=lambda *what: told.append(what))
    for number in dataset.folds:  # another way: each fold's networks as one package, and the tables of evaluate
        merge_packages([pair / x / f"fold_{number}" for x in "ab"], tmp_path / f"fold_{number}")
        segmenter = load_model(tmp_path / f"fold_{number}")
        for case in dataset.fold(number)[1]:
            write_nifti(tmp_path / "maps" / f"{case.id}.nii.gz", segmenter.segment(read_nifti(case.images[0])))
    expected = evaluate(tmp_path / "maps", dataset.root / "labels", LABELS)
    a, b, both = result.candidates
    assert (both.name, both.runs) == ("a+b", (str(pair / "a"), str(pair / "b")))
    assert both.mean_dice == pytest.approx(expected.mean_dice, abs=1e-12)
    assert both.mean_surface_dice == pytest.approx(expected.mean_surface_dice, abs=1e-12)
    assert both.dice == pytest.approx({label.name: label.dice for label in expected.summary})
    assert 0.01 < both.mean_dice < 0.9
    assert (a.mean_dice, b.mean_dice) == (0, 0.0005)
    assert result.chosen == "a+b"
    package = load_package(tmp_path / "best")
    assert package.name == "a+b"
    assert len(load_networks(tmp_path / "best", package)) == 6
    assert ("predicting a+b", 6, 6) in told


def test_an_ensemble_that_does_not_win_is_not_chosen(pair, dataset, tmp_path):
    shutil.copytree(pair / "a", tmp_path / "a")
    write_run(tmp_path / "good", dataset, scores(0.95, 0.95), seed=7)
    result = select([tmp_path / "a", tmp_path / "good"], tmp_path / "best")
    assert [c.name for c in result.candidates] == ["a", "good", "a+good"]
    assert result.chosen == "good"
    assert len(load_package(tmp_path / "best").weights_sha256) == 3


def test_runs_with_other_preprocessing_are_compared_but_not_averaged(pair, dataset, tmp_path):
    other = load_package(pair / "a" / "fold_0" / "model").preprocessing.model_copy(
        update={"spacing_mm": (2.0, 2.0, 2.0)}
    )
    write_run(tmp_path / "coarse", dataset, scores(0.4, 0.4), seed=5, update={"preprocessing": other})
    result = select([pair / "a", tmp_path / "coarse"], tmp_path / "best")
    assert [c.name for c in result.candidates] == ["a", "coarse"]
    (pair_left_out,) = result.not_averaged
    assert pair_left_out.name == "a+coarse"
    assert pair_left_out.reason == "preprocessing.spacing_mm.0 2.0 instead of 1.5"


def test_the_largest_component_is_kept_only_where_the_mean_dice_rises(dataset, tmp_path):
    """Two voxels beside the ball are not of it; the box lacks its middle plane, and both halves are of it."""

    def draw(_case, reference):
        reference[0:2, 0, 0] = 1
        reference[14] = 0
        return reference

    write_run(tmp_path / "a", dataset, scores(0.9, 0.9), seed=1, draw=draw)
    result = select([tmp_path / "a"], tmp_path / "best")
    volumes = [int((read_nifti(case.label).array == 1).sum()) for case in dataset.cases]
    ball, box = result.largest_component
    assert (ball.label, box.label) == ("ball", "box")
    assert ball.dice_before == pytest.approx(np.mean([2 * n / (2 * n + 2) for n in volumes]))
    assert ball.dice_after == 1
    # planes of 25 voxels: four of five, then two of five
    assert (box.dice_before, box.dice_after) == pytest.approx((2 * 4 / (4 + 5), 2 * 2 / (2 + 5)))
    assert result.keep_largest == ("ball",)
    package = load_package(tmp_path / "best")
    assert package.postprocessing.keep_largest == ("ball",)
    assert package.provenance.validation_dice == {"ball": 1.0, "box": 0.9}


def test_a_label_that_the_run_cleans_already_is_cleaned_still(dataset, tmp_path):
    cleaning = {"postprocessing": Postprocessing(keep_largest=("box",))}
    write_run(tmp_path / "a", dataset, scores(0.9, 0.9), seed=1, draw=with_islands, update=cleaning)
    assert select([tmp_path / "a"], tmp_path / "best").keep_largest == ("box", "ball")


def test_runs_of_one_fold_are_compared_too(dataset, tmp_path):
    write_fold(tmp_path / "a", dataset, 1, scores(0.5, 0.5), seed=1)
    write_fold(tmp_path / "b", dataset, 1, scores(0.6, 0.6), seed=2)
    result = select([tmp_path / "a", tmp_path / "b"], tmp_path / "best", ensemble=False)
    assert (result.chosen, result.folds, result.cases) == ("b", (1,), 2)
    write_fold(tmp_path / "c", dataset, 2, scores(0.6, 0.6), seed=3)
    with pytest.raises(
        UsageError, match=r"c: expected a run on the same data and folds .* found folds 2 instead of 1"
    ):
        select([tmp_path / "a", tmp_path / "c"], tmp_path / "best")


def test_unfinished_runs_are_all_named(dataset, pair, tmp_path):
    for name in "ab":
        shutil.copytree(pair / name, tmp_path / name)
    (tmp_path / "a" / "fold_1" / "validation" / "scores.csv").unlink()
    shutil.rmtree(tmp_path / "b" / "fold_2" / "model")
    with pytest.raises(UsageError) as caught:
        select([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "best")
    for text in (
        "fold_1: no validation/scores.csv",
        "fold_2: no model/model.json",
        "c: no such folder",
        "--resume",
    ):
        assert text in str(caught.value)


def test_runs_that_lack_a_fold_or_a_case_are_refused(dataset, pair, tmp_path):
    for name in "ab":
        shutil.copytree(pair / name, tmp_path / name)
        shutil.rmtree(tmp_path / name / "fold_2")
    with pytest.raises(ManifestError, match=r"expected a finished run of every fold .* found none of fold 2"):
        select([tmp_path / "a", tmp_path / "b"], tmp_path / "best")
    (tmp_path / "a" / "fold_0" / "validation" / f"{dataset.fold(0)[1][0].id}.nii.gz").unlink()
    with pytest.raises(UsageError, match=f"found none of {dataset.fold(0)[1][0].id}"):
        select([tmp_path / "a"], tmp_path / "best")


def edited(folder, old, new):
    text = folder.read_text()
    assert old in text
    folder.write_text(text.replace(old, new))


def test_runs_on_other_cases_labels_data_or_tolerances_are_refused(dataset, pair, tmp_path):
    for name in ("cases", "names", "data", "tolerance", "failed"):
        shutil.copytree(pair / "b", tmp_path / name)
    scored = "fold_0/validation/scores.csv"
    case = dataset.fold(0)[1][0].id
    for file, old, new in (
        (tmp_path / "cases" / scored, case, "another"),
        (tmp_path / "names" / scored, "ball", "bell"),
        (tmp_path / "tolerance" / scored, "1.0,\n", "2.0,\n"),
    ):
        edited(file, old, new)
    prediction = tmp_path / "cases" / "fold_0" / "validation"
    (prediction / f"{case}.nii.gz").rename(prediction / "another.nii.gz")
    file = tmp_path / "data" / "fold_1" / "model" / "model.json"
    edited(file, load_package(file).provenance.data_sha256, "0" * 64)
    with (tmp_path / "failed" / scored).open("a") as stream:
        stream.write(f"broken{',' * 10}1.0,it could not be read\n")
    for name, message in (
        ("cases", f"validation cases of fold 0 that only one of them has: another, {case}"),
        ("names", "expected scores of ball, box, which the model draws, found scores of bell, box"),
        ("tolerance", "tolerance"),
        ("data", "found other training data in fold 1"),
        ("failed", "found none of broken"),
    ):
        with pytest.raises(UsageError, match=message):
            select([pair / "a", tmp_path / name], tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_the_manifest_must_be_that_of_the_runs(dataset, pair, tmp_path):
    shutil.copytree(dataset.root, tmp_path / "changed")
    (tmp_path / "changed" / "images" / "case_0.nii.gz").write_bytes(b"another image")
    for _ in ("changed", "gone"):
        with pytest.raises(ManifestError, match="found other cases, files or labels than fold . learnt from"):
            select([pair / "a"], tmp_path / "best", manifest=str(tmp_path / "changed" / "tiny.yaml"))
        (tmp_path / "changed" / "images" / "case_0.nii.gz").unlink(missing_ok=True)
    fewer = load_manifest(dataset.root / "tiny.yaml").manifest
    cases = tuple(case for case in fewer.entries if case.id != "case_0")
    tree = fewer.model_copy(update={"cases": cases, "splits": None}).model_dump(mode="json", exclude_none=True)
    dump_yaml(tmp_path / "fewer.yaml", tree)
    with pytest.raises(ManifestError, match="found no labelled case case_0"):
        select([pair / "a"], tmp_path / "best", manifest=str(tmp_path / "fewer.yaml"), data_root=dataset.root)


def test_folds_that_cannot_be_merged_are_refused_before_anything_is_computed(dataset, pair, tmp_path):
    shutil.copytree(pair / "a", tmp_path / "a")
    model = tmp_path / "a" / "fold_2" / "model" / "model.json"
    tree = json.loads(model.read_text())
    tree["preprocessing"]["crop_above"] = 5.0
    model.write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=r"fold_2.*found preprocessing.crop_above 5.0 instead of None"):
        select([tmp_path / "a"], tmp_path / "best")


def test_outputs_that_would_be_overwritten_are_refused(pair, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="found something else"):
        select([pair / "a"], tmp_path)
    with pytest.raises(UsageError, match="found the model of a fold"):
        select([pair / "a"], pair / "a" / "fold_0" / "model")
    with pytest.raises(UsageError, match="found one of them twice"):
        select([pair / "a", pair / "b" / ".." / "a"], tmp_path / "best")
    with pytest.raises(UsageError, match="found none"):
        select([], tmp_path / "best")


def test_the_folders_of_these_tests_are_as_training_writes_them(pair):
    load_config(str(pair / "a" / "fold_0" / "config.yaml"))
    assert read_evaluation(pair / "a" / "fold_0" / "validation" / "scores.csv").cases


def test_what_cross_validation_leaves_is_what_is_compared(dataset, tmp_path):
    for name, channels in (("wide", (4, 8)), ("deep", (4, 6, 8))):
        network = {"network": {"name": "unet", "channels": channels}}
        data = {"data": {"manifest": str(dataset.root / "tiny.yaml")}}
        tree = tiny_config(epochs=1, steps_per_epoch=2).model_dump() | network | data
        cross_validate(ExperimentConfig.model_validate(tree), dataset, tmp_path / name, Silent(), device="cpu")
    result = select([tmp_path / "wide", tmp_path / "deep"], tmp_path / "best", device="cpu")
    assert [c.name for c in result.candidates] == ["wide", "deep", "wide+deep"]
    for name, candidate in zip(("wide", "deep"), result.candidates, strict=False):
        (tmp_path / "maps" / name).mkdir(parents=True)
        for map_ in tmp_path.glob(f"{name}/fold_*/validation/*.nii.gz"):
            shutil.copy(map_, tmp_path / "maps" / name)
        expected = evaluate(tmp_path / "maps" / name, dataset.root / "labels", LABELS)
        assert candidate.mean_dice == pytest.approx(expected.mean_dice, abs=1e-6)
        assert candidate.mean_surface_dice == pytest.approx(expected.mean_surface_dice, abs=1e-6)
    assert len(load_package(tmp_path / "best").weights_sha256) == (6 if "+" in result.chosen else 3)
