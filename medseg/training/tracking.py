"""Where the numbers of a run go besides ``metrics.jsonl``: TensorBoard, MLflow.

MLflow runs are kept in ``mlflow.db`` and ``mlruns/`` beside the run folders, or by the server that the
environment variable ``MLFLOW_TRACKING_URI`` names. The numbers are in an SQLite file, as MLflow refuses its older
store of plain files unless it is told otherwise (3.17: "in maintenance mode"). MLflow's telemetry is switched off.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pydantic import BaseModel
from torch.utils.tensorboard import SummaryWriter

from medseg.errors import UsageError
from medseg.extras import import_extra
from medseg.files import write_text

TENSORBOARD_FOLDER = "tensorboard"
MLFLOW_RUN_FILE = "mlflow_run.txt"
MLFLOW_DATABASE = "mlflow.db"
MLFLOW_ARTIFACTS = "mlruns"
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_FEATURE, _EXTRA = "--track mlflow", "track"
_LONGEST_PARAMETER = 6000  # characters; MLflow refuses more
_PARAMETERS_A_CALL = 100  # likewise
_UNFIT = re.compile(r"[^\w\-. /]", re.ASCII)  # in the name of a metric

_FOLD = re.compile(r"fold_\d+")

_log = logging.getLogger(__name__)


class Tracking(Enum):
    """A tracker by name."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


class Tracker(Protocol):
    """What the numbers of a run are given to."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers of one step."""

    def close(self) -> None:
        """Write what is left; nothing is logged after."""


