"""What is refused or said before a plan is made, and what a resumed run keeps; nothing is measured or trained."""

import sys
from types import SimpleNamespace

import pytest

from medseg.errors import DeviceError, UsageError
from medseg.plan.compute import Compute
from medseg.plan.draft import Draft
from medseg.plan.prepare import PlanOptions
from medseg.plan.request import PLANNED_CONFIG, Request, cascade_of, open_request, plan_request, run_folder
from medseg.training.checkpoint import CHECKPOINT_FILE
from medseg.training.folds import FOLDS_FILE
from medseg.yamlfile import dump_yaml
from tests.builders import Silent, save_tiny_model, tiny_config, tiny_dataset


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny_dataset(folder)
    return str(folder / "tiny.yaml")


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    monkeypatch.setattr("medseg.plan.prepare.measure_side", lambda *_: pytest.fail("measured before checked"))


def opened(manifest, folder, *, config=None, given=(), **request):
    asked = Request(config, {"data.manifest": manifest, **dict(given)}, folder, **request)
    return open_request(asked, Silent(), print)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("file", "all_folds", "resume", "found"),
    [
        (CHECKPOINT_FILE, False, False, "an earlier run"),
        (f"fold_1/{CHECKPOINT_FILE}", True, False, "an earlier run"),
        (FOLDS_FILE, True, False, "an earlier run"),
        (CHECKPOINT_FILE, True, False, "a run of one fold"),
        (CHECKPOINT_FILE, True, True, "a run of one fold"),
        (f"fold_1/{CHECKPOINT_FILE}", False, False, "a run of all folds"),
        (f"fold_1/{CHECKPOINT_FILE}", False, True, "a run of all folds"),
    ],
)
def test_a_folder_with_another_run_is_refused_and_keeps_its_plan(
    manifest, tmp_path, file, all_folds, resume, found
):
    write(tmp_path / "run" / file, "")
    kept = tmp_path / "run" / PLANNED_CONFIG
    write(kept, "the plan")
    with pytest.raises(UsageError, match=f"found {found}"):
        opened(manifest, tmp_path / "run", all_folds=all_folds, resume=resume)
    assert kept.read_text() == "the plan"


@pytest.mark.parametrize("file", [f"fold_0/{CHECKPOINT_FILE}", f"low/fold_0/{CHECKPOINT_FILE}"])
def test_a_cascade_is_refused_where_either_stage_has_a_run(manifest, tmp_path, file):
    write(tmp_path / file, "")
    request = Request(None, {"data.manifest": manifest}, tmp_path, all_folds=True)
    with pytest.raises(UsageError, match="an earlier run"):
        cascade_of(request)


def planned_run(folder, manifest, **top):
    tree = tiny_config().model_dump(mode="json") | top
    tree["data"]["manifest"] = manifest
    folder.mkdir(exist_ok=True)
    dump_yaml(folder / PLANNED_CONFIG, tree)
    write(folder / CHECKPOINT_FILE, "")


AS_PLANNED = """\
training: {batch_size: 2, optimizer: {learning_rate: 1e-3}}
preprocessing: {intensity: [{kind: zscore}], spacing_mm: [1.5, 1.5, 2]}
"""


@pytest.mark.parametrize(
    ("text", "given", "changed"),
    [
        (AS_PLANNED, {}, None),
        (AS_PLANNED.replace("2,", "4,"), {}, "training.batch_size"),
        (AS_PLANNED.replace("zscore", "ct"), {}, "preprocessing.intensity"),
        (AS_PLANNED, {"training.epochs": 3}, None),
        (AS_PLANNED, {"training.epochs": 4}, "training.epochs"),
        (AS_PLANNED + "network: {channels: [4, 8]}", {}, "network.channels"),
        (AS_PLANNED + "netwerk: {channels: [4, 8]}", {}, "netwerk"),
    ],
)
def test_a_resumed_run_keeps_its_plan_and_refuses_another(manifest, tmp_path, text, given, changed):
    planned_run(tmp_path / "run", manifest)
    config = write(tmp_path / "my.yaml", text)
    if changed is None:
        experiment, *_ = opened(manifest, tmp_path / "run", config=config, given=given, resume=True)
        assert experiment.training == tiny_config().training
        return
    with pytest.raises(UsageError, match=f"found another value of {changed}; pass "):
        opened(manifest, tmp_path / "run", config=config, given=given, resume=True)


