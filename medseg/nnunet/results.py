"""nnU-Net's folder of results: ``TRAINER__PLANS__CONFIGURATION`` with plans, data set and one folder a fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ModelError, UsageError, listed
from medseg.nnunet.plans import Plans

PLANS_FILE, DATASET_FILE = "plans.json", "dataset.json"
ALL = "all"
_SEPARATOR = "__"
_FOLD = "fold_"


@dataclass(frozen=True)
class Results:
    """A folder of results.

    Attributes:
        folder: Its path.
        plans: Content of ``plans.json``.
        dataset: Content of ``dataset.json``.
    """

    folder: Path
    plans: Plans
    dataset: dict[str, Any]

    @property
    def plans_file(self) -> Path:
        """Path of the plans."""
        return self.folder / PLANS_FILE

    def fold(self, fold: str) -> Path:
        """Return the folder of a fold: ``0`` and so on, or ``all``."""
        return self.folder / f"{_FOLD}{fold}"


def open_results(path: Path, configuration: str | None = None) -> Results:
    """Open a folder of results, or the one in the folder of a data set.

    Args:
        path: ``nnUNet_results/Dataset004_Hippocampus`` or a folder in it.
        configuration: Such as ``3d_fullres``, where there are several.

    Raises:
        UsageError: There are several, or none of the configuration.
        ModelError: There is none at all, or its files cannot be read.
    """
    folder = path if (path / PLANS_FILE).is_file() else _only_one(path, configuration)
    return Results(folder, read_json(folder / PLANS_FILE), read_json(folder / DATASET_FILE))


def sibling(results: Results, configuration: str) -> Path:
    """Return the folder of another configuration of the same trainer and plans, be it there or not."""
    parts = results.folder.resolve().name.split(_SEPARATOR)
    return results.folder.resolve().with_name(_SEPARATOR.join((*parts[:-1], configuration)))


def folds_of(results: Results, wanted: Sequence[str] | None, checkpoint: str) -> tuple[str, ...]:
    """Return the folds whose networks are taken.

    Args:
        results: Where they are.
        wanted: Numbers, or ``all`` for the network that was trained on every case. By default each numbered fold
            that has a checkpoint, or ``all`` where there is no other.
        checkpoint: File name of the checkpoint.

    Raises:
        ModelError: One of them has no checkpoint, or there is none.
    """
    files = results.folder.glob(f"{_FOLD}*/{checkpoint}")
    there = sorted((file.parent.name.removeprefix(_FOLD) for file in files), key=lambda fold: (len(fold), fold))
    numbered = [fold for fold in there if fold.isdecimal()]
    folds = list(dict.fromkeys(wanted)) if wanted else numbered or [fold for fold in there if fold == ALL]
    missing = [fold for fold in folds if fold not in there]
    if missing or not folds:
        raise ModelError(
            results.folder,
            expected=f"{checkpoint} in {', '.join(f'{_FOLD}{fold}' for fold in missing) or 'a folder of a fold'}",
            found=f"it in {', '.join(f'{_FOLD}{fold}' for fold in there)}" if there else "it in none",
            remedy="choose with --folds, or --checkpoint best where training is not finished",
        )
    return tuple(folds)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds keys and values.

    Raises:
        ModelError: It is not there, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = "another kind of value"
    except FileNotFoundError:
        content, found = None, "no such file"
    except (OSError, ValueError) as error:
        content, found = None, str(error)
    if not isinstance(content, dict):
        raise ModelError(
            path, expected="keys and values as JSON", found=found, remedy="copy nnU-Net's folder of results again"
        )
    return content


def _only_one(path: Path, configuration: str | None) -> Path:
    models = sorted(file.parent for file in path.glob(f"*{_SEPARATOR}*/{PLANS_FILE}"))
    names = [model.name for model in models]
    if not models:
        raise ModelError(
            path,
            expected=f"nnU-Net's results: a folder with {PLANS_FILE}, {DATASET_FILE} and {_FOLD}0",
            found=f"no {PLANS_FILE}" if path.is_dir() else "no such folder",
            remedy="give nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION",
        )
    fitting = [model for model in models if configuration in (None, model.name.rpartition(_SEPARATOR)[2])]
    if len(fitting) != 1:
        raise UsageError(
            path,
            expected=f"one model{f' of {configuration}' if configuration else ''}",
            found=listed([model.name for model in fitting] or names),
            remedy="give the folder of one of them, or choose with --configuration",
        )
    return fitting[0]
