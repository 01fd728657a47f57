"""Training: it learns, it resumes exactly, it stops and leaves what it must."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from medseg import load_model
from medseg.errors import ManifestError, TrainingError, UsageError
from medseg.metrics import dice_per_label
from medseg.model import load_package
from medseg.nifti import read_nifti
from medseg.train import train
from tests.builders import LABELS, Silent, tiny_config, tiny_dataset

FAST = {"learning_rate": 1e-2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("tiny"))


def weights(run):
    from safetensors.torch import load_file

    return load_file(run / "checkpoint.safetensors")


def assert_same_weights(a, b):
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("patch", [(16, 16, 16), (18, 18)])
def test_learns_and_leaves_a_package_whose_dice_is_that_of_its_own_label_maps(dataset, tmp_path, patch):
    config = tiny_config(patch_size=patch, epochs=15, steps_per_epoch=6, batch_size=4, optimizer=FAST)
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

    def stepped(self, fraction, epoch, loss) -> None:
        super().stepped(fraction, epoch, loss)
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

    def numbers(run):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "elapsed_s"} for line in lines]

    for one, other in zip(numbers(tmp_path / "whole"), numbers(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trains_on_cuda(dataset, tmp_path, precision):
    config = tiny_config(epochs=15, steps_per_epoch=6, batch_size=4, optimizer=FAST, precision=precision)
    assert train(config, dataset, tmp_path / "run", Silent(), device="cuda").mean_dice > 0.9
