"""What a file says of label maps: a model's `model.json`, a data set's `dataset.json` or a data manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medseg.data.nnunet_labels import read_nnunet_labels
from medseg.errors import ManifestError
from medseg.labels import BACKGROUND, LabelSet
from medseg.regions import LabelScheme, Region, complete_regions, region_problems
from medseg.shipped import Shelf, find_yaml
from medseg.yamlfile import read_tree

_MODEL_FILE = "model.json"
_KINDS = "a model.json, a dataset.json or a data manifest with the key 'labels'"


_REGIONS = TypeAdapter(tuple[Region, ...])


def load_labels(name_or_path: str | Path) -> LabelSet:
    """Read the labels alone; see `load_scheme`."""
    return load_scheme(name_or_path).labels


def load_scheme(name_or_path: str | Path) -> LabelScheme:
    """Read what the label values mean from the key ``labels`` of a JSON or YAML file.

    Regions and the value to ignore are read where the file has them: from nnU-Net's ``labels``, or from the keys
    ``regions`` and ``ignore_value`` of a model or a manifest.

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
        return _from_names(path, labels, tree.get("regions_class_order"))
    if isinstance(labels, list):
        return _scheme(path, _validated(path, labels), tree.get("regions") or (), tree.get("ignore_value"))
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


def _from_names(path: Path, names: dict[str, Any], class_order: list[int] | None) -> LabelScheme:
    """Read {value: name} as the Decathlon writes it, or {name: value or values} as nnU-Net does."""
    if all(str(key).isdecimal() for key in names):
        return LabelScheme(_named(path, {int(key): str(name) for key, name in names.items()}))
    for name, value in names.items():
        if not all(type(one) is int for one in (value if isinstance(value, list) else [value])):
            raise ManifestError(
                path,
                expected="a whole number for each label, or a list of them",
                found=f"{value!r} for {name}",
                remedy="correct the labels",
            )
    found = read_nnunet_labels(path, names, class_order)
    return _scheme(path, _named(path, found.names), found.regions, found.ignore_value)


def _named(path: Path, names: dict[int, str]) -> LabelSet:
    return _validated(path, [{"index": i, "name": name} for i, name in names.items() if i != BACKGROUND])


def _scheme(path: Path, labels: LabelSet, regions: Any, ignore_value: int | None) -> LabelScheme:
    try:
        read = _REGIONS.validate_python(regions)
    except ValidationError as error:
        problems = [_describe("regions", item["loc"], item["msg"]) for item in error.errors()]
    else:
        problems = [_describe("regions", (n, key), text) for n, key, text in region_problems(read, labels)]
        if not problems:
            return LabelScheme(labels, complete_regions(read), ignore_value)
    raise ManifestError(
        path, expected="regions made of the labels", found="; ".join(problems), remedy="correct the regions"
    )


def _validated(path: Path, labels: list[Any]) -> LabelSet:
    try:
        return LabelSet.model_validate(labels)
    except ValidationError as error:
        problems = [_describe("labels", item["loc"], item["msg"]) for item in error.errors()]
        raise ManifestError(
            path,
            expected="labels with an index from 1 and a name each",
            found="; ".join(problems),
            remedy="correct the labels",
        ) from error


def _describe(key: str, location: tuple[int | str, ...], message: str) -> str:
    place = ".".join(str(part) for part in (key, *location))
    return f"{place}: {message.removeprefix('Value error, ')}"