class TensorBoard:
    """Writes the numbers into ``tensorboard/`` of the run folder.

    Args:
        folder: Of the run.
        step: Numbers of later steps, left by a run that was cut off, are hidden.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._board = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers of one step."""
        for key, value in values.items():
            self._board.add_scalar(key, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._board.close()


class MLflow:
    """Writes the numbers to an MLflow run, and goes on with it when the training is resumed.

    The run's id is kept in ``mlflow_run.txt`` of the run folder. Where MLflow cannot be reached in the middle of
    a training, the numbers wait for the next call and the training goes on.

    Args:
        folder: Of the run.
        experiment: Name of the MLflow experiment; made where it is not there.
        config: The configuration, logged as flat parameters such as ``training.batch_size``.

    Raises:
        UsageError: MLflow is not installed, cannot be reached, or does not have the run to go on with.
    """

    def __init__(self, folder: Path, experiment: str, config: BaseModel) -> None:
        self._client, self._failures = _connect(folder)
        self._entities = import_extra("mlflow.entities", feature=_FEATURE, extra=_EXTRA)
        self._waiting: list[Any] = []
        try:
            self._run_id = self._open(folder, experiment, config)
        except self._failures as error:
            raise _unusable(folder, error) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers of one step."""
        now_ms = int(time.time() * 1000)
        metric = self._entities.Metric
        self._waiting += [metric(_UNFIT.sub("_", key), value, now_ms, step) for key, value in values.items()]
        self._send()

    def close(self) -> None:
        """Send what waits and call the MLflow run finished; a training that is resumed opens it again."""
        self._send()
        try:
            self._client.set_terminated(self._run_id)
        except self._failures as error:
            _log.warning("MLflow: the run is not marked as finished: %s", error)

    def _open(self, folder: Path, experiment: str, config: BaseModel) -> str:
        kept = folder / MLFLOW_RUN_FILE
        if kept.is_file():
            run_id = kept.read_text(encoding="utf-8").strip()
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        made = self._client.create_run(self._experiment(folder, experiment), run_name=_run_name(folder))
        run_id = str(made.info.run_id)
        write_text(kept, f"{run_id}\n")
        parameters = [self._entities.Param(key, value) for key, value in flat(config.model_dump(mode="json"))]
        for start in range(0, len(parameters), _PARAMETERS_A_CALL):
            self._client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_A_CALL])
        return run_id

    def _experiment(self, folder: Path, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = None if os.environ.get(_URI_VARIABLE) else (_beside(folder) / MLFLOW_ARTIFACTS).as_uri()
        return str(self._client.create_experiment(name, artifact_location=place))

    def _send(self) -> None:
        if not self._waiting:
            return
        try:
            self._client.log_batch(self._run_id, metrics=self._waiting)
        except self._failures as error:
            _log.warning("MLflow: %d number(s) wait for the next try: %s", len(self._waiting), error)
            return
        self._waiting = []


def require(chosen: Iterable[Tracking]) -> None:
    """Refuse trackers whose libraries are not installed, before a run has cost any time.

    Raises:
        UsageError: One is not; names the extra and the command that installs it.
    """
    if Tracking.MLFLOW in set(chosen):
        _import_mlflow()


def open_trackers(
    chosen: Iterable[Tracking], folder: Path, config: BaseModel, *, experiment: str, step: int = 0
) -> list[Tracker]:
    """Open trackers for `medseg.training.runlog.RunLog`: TensorBoard always, the others where they are chosen.

    Args:
        chosen: Which.
        folder: Of the run.
        config: The configuration of the run.
        experiment: What runs are grouped under, such as the data set's name.
        step: Where the training goes on from.

    Raises:
        UsageError: An optional library is not installed, or its server cannot be reached.
    """
    mlflow = [MLflow(folder, experiment, config)] if Tracking.MLFLOW in set(chosen) else []
    return [TensorBoard(folder, step), *mlflow]


def attach(folder: Path, file: Path) -> None:
    """Copy a file, such as the report, to the run's artifacts in MLflow, where the run is tracked there.

    A failure is logged, as the file is in the run folder anyway.

    Args:
        folder: Of the run.
        file: What to copy.

    Raises:
        UsageError: MLflow is not installed.
    """
    kept = folder / MLFLOW_RUN_FILE
    if not kept.is_file():
        return
    client, failures = _connect(folder)
    try:
        client.log_artifact(kept.read_text(encoding="utf-8").strip(), str(file))
    except failures as error:
        _log.warning("MLflow: %s is not copied: %s", file.name, error)


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested keys as ``outer.inner`` with their values as text; lists of tables are numbered."""
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            found += flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        else:
            found.append((name, str(value)[:_LONGEST_PARAMETER]))
    return found


def _connect(folder: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return MLflow's client, and the exceptions that it raises where its store cannot be used."""
    tracking, failures = _import_mlflow()
    uri = os.environ.get(_URI_VARIABLE)
    if not uri:
        uri = f"sqlite:///{_beside(folder) / MLFLOW_DATABASE}"
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return tracking.MlflowClient(tracking_uri=uri), failures
    except failures as error:
        raise _unusable(folder, error) from error


def _import_mlflow() -> tuple[ModuleType, tuple[type[Exception], ...]]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    tracking = import_extra("mlflow.tracking", feature=_FEATURE, extra=_EXTRA)
    failures = import_extra("mlflow.exceptions", feature=_FEATURE, extra=_EXTRA).MlflowException, OSError
    if not os.environ.get(_URI_VARIABLE):
        import_extra("sqlalchemy", feature=_FEATURE, extra=_EXTRA)
    return tracking, failures


def _beside(folder: Path) -> Path:
    """Return the folder that holds the run folders; the folds of one training lie one level lower."""
    parent = folder.resolve().parent
    return parent.parent if _FOLD.fullmatch(folder.name) else parent


def _run_name(folder: Path) -> str:
    whole = folder.resolve()
    return f"{whole.parent.name}/{whole.name}" if _FOLD.fullmatch(whole.name) else whole.name


def _unusable(folder: Path, error: Exception) -> UsageError:
    return UsageError(
        _FEATURE,
        expected=f"an MLflow store that can be used, with the run of {MLFLOW_RUN_FILE} where there is one",
        found=(str(error) or type(error).__name__).splitlines()[0],
        remedy=f"set {_URI_VARIABLE} as it was, delete {folder / MLFLOW_RUN_FILE}, or leave the option out",
    )
