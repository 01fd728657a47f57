"""The labels that a file names: a model's `model.json`, a data set's `dataset.json` or a data manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medseg.errors import ManifestError
from medseg.labels import BACKGROUND, LabelSet
from medseg.shipped import Shelf, find_yaml
from medseg.yamlfile import read_tree

_MODEL_FILE = "model.json"
_IGNORE = "ignore"
_KINDS = "a model.json, a dataset.json or a data manifest with the key 'labels'"


def load_labels(name_or_path: str | Path) -> LabelSet:
    """Read what the label values mean from the key ``labels`` of a JSON or YAML file.

    Args:
        name_or_path: A model folder or its ``model.json``, a ``dataset.json`` of the Medical Segmentation
            Decathlon ({"1": "liver"}) or of nnU-Net ({"liver": 1}), a data manifest in YAML
            ([{index: 1, name: liver}]), or the name of a shipped manifest.

    Raises:
        UsageError: There is no such file or name.
        ConfigError: A YAML file is not valid YAML.
        ManifestError: The file is not valid JSON, has no labels or has labels that cannot be used.
    """
    path = _find(name_or_path)
    tree = _read_json(path) if path.suffix.lower() == ".json" else read_tree(path)
    labels = tree.get("labels") if isinstance(tree, dict) else None
    if isinstance(labels, dict):
        return _from_names(path, labels)
    if isinstance(labels, list):
        return _validated(path, labels)
    raise ManifestError(path, expected=_KINDS, found="no list or table of that key", remedy="give another file")


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_dir():
        path = path / _MODEL_FILE
    return path if path.is_file() else find_yaml(str(path), Shelf.MANIFESTS)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(
            path, expected=f"valid JSON: {_KINDS}", found=str(error), remedy="correct the file"
        ) from error


def _from_names(path: Path, names: dict[str, Any]) -> LabelSet:
    """Read {value: name} as the Decathlon writes it, or {name: value} as nnU-Net does."""
    if all(str(key).isdecimal() for key in names):
        pairs = [(int(key), str(name)) for key, name in names.items()]
    else:
        pairs = [(_nnunet_value(path, str(name), value), str(name)) for name, value in names.items()]
    return _validated(path, [{"index": i, "name": name} for i, name in pairs if i != BACKGROUND])


def _nnunet_value(path: Path, name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and name != _IGNORE:
        return value
    what = "the label 'ignore'" if name == _IGNORE else f"{value!r} for {name}"
    raise ManifestError(
        path,
        expected="one whole number for each label",
        found=what,
        remedy="regions and ignored voxels cannot be measured; list plain labels only",
    )


def _validated(path: Path, labels: list[Any]) -> LabelSet:
    try:
        return LabelSet.model_validate(labels)
    except ValidationError as error:
        problems = [_describe(item["loc"], item["msg"]) for item in error.errors()]
        raise ManifestError(
            path,
            expected="labels with an index from 1 and a name each",
            found="; ".join(problems),
            remedy="correct the labels",
        ) from error


def _describe(location: tuple[int | str, ...], message: str) -> str:
    place = ".".join(str(part) for part in ("labels", *location))
    return f"{place}: {message.removeprefix('Value error, ')}"
