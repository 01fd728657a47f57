"""What a run folder holds, read for its report: whatever is missing or damaged is left empty, never an error."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from medseg.errors import MedsegError, UsageError
from medseg.evaluation import METRIC_COLUMNS, Evaluation, Failure, Row
from medseg.label_files import load_labels
from medseg.labels import LabelSet
from medseg.metrics import LabelMetrics
from medseg.yamlfile import read_tree

CONFIG_FILE = "config.yaml"
VALIDATION_FOLDER = "validation"
PLAN_FILE = "plan.json"
_FOLD = re.compile(r"fold_(\d+)")
_EMPTY = Evaluation((), (), 0.0)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """What is known about a run.

    Attributes:
        folder: Of the run.
        config: The configuration, folders left out of the paths in it.
        model: The package's description; empty before the first validation.
        labels: Of the model, or None.
        plan: Numbers that were planned, with reasons, and the data's fingerprint.
        epochs: Records of `metrics.jsonl` that hold a loss, by step.
        validations: Records that hold a Dice, by step.
        scores: Of the final validation; without rows where there was none.
        environment: What it was computed with.
        timings: Seconds by part.
        notes: What was changed on the way, such as a batch that did not fit.
    """

    folder: Path
    config: Record
    model: Record = field(default_factory=dict)
    labels: LabelSet | None = None
    plan: Record = field(default_factory=dict)
    epochs: Sequence[Record] = ()
    validations: Sequence[Record] = ()
    scores: Evaluation = _EMPTY
    environment: Record = field(default_factory=dict)
    timings: Record = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self.config.get("name", self.folder.name))

    @property
    def fold(self) -> int | None:
        """The validation fold."""
        number = self.part("provenance").get("fold", self.config.get("data", {}).get("fold"))
        return int(number) if isinstance(number, int) else None

    @property
    def is_validated(self) -> bool:
        """Whether the final validation was done."""
        return bool(self.scores.rows or self.scores.failures)

    def part(self, key: str) -> Record:
        """Return a table of the model's description; empty where there is none."""
        found = self.model.get(key)
        return found if isinstance(found, Mapping) else {}

    @property
    def seconds(self) -> float | None:
        """How long the run took, as far as it is known."""
        known = [record["elapsed_s"] for record in self.epochs if is_number(record.get("elapsed_s"))][-1:]
        known += [sum(self.timings.values())] if self.timings else []
        return float(max(known)) if known else None


def read_run(folder: Path) -> RunRecord:
    """Read a run folder; the plan of a fold of a cross-validated run is in the folder of all folds.

    Raises:
        UsageError: It holds no configuration.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(
            folder,
            expected=f"a run folder with {CONFIG_FILE}, or with fold_0, fold_1 ... that are run folders",
            found="none",
            remedy="give the folder that `medseg train` made",
        )
    records = _read_records(folder / "metrics.jsonl")
    timings = _read_json(folder / "timings.json")
    return RunRecord(
        folder=folder,
        config=_without_folders(_read_config(folder / CONFIG_FILE)),
        model=_read_json(folder / "model" / "model.json"),
        labels=_read_labels(folder / "model" / "model.json"),
        plan=_read_plan(folder),
        epochs=[record for record in records if "loss" in record],
        validations=[record for record in records if "dice" in record],
        scores=read_scores(folder / VALIDATION_FOLDER / "scores.csv"),
        environment=_read_json(folder / "environment.json"),
        timings={key: float(value) for key, value in timings.items() if is_number(value)},
        notes=_read_lines(folder / "notes.txt"),
    )


def read_runs(folder: Path) -> list[RunRecord]:
    """Read a run folder, or the run folders ``fold_0``, ``fold_1`` and so on in it.

    Raises:
        UsageError: It is neither.
    """
    return [read_run(path) for path in _run_folders(folder)]


def read_source(folder: Path) -> tuple[str, Path | None]:
    """Return the manifest and the data folder that the configuration of a run, or of its folds, names.

    Raises:
        UsageError: The folder holds no run, or its configuration cannot be read or names no manifest.
    """
    path = _run_folders(folder)[0] / CONFIG_FILE
    if not path.is_file():
        read_run(folder)  # says what is wrong
    tree = read_tree(path)
    data = tree.get("data") if isinstance(tree, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(data.get("manifest"), str):
        raise UsageError(path, expected="data.manifest", found="none", remedy="pass --manifest")
    root = data.get("root")
    return data["manifest"], Path(root) if isinstance(root, str) else None


def read_scores(path: Path) -> Evaluation:
    """Read what `Evaluation.write_csv` wrote; lines that are not whole are left out.

    The reasons of failures lose the path that they begin with.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error):
        return _EMPTY
    rows, failures, tolerance_mm = [], [], 0.0
    for line in lines:
        if line.get("error"):
            reason = str(line["error"])
            failures.append(Failure(str(line["case"]), reason[max(0, reason.find("expected ")) :], ""))
            continue
        try:
            metrics = LabelMetrics(*(float(line[column]) for column in METRIC_COLUMNS))
            rows.append(Row(str(line["case"]), int(line["label"]), str(line["name"]), metrics))
            tolerance_mm = float(line["tolerance_mm"])
        except (KeyError, TypeError, ValueError):
            continue
    return Evaluation(tuple(rows), tuple(failures), tolerance_mm)


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _run_folders(folder: Path) -> list[Path]:
    """Return the folders of the folds in order, or the folder itself."""
    if (folder / CONFIG_FILE).is_file() or not folder.is_dir():
        return [folder]
    folds = [path for path in folder.iterdir() if _FOLD.fullmatch(path.name) and (path / CONFIG_FILE).is_file()]
    return sorted(folds, key=lambda path: int(path.name.removeprefix("fold_"))) or [folder]


def _read_config(path: Path) -> Any:
    try:
        tree = read_tree(path)
    except MedsegError:
        return {}
    return tree if isinstance(tree, Mapping) else {}


def _read_labels(path: Path) -> LabelSet | None:
    try:
        return load_labels(path) if path.is_file() else None
    except MedsegError:
        return None


def _read_plan(folder: Path) -> Record:
    own = _read_json(folder / PLAN_FILE)
    if own or not _FOLD.fullmatch(folder.resolve().name):
        return own
    return _read_json(folder.resolve().parent / PLAN_FILE)


def _read_lines(path: Path) -> list[str]:
    """Return the lines that are not blank."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_records(path: Path) -> list[Record]:
    """Read the lines of a file, each a JSON table with a step; the last may be cut off."""
    found = []
    for line in _read_lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and is_number(record.get("step")):
            found.append(record)
    return sorted(found, key=lambda record: float(record["step"]))


def _without_folders(tree: Any) -> Any:
    """Return a configuration with the file's name only of each path: folders may bear people's names."""
    if isinstance(tree, Mapping):
        return {str(key): _without_folders(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_folders(value) for value in tree]
    if isinstance(tree, str) and "\n" not in tree:
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(tree)
            if path.is_absolute() or tree.startswith(("..", "~")):
                return f"…/{path.name}" if path.suffix else "…"
    return tree