def test_what_is_asked_of_a_plan_comes_too_late_for_a_run_that_is_resumed(manifest, tmp_path):
    planned_run(tmp_path / "run", manifest)
    with pytest.warns(UserWarning, match="^--memory: not used, as the run keeps its plan"):
        opened(manifest, tmp_path / "run", resume=True, options=PlanOptions(memory="8GB"))


@pytest.mark.parametrize("all_folds", [False, True])
def test_a_run_that_was_complete_is_not_resumed_with_less(manifest, tmp_path, all_folds):
    write(tmp_path / (f"fold_0/{CHECKPOINT_FILE}" if all_folds else CHECKPOINT_FILE), "")
    with pytest.raises(UsageError, match="found one that leaves something open"):
        opened(manifest, tmp_path, resume=True, all_folds=all_folds)


def test_a_run_is_resumed_though_its_first_model_has_moved(manifest, tmp_path):
    gone = str(tmp_path / "gone")
    planned_run(tmp_path / "run", manifest, init_from={"model": gone})
    experiment, *_ = opened(manifest, tmp_path / "run", given={"init_from.model": gone}, resume=True)
    assert str(experiment.init_from.model) == gone


def complete(tmp_path, manifest):
    tree = tiny_config().model_dump(mode="json")
    tree["data"]["manifest"] = manifest
    dump_yaml(tmp_path / "complete.yaml", tree)
    return str(tmp_path / "complete.yaml")


def test_options_that_a_complete_configuration_has_no_use_for_are_said(manifest, tmp_path, recwarn):
    config, run = complete(tmp_path, manifest), tmp_path / "run"
    opened(manifest, run, config=config, options=PlanOptions(dims=3))
    assert not recwarn.list
    options = PlanOptions(memory="8GB", dry_run=False)
    with pytest.warns(UserWarning, match="^--memory and --no-dry-run: not used, as .* leaves nothing to plan"):
        opened(manifest, run, config=config, options=options)
    with pytest.raises(UsageError, match="--dims: expected 3, the number of sizes of training.patch_size"):
        opened(manifest, run, config=config, options=PlanOptions(dims=2))


def test_a_tracker_and_a_device_that_are_not_there_are_said_first(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(DeviceError, match="expected a CUDA device"):
        opened(manifest, tmp_path, options=PlanOptions("cuda", "8GB"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    config = write(tmp_path / "my.yaml", "training: {track: mlflow}")
    with pytest.raises(UsageError, match="medseg\\[track\\]"):
        opened(manifest, tmp_path / "run", config=config, options=PlanOptions("cpu"))


def test_measurements_go_into_the_store_of_the_data(manifest, tmp_path, monkeypatch):
    stores = []
    monkeypatch.setattr("medseg.plan.request.prepare", lambda *words: stores.append(words[3]))
    for given in ({}, {"data.store": str(tmp_path / "common")}):
        plan_request(Request(None, {"data.manifest": manifest, **given}, tmp_path / "run"), Silent())
    assert stores == [tmp_path / "run" / "store", tmp_path / "common"]


def test_a_data_set_of_any_name_has_a_run_folder(tmp_path):
    dataset = SimpleNamespace(name="Liver / CT 2024")
    draft = Draft.read(None)
    assert run_folder(Request(None), draft, dataset).parts == ("runs", "Liver_CT_2024")


def test_a_card_that_is_not_here_is_planned_for_by_estimates(manifest, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("medseg.plan.prepare.measure_side", lambda *_: None)
    monkeypatch.setattr("medseg.plan.prepare.plan_experiment", lambda *words: made.append(words))
    options = PlanOptions("cuda", "8GB")
    plan_request(Request(None, {"data.manifest": manifest}, tmp_path, options=options), Silent())
    *_, compute, _, dry_step = made[0]
    assert (compute.kind, compute.unmeasured, dry_step) == ("cuda", "no such card here", None)
    assert isinstance(compute, Compute)


def test_a_fine_tuned_network_is_that_of_its_model(manifest, tmp_path):
    """What the model leaves open, such as its strides, is not planned: other strides would be another network."""
    save_tiny_model(tmp_path / "model")
    draft = Request(None, {"init_from.model": str(tmp_path / "model")}).draft()
    draft.adopt()
    assert draft.fixed().depth is None
    assert not draft._takes("network.strides")
    assert not draft._takes("preprocessing.crop_above")
    assert draft._takes("training.epochs")
