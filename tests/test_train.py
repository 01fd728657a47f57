"""Training: it learns, it resumes exactly, it stops and leaves what it must."""

import json
import os
import shlex
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import medseg.training.setup
from medseg import load_model
from medseg.cli import app
from medseg.cli.train import ProgressObserver, print_dice, resume_command
from medseg.config import ExperimentConfig
from medseg.errors import ManifestError, ModelError, StorageError, TrainingError, UsageError
from medseg.files import sha256_of
from medseg.metrics import dice_per_label
from medseg.model import load_package
from medseg.nifti import read_nifti, write_nifti
from medseg.train import TrainResult, train
from medseg.training.checkpoint import CHECKPOINT_FILE, read_state
from medseg.training.runlog import METRICS_FILE, RunLog
from medseg.training.schedule import Pace
from medseg.training.setup import set_up
from medseg.yamlfile import dump_yaml
from tests.builders import LABELS, Silent, tiny_case, tiny_config, tiny_dataset
from tests.test_model import full_disk

FAST = {"learning_rate": 1e-2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("tiny"))


def weights(run):
    return load_file(run / "checkpoint.safetensors")


def assert_same_weights(a, b):
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("patch", [(16, 16, 16), (18, 18)])
def test_learns_and_leaves_a_package_whose_dice_is_that_of_its_own_label_maps(dataset, tmp_path, patch):
    config = tiny_config(patch_size=patch, epochs=15, steps_per_epoch=6, batch_size=4, optimizer=FAST, seed=1)
    result = train(config, dataset, tmp_path / "run", Silent())
    assert result.mean_dice > 0.9
    _, validation = dataset.fold(0)
    model = load_model(result.model)
    scores = []
    for case in validation:
        predicted = model.segment(read_nifti(case.images[0]))
        scores.append(dice_per_label(predicted.array, read_nifti(case.label).array, LABELS.indices))
    for label in LABELS:
        assert np.mean([s[label.index] for s in scores]) == pytest.approx(result.dice[label.name], abs=1e-6)
    package = load_package(result.model)
    assert package.provenance.validation_dice == pytest.approx(result.dice, abs=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(6, 91, 6))
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(dataset, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny_config(seed=seed, epochs=1), dataset, tmp_path / name, Silent())
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")


class StopAfter(Silent):
    """Asks for a stop, as Ctrl-C does, once it hears of the given step."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def stepped(self, fraction, epoch, loss, waiting) -> None:
        super().stepped(fraction, epoch, loss, waiting)
        if self.steps == self.looks:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_interrupted_and_resumed_equals_uninterrupted(dataset, tmp_path, optimizer):
    config = tiny_config(epochs=2, steps_per_epoch=13, optimizer={"name": optimizer}, validate_every=1)
    config = config.model_copy(update={"network": config.network.model_copy(update={"dropout": 0.3})})
    whole = train(config, dataset, tmp_path / "whole", Silent())
    stopped = train(config, dataset, tmp_path / "parts", StopAfter(looks=1))  # within the first epoch
    assert stopped.interrupted
    resumed = train(config, dataset, tmp_path / "parts", Silent(), resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert resumed.dice == whole.dice

    assert_same_records(tmp_path / "whole", tmp_path / "parts")


CLOCKED = ("elapsed_s", "waiting_share", "patches_per_s")


def numbers(run):
    lines = (run / METRICS_FILE).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKED} for line in lines]


def assert_same_records(a, b):
    for one, other in zip(numbers(a), numbers(b), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


class Killed(Silent):
    """Dies within a validation, or once it is recorded but before the checkpoint says so."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def preparing(self, what, done, total) -> None:
        if what == self.when:
            raise KeyboardInterrupt

    def validated(self, epoch, dice, is_best) -> None:
        if self.when == "recorded":
            raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["validation", "recorded"])
