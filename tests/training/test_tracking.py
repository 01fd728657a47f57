"""MLflow: a stand-in with the calls that are made, and MLflow itself where it is installed."""

import importlib.util
import logging
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from medseg.errors import UsageError
from medseg.training.tracking import MLFLOW_RUN_FILE, MLflow, Tracking, attach, flat, open_trackers, require
from tests.builders import tiny_config

REAL = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mlflow", "sqlalchemy")), reason="the extra [track]"
)


class MlflowException(Exception):  # noqa: N818 - the name is theirs
    """As MLflow's own."""


class Store:
    """What the stand-in for an MLflow server has been told."""

    def __init__(self):
        self.experiments, self.runs, self.down, self.uris = {}, {}, False, []


class Client:
    """The calls of `mlflow.MlflowClient` that are made."""

    def __init__(self, store, tracking_uri):
        self.store = store
        store.uris.append(tracking_uri)
        self._answer()

    def _answer(self):
        if self.store.down:
            raise MlflowException("no answer\nfrom the server")

    def get_experiment_by_name(self, name):
        return self.store.experiments.get(name)

    def create_experiment(self, name, artifact_location=None):
        self.store.experiments[name] = SimpleNamespace(
            experiment_id=str(len(self.store.experiments)), at=artifact_location
        )
        return self.store.experiments[name].experiment_id

    def create_run(self, experiment_id, run_name=None):
        name = f"run{len(self.store.runs)}"
        self.store.runs[name] = {"metrics": [], "params": {}, "status": "RUNNING", "name": run_name, "files": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def _run(self, run_id):
        self._answer()
        if run_id not in self.store.runs:
            raise MlflowException(f"Run '{run_id}' not found")
        return self.store.runs[run_id]

    def update_run(self, run_id, status):
        self._run(run_id)["status"] = status

    def set_terminated(self, run_id):
        self._run(run_id)["status"] = "FINISHED"

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100
        run = self._run(run_id)
        run["metrics"] += [(item.key, item.value, item.step) for item in metrics]
        run["params"] |= {item.key: item.value for item in params}

    def log_artifact(self, run_id, local_path):
        self._run(run_id)["files"].append(local_path)


@pytest.fixture
def store(monkeypatch):
    """A stand-in for MLflow in place of the library."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    told = Store()
    parts = {
        "tracking": {"MlflowClient": lambda tracking_uri: Client(told, tracking_uri)},
        "exceptions": {"MlflowException": MlflowException},
        "entities": {
            "Metric": lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
            "Param": lambda key, value: SimpleNamespace(key=key, value=value),
        },
    }
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "sqlalchemy", ModuleType("sqlalchemy"))
    for name, content in parts.items():
        module = ModuleType(f"mlflow.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"mlflow.{name}", module)
    return told


def opened(folder, config=None):
    folder.mkdir(exist_ok=True)
    return MLflow(folder, "tiny", config or tiny_config())


def test_numbers_parameters_and_end_reach_the_run(store, tmp_path):
    run = opened(tmp_path / "a")
    run.log(4, {"loss": 0.5, "dice/left (kidney)": 0.75})
    run.close()
    (told,) = store.runs.values()
    assert told["metrics"] == [("loss", 0.5, 4), ("dice/left _kidney_", 0.75, 4)]
    assert told["params"]["training.batch_size"] == "2"
    assert told["params"]["preprocessing.intensity.0.kind"] == "zscore"
    assert (told["status"], told["name"]) == ("FINISHED", "a")


def test_a_resumed_training_goes_on_with_the_same_run(store, tmp_path):
    first = opened(tmp_path / "a")
    first.log(1, {"loss": 1.0})
    first.close()
    assert (tmp_path / "a" / MLFLOW_RUN_FILE).read_text() == "run0\n"
    second = opened(tmp_path / "a")
    assert store.runs["run0"]["status"] == "RUNNING"
    second.log(2, {"loss": 0.5})
    assert list(store.runs) == ["run0"]
    assert store.runs["run0"]["metrics"] == [("loss", 1.0, 1), ("loss", 0.5, 2)]


def test_runs_share_an_experiment_and_a_database_beside_them(store, tmp_path):
    for name in "ab":
        opened(tmp_path / name)
    assert list(store.experiments) == ["tiny"]
    assert store.experiments["tiny"].at == (tmp_path.resolve() / "mlruns").as_uri()
    assert set(store.uris) == {f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"}


def test_a_server_of_ones_own_comes_first(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.local")
    opened(tmp_path / "a")
    assert store.uris == ["http://mlflow.local"]
    assert store.experiments["tiny"].at is None


def test_telemetry_is_off(store, tmp_path):
    opened(tmp_path / "a")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_numbers_wait_while_the_server_is_away(store, tmp_path, caplog):
    run = opened(tmp_path / "a")
    store.down = True
    with caplog.at_level(logging.WARNING):
        run.log(1, {"loss": 1.0})
        run.close()
    assert "1 number(s) wait" in caplog.text
    assert store.runs["run0"]["metrics"] == []
    store.down = False
    run.log(2, {"loss": 0.5})
    assert store.runs["run0"]["metrics"] == [("loss", 1.0, 1), ("loss", 0.5, 2)]


def test_a_server_that_is_away_at_the_start_is_an_error(store, tmp_path):
    store.down = True
    with pytest.raises(UsageError, match="found no answer; set MLFLOW_TRACKING_URI"):
        opened(tmp_path / "a")


def test_a_run_that_the_server_does_not_have_is_an_error(store, tmp_path):
    opened(tmp_path / "a")
    store.runs.clear()
    with pytest.raises(UsageError, match="Run 'run0' not found"):
        opened(tmp_path / "a")


def test_the_report_is_copied_to_a_run_that_is_tracked(store, tmp_path, caplog):
    attach(tmp_path, tmp_path / "report.html")  # not tracked: nothing happens
    assert store.uris == []
    opened(tmp_path / "a")
    attach(tmp_path / "a", tmp_path / "a" / "report.html")
    assert store.runs["run0"]["files"] == [str(tmp_path / "a" / "report.html")]
    store.runs.clear()
    attach(tmp_path / "a", tmp_path / "a" / "report.html")
    assert "report.html is not copied" in caplog.text


def test_without_the_library_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(UsageError, match=r"--track mlflow: .*pip install 'medseg\[track\]'"):
        open_trackers([Tracking.MLFLOW], tmp_path, tiny_config(), experiment="tiny")
    with pytest.raises(UsageError, match="pip install"):
        require([Tracking.MLFLOW])
    require([Tracking.TENSORBOARD])


def test_the_folds_of_a_training_share_the_database_of_the_other_runs(store, tmp_path):
    (tmp_path / "cv").mkdir()
    opened(tmp_path / "cv" / "fold_1")
    assert store.uris == [f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"]
    assert store.runs["run0"]["name"] == "cv/fold_1"


def test_keys_are_flattened():
    tree = {"a": 1, "b": {"c": [1, 2], "d": [{"e": None}, {"e": "x" * 7000}]}}
    assert flat(tree) == [("a", "1"), ("b.c", "[1, 2]"), ("b.d.0.e", "None"), ("b.d.1.e", "x" * 6000)]


@REAL
def test_mlflow_itself_keeps_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a run"
    for step in (1, 2):
        board, run = open_trackers([Tracking.MLFLOW], folder, tiny_config(), experiment="tiny")
        run.log(step, {"loss": 1.0 / step, "dice/left (kidney)": 0.5})
        run.close()
        board.close()
    (folder / "report.html").write_text("page")
    attach(folder, folder / "report.html")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}")
    run_id = (folder / MLFLOW_RUN_FILE).read_text().strip()
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(1, 1.0), (2, 0.5)]
    kept = client.get_run(run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["training.batch_size"] == "2"
    assert [item.path for item in client.list_artifacts(run_id)] == ["report.html"]
    assert list((tmp_path / "mlruns").rglob("report.html"))
