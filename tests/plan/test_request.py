"""`medseg plan` and `medseg train` without a configuration, from the command line to the model."""

import json
import signal

import pytest
from typer.testing import CliRunner

import medseg.training.step
from medseg.cli import app
from medseg.config import load_config
from medseg.errors import ConfigError, UsageError
from medseg.model import load_package
from medseg.plan.fixed import Fixed
from medseg.plan.request import Request, open_request
from medseg.training.checkpoint import CHECKPOINT_FILE, read_state
from tests.builders import Silent, save_tiny_model, tiny_dataset

SHORT = """\
training: {steps_per_epoch: 2, batch_size: 2, patch_size: [16, 16, 16]}
network: {channels: [4, 8], strides: [[2, 2, 2]], kernel_sizes: [[3, 3, 3], [3, 3, 3]]}
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def short(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text(SHORT)
    return str(path)


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_plan_writes_a_configuration_that_training_takes(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("plan", "--manifest", dataset.root / "tiny.yaml", "--no-dry-run", "-o", tmp_path / "my.yaml")
    assert result.exit_code == 0, result.output
    assert "estimated, not" in result.output
    config = load_config(str(tmp_path / "my.yaml"))
    assert config.training.patch_size == (20, 16, 16)  # the median is 20 x 18 x 16
    assert config.preprocessing.spacing_mm == (1.5, 1.5, 2.0)


def test_train_plans_what_is_open_trains_and_leaves_model_plan_and_report(dataset, tmp_path, short):
    words = ["train", short, "--manifest", dataset.root / "tiny.yaml", "-o", tmp_path / "run", "--no-dry-run"]
    result = invoke(*words, "--epochs", 1, "--device", "cpu")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} >= {
        "plan.yaml",
        "plan.json",
        "config.yaml",
        "report.html",
        "validation",
    }
    package = load_package(folder)
    assert package.network.fields["channels"] == (4, 8)
    assert package.network.fields["downsampling"] == "strided_conv"  # planned
    reasons = {r["what"]: r["why"] for r in json.loads((folder / "plan.json").read_text())["reasons"]}
    assert reasons["network.channels"] == "set in the configuration"
    assert reasons["training.optimizer.name"] != "set in the configuration"
    again = invoke(*words, "--epochs", 1, "--device", "cpu", "--resume")
    assert again.exit_code == 0, again.output
    assert "Plan for" not in again.output  # a resumed run keeps its plan


def test_all_folds_become_one_package(dataset, tmp_path, short):
    words = ["train", short, "--manifest", dataset.root / "tiny.yaml", "-o", tmp_path / "run", "--no-dry-run"]
    result = invoke(*words, "--epochs", 1, "--device", "cpu", "--fold", "all")
    assert result.exit_code == 0, result.output
    package = load_package(tmp_path / "run")
    assert package.provenance.folds == (0, 1, 2)
    assert len(package.weights_sha256) == 3
    cases = {
        p.name for fold in range(3) for p in (tmp_path / "run" / f"fold_{fold}" / "validation").glob("*.nii.gz")
    }
    assert len(cases) == 6
    assert not any((tmp_path / "run" / f"fold_{fold}" / "store").exists() for fold in range(3))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_save_and_leave_with_their_status(dataset, tmp_path, short, monkeypatch, number, status):
    take_step = medseg.training.step.take_step

    def interrupted(run, image, label, fraction):
        take_step(run, image, label, fraction)
        if run.state.step == 3:
            signal.raise_signal(number)

    monkeypatch.setattr("medseg.train.take_step", interrupted)
    words = ["train", short, "--manifest", dataset.root / "tiny.yaml", "-o", tmp_path / "run", "--no-dry-run"]
    result = invoke(*words, "--epochs", 5, "--device", "cpu")
    assert result.exit_code == status, result.output
    assert read_state(tmp_path / "run" / CHECKPOINT_FILE).step == 3
    assert "--epochs 5" in " ".join(result.output.split())


def test_what_is_wrong_is_said_before_the_data_is_measured(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.plan.prepare.measure_side", lambda *_: pytest.fail("measured before checked"))
    path = tmp_path / "wrong.yaml"
    path.write_text("training: {batch_size: 2, epoch: 3}")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        open_request(Request(str(path), {"data.manifest": str(dataset.root / "tiny.yaml")}), Silent(), print)
    with pytest.raises(UsageError, match="pass --manifest"):
        open_request(Request(None), Silent(), print)
    for words, text in (
        (["--fold", "x"], "a number or all"),
        (["--budget", "1"], "20min"),
        (["--memory", "8"], "8GB"),
    ):
        result = invoke("train", "--manifest", dataset.root / "tiny.yaml", *words)
        assert text in str(result.exception), result.output


def test_a_fine_tuning_takes_what_is_open_from_the_model(dataset, tmp_path):
    save_tiny_model(tmp_path / "model")
    given = {"data.manifest": str(dataset.root / "tiny.yaml"), "init_from.model": str(tmp_path / "model")}
    draft = Request(None, given).draft()
    draft.adopt()
    patch = {"patch_size": (16, 16, 16), "patch_from": "the model of init_from"}
    assert draft.fixed() == Fixed(**patch, spacing_mm=(1.5, 1.5, 2.0))
    assert tuple(draft.get("network.channels")) == (4, 8)
    assert draft.get("preprocessing.intensity")[0]["kind"] == "zscore"