def test_a_run_killed_in_its_first_validation_is_resumed_with_that_validation(dataset, tmp_path, when):
    config = tiny_config(epochs=2, validate_every=1)
    whole = train(config, dataset, tmp_path / "whole", Silent())
    with pytest.raises(KeyboardInterrupt):
        train(config, dataset, tmp_path / "parts", Killed(when))
    resumed = train(config, dataset, tmp_path / "parts", Silent(), resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert_same_records(tmp_path / "whole", tmp_path / "parts")
    assert resumed.dice == whole.dice
    assert read_state(tmp_path / "parts" / CHECKPOINT_FILE).best_dice is not None


def test_a_run_killed_before_its_first_checkpoint_is_started_again(dataset, tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 4, "loss": 1.0}\n')
    train(tiny_config(epochs=1), dataset, tmp_path, Silent())
    assert [record["step"] for record in numbers(tmp_path)] == [4, 4]


def resumed_run(config, dataset, folder, budget_s=None):
    return set_up(config, dataset, folder, Silent(), device="cpu", budget_s=budget_s, resume=True)


def test_a_resumed_run_keeps_its_budget_and_what_it_knows_of_it(dataset, tmp_path):
    config = tiny_config(epochs=1, steps_per_epoch=15)
    assert train(config, dataset, tmp_path, StopAfter(looks=1), budget_s=1000.0).interrupted
    state = read_state(tmp_path / CHECKPOINT_FILE)
    assert 0 < state.setup_s < state.spent_s
    run = resumed_run(config, dataset, tmp_path)
    assert run.pace.budget_s == 1000
    assert run.pace.reserve_s == state.reserve_s == pytest.approx(200, rel=0.1)
    assert run.pace.elapsed_s > run.pace.setup_s > state.setup_s
    assert resumed_run(config, dataset, tmp_path, budget_s=500.0).pace.budget_s == 500


@pytest.mark.parametrize("change", ["image", "label", "fewer validation cases", "label values"])
def test_a_run_is_not_resumed_on_other_data(tmp_path, monkeypatch, change):
    data = tiny_dataset(tmp_path / "data")
    config = tiny_config(epochs=1)
    train(config, data, tmp_path / "run", Silent())
    image, label = tiny_case(77)
    if change == "image":
        write_nifti(data.cases[0].images[0], image)
    elif change == "label":
        write_nifti(data.cases[0].label, label)
    elif change == "label values":
        other = type(LABELS).from_names({1: "ball", 2: "box"})
        data = replace(data, manifest=data.manifest.model_copy(update={"labels": other}))
    else:
        gone = data.fold(0)[1][0]
        data = replace(data, cases=tuple(case for case in data.cases if case != gone))
    monkeypatch.setattr(medseg.training.setup, "measure_cases", lambda *_: pytest.fail("measured before checked"))
    with pytest.raises(UsageError, match="the data that the run was started with"):
        resumed_run(config, data, tmp_path / "run")


def test_moved_data_are_the_same_data(tmp_path):
    config = tiny_config(epochs=1)
    train(config, tiny_dataset(tmp_path / "a"), tmp_path / "run", Silent())
    assert resumed_run(config, tiny_dataset(tmp_path / "b"), tmp_path / "run").state.step == 4


def test_another_config_is_refused_before_cases_are_measured_and_weights_read(dataset, tmp_path, monkeypatch):
    config = tiny_config(epochs=1)
    train(config, dataset, tmp_path, Silent())
    wider = config.model_copy(update={"network": config.network.model_copy(update={"channels": (4, 8)})})
    monkeypatch.setattr(medseg.training.setup, "measure_cases", lambda *_: pytest.fail("measured before checked"))
    with pytest.raises(UsageError, match="configuration that the run was started with"):
        resumed_run(wider, dataset, tmp_path)


def test_a_config_that_does_not_fit_the_channels_is_refused_before_anything_is_made(dataset, tmp_path):
    tree = tiny_config().model_dump()
    tree["preprocessing"]["intensity"] *= 2
    with pytest.raises(UsageError, match="expected one rule, or one for each of 1 channels, found 2 rules"):
        train(ExperimentConfig.model_validate(tree), dataset, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_records_are_not_lost_to_a_full_disk(tmp_path):
    text = "".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(9))
    (tmp_path / METRICS_FILE).write_text(text)
    with full_disk(50), pytest.raises(StorageError):
        RunLog(tmp_path, step=5)
    assert (tmp_path / METRICS_FILE).read_text() == text


def test_a_stop_within_a_validation_is_heard_before_its_end(dataset, tmp_path):
    class StopInValidation(Silent):
        def preparing(self, what, done, total) -> None:
            if what == "validation" and done == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            assert (what, done) != ("validation", 2)

    config = tiny_config(epochs=2, validate_every=1)
    whole = train(config, dataset, tmp_path / "whole", Silent())
    stopped = train(config, dataset, tmp_path / "parts", StopInValidation())
    assert stopped.stopped_by == signal.SIGTERM
    assert read_state(tmp_path / "parts" / CHECKPOINT_FILE).validation_due
    resumed = train(config, dataset, tmp_path / "parts", Silent(), resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert resumed.dice == whole.dice


def test_a_stop_within_the_final_validation_is_resumed_with_it(dataset, tmp_path):
    class StopAtTheEnd(Silent):
        def preparing(self, what, done, total) -> None:
            if what == "final validation":
                os.kill(os.getpid(), signal.SIGTERM)

    config = tiny_config(epochs=1)
    assert train(config, dataset, tmp_path, StopAtTheEnd()).stopped_by == signal.SIGTERM
    assert train(config, dataset, tmp_path, Silent(), resume=True).dice


def test_a_3d_network_for_single_slices_is_refused_before_training(tmp_path):
    data = tiny_dataset(tmp_path / "data")
    for case in data.cases:
        for path in (*case.images, case.label):
            volume = read_nifti(path)
            write_nifti(path, type(volume)(np.asfortranarray(volume.array[:, :, 10:11]), volume.affine))
    with pytest.raises(UsageError, match="two sizes: a 2-D network for single slices"):
        train(tiny_config(), data, tmp_path / "run", Silent())


def test_parts_that_a_batch_cannot_be_cut_into_are_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="must be divisible by accumulate"):
        tiny_config(batch_size=3, accumulate=2)


# --- budget ---


def test_set_up_counts_for_the_budget_and_not_for_the_progress(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("medseg.training.schedule.time.monotonic", lambda: now[0])
    pace = Pace(10, budget_s=100.0, _start=1000.0)
    now[0] += 20
    pace.begin(spent_s=0.0, setup_s=0.0, reserve_s=None)
    assert (pace.fraction(0), pace.setup_s, pace.reserve_s) == (0, 20, pytest.approx(16))
    now[0] += 32
    assert pace.fraction(0) == pytest.approx(0.5)
    again = Pace(10, budget_s=100.0, _start=now[0])
    now[0] += 4  # set-up again, of the part that was resumed
    again.begin(spent_s=52.0, setup_s=20.0, reserve_s=20.0)
    assert again.elapsed_s == 56
    assert again.fraction(0) == pytest.approx((56 - 24) / (100 - 20 - 24))


@pytest.mark.parametrize(("mirror_axes", "flips"), [((), 1), ((0, 1), 4)])
def test_the_reserve_holds_one_more_validation_and_the_final_one(
    dataset, tmp_path, monkeypatch, mirror_axes, flips
):
    config = tiny_config(epochs=1)
    window = config.inference.model_copy(update={"mirror_axes": mirror_axes})
    ticks = iter([100.0, 102.0])
    monkeypatch.setattr("medseg.training.validate.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    train(config.model_copy(update={"inference": window}), dataset, tmp_path, Silent())
    assert read_state(tmp_path / CHECKPOINT_FILE).reserve_s == pytest.approx((1 + 2.0 * flips) * 2 + 5)


def test_an_epoch_longer_than_the_budget_does_not_put_off_the_first_validation(dataset, tmp_path):
    observer = Silent()
    train(tiny_config(epochs=1, steps_per_epoch=10**6), dataset, tmp_path, observer, budget_s=14.0)
    assert len(observer.validations) == 2


def test_budget_ends_the_run_in_time(dataset, tmp_path):
    start = time.monotonic()
    config = tiny_config(epochs=10_000, steps_per_epoch=5)
    result = train(config, dataset, tmp_path / "run", Silent(), budget_s=10.0)
    assert not result.interrupted
    assert time.monotonic() - start < 20
    rates = [
        json.loads(line)["learning_rate"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if "learning_rate" in line
    ]
    assert rates[-1] < 0.2 * max(rates)


def test_a_budget_without_time_for_a_step_leaves_no_model(dataset, tmp_path):
    with pytest.raises(TrainingError, match="allow more time"):
        train(tiny_config(), dataset, tmp_path / "run", Silent(), budget_s=1e-3)
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_folder_is_not_overwritten_and_not_resumed_with_another_config(dataset, tmp_path):
    train(tiny_config(epochs=1), dataset, tmp_path / "run", Silent())
    with pytest.raises(UsageError, match="pass --resume"):
        train(tiny_config(epochs=1), dataset, tmp_path / "run", Silent())
    with pytest.raises(UsageError, match="configuration that the run was started with"):
        train(tiny_config(epochs=2), dataset, tmp_path / "run", Silent(), resume=True)
    with pytest.raises(UsageError, match="leave out --resume"):
        train(tiny_config(), dataset, tmp_path / "other", Silent(), resume=True)


def test_a_loss_that_is_no_number_stops_the_run(dataset, tmp_path):
    config = tiny_config(epochs=5, optimizer={"learning_rate": 1e30, "clip_norm": None, "warmup": 0.0})
    with pytest.raises(TrainingError, match="lower training.optimizer.learning_rate"):
        train(config, dataset, tmp_path / "run", Silent())


def test_an_unknown_label_value_is_refused_before_training(dataset, tmp_path):
    from medseg.labels import LabelSet

    manifest = dataset.manifest.model_copy(update={"labels": LabelSet.from_names({1: "ball"})})
    narrow = type(dataset)(manifest, dataset.root, dataset.cases)
    with pytest.raises(ManifestError, match="also 3"):
        train(tiny_config(), narrow, tmp_path / "run", Silent())


def test_mixed_precision_trains_on_the_cpu(dataset, tmp_path):
    result = train(tiny_config(epochs=1, precision="bf16"), dataset, tmp_path / "run", Silent())
    assert np.isfinite(list(result.dice.values())).all()


# --- command ---


def test_the_command_printed_on_ctrl_c_is_the_whole_command(dataset, tmp_path, monkeypatch):
    config, output = tmp_path / "tiny.yaml", tmp_path / ("a run [red] " + "x" * 90)
    dump_yaml(config, tiny_config().model_dump(mode="json"))
    interrupted = TrainResult(output / "model", {}, stopped_by=signal.SIGINT)
    monkeypatch.setattr("medseg.train.train", lambda *_, **__: interrupted)
    options = ["--manifest", str(dataset.root / "tiny.yaml"), "--data-root", str(dataset.root)]
    options += ["--fold", "1", "--budget", "20min", "--device", "cpu"]
    result = CliRunner().invoke(app, ["train", str(config), "-o", str(output), *options])
    assert result.exit_code == 130, result.output
    (line,) = result.output.strip().splitlines()
    command = shlex.split(line.removeprefix("stopped and saved; go on with: "))
    assert command == ["medseg", "train", str(config), "-o", str(output), *options, "--resume"]


def test_options_that_were_not_given_are_not_in_the_command(tmp_path):
    assert resume_command("x", tmp_path, {"--fold": None}) == f"medseg train x -o {tmp_path} --resume"


def test_an_absent_label_is_nan_and_not_in_the_mean(capsys):
    dice = {"left [b]": 0.5, "right": float("nan")}
    print_dice(dice, "Dice")
    text = capsys.readouterr().out
    assert [word in text for word in ("left [b]", "NaN", "nan", "0.5000")] == [True, True, False, True]
    assert text.count("0.5000") == 2
    lines = []
    console = SimpleNamespace(print=lambda text, **_: lines.append(text))
    ProgressObserver(SimpleNamespace(console=console)).validated(1, dice, False)
    assert lines == ["epoch 1: Dice 0.5000  (left \\[b] 0.500  right NaN)"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trains_on_cuda(dataset, tmp_path, precision):
    config = tiny_config(epochs=15, steps_per_epoch=6, batch_size=4, optimizer=FAST, precision=precision)
    assert train(config, dataset, tmp_path / "run", Silent(), device="cuda").mean_dice > 0.9


def other_network(network, loss, **parts):
    tree = tiny_config(patch_size=(18, 18), epochs=1, steps_per_epoch=3).model_dump()
    return ExperimentConfig.model_validate(tree | {"network": network, "loss": loss} | parts)


def test_slices_deep_supervision_and_a_crf_go_all_the_way(dataset, tmp_path):
    config = other_network(
        {"name": "resunet", "channels": (4, 8, 8), "blocks": (1, 1, 1), "slices": 3, "deep_supervision": True},
        {"name": "ce_dice_crf"},
        postprocessing={"crf": {"iterations": 1, "radius_mm": 2.0}},
    )
    result = train(config, dataset, tmp_path / "run", Silent())
    package = load_package(result.model)
    assert package.network.slices == 3
    assert package.postprocessing.crf == config.postprocessing.crf
    _, (case, *_) = dataset.fold(0)
    predicted = load_model(result.model).segment(read_nifti(case.images[0]))
    measured = dice_per_label(predicted.array, read_nifti(case.label).array, LABELS.indices)
    assert set(measured) == set(LABELS.indices)


def test_training_begins_with_pretrained_weights_and_the_model_does_not_need_them(dataset, tmp_path):
    network = {"name": "unet", "channels": (4, 8, 16)}
    first = train(other_network(network, {"name": "ce"}), dataset, tmp_path / "first", Silent())
    (file,) = (first.model / "weights").iterdir()
    weights = {"file": file, "sha256": sha256_of(file)}
    config = other_network(network | {"weights": weights}, {"name": "ce"})
    run = set_up(config, dataset, tmp_path / "second", Silent(), device="cpu", budget_s=None, resume=False)
    trained = load_file(file)
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, trained[name]), name
    assert "weights" not in run.package.network.fields
    file.unlink()
    with pytest.raises(ModelError, match="no such file"):
        set_up(config, dataset, tmp_path / "third", Silent(), device="cpu", budget_s=None, resume=False)


@pytest.mark.parametrize(
    ("network", "loss", "error", "message"),
    [
        ({"weights": "imagenet"}, {}, UsageError, "weights that were published for this network's encoder"),
        ({"weights": {"file": "no.pth", "sha256": "0" * 64}}, {}, ModelError, "no such file"),
        ({}, {"class_weights": (1.0, 2.0)}, UsageError, "class_weights"),
    ],
    ids=["imagenet", "file", "class weights"],
)
def test_what_cannot_be_trained_is_refused_before_the_data_is_read(
    dataset, tmp_path, network, loss, error, message
):
    config = other_network({"name": "unet", "channels": (4, 8)} | network, {"name": "ce_dice"} | loss)
    with pytest.raises(error, match=message):
        train(config, dataset, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_the_loss_knows_the_strides_of_a_network_with_deep_supervision(dataset, tmp_path):
    network = {"name": "unet", "channels": (4, 8, 16), "deep_supervision": True, "strides": ((2, 1), (3, 2))}
    config = other_network(network, {"name": "ce"})
    run = set_up(config, dataset, tmp_path / "run", Silent(), device="cpu", budget_s=None, resume=False)
    assert run.loss.strides == ((1, 1), (2, 1))
