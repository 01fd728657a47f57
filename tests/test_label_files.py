"""Labels from the files that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import ConfigError, ManifestError, UsageError
from medseg.label_files import load_labels, load_scheme


def written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def names(path: str | Path) -> dict[int, str]:
    return {label.index: label.name for label in load_labels(path)}


def test_the_decathlons_dataset_json(tmp_path: Path) -> None:
    path = written(tmp_path / "dataset.json", {"labels": {"0": "background", "2": "tail", "1": "head"}})
    assert names(path) == {1: "head", 2: "tail"}


def test_nnunets_dataset_json(tmp_path: Path) -> None:
    path = written(tmp_path / "dataset.json", {"labels": {"background": 0, "liver": 1, "spleen": 7}})
    assert names(path) == {1: "liver", 7: "spleen"}


def test_a_model_and_its_folder(tmp_path: Path) -> None:
    labels = [{"index": 2, "name": "liver", "color": "#00ff00"}, {"index": 1, "name": "spleen"}]
    path = written(tmp_path / "model" / "model.json", {"schema_version": 1, "labels": labels})
    assert names(path) == names(path.parent) == {1: "spleen", 2: "liver"}
    assert next(label for label in load_labels(path) if label.index == 2).color == "#00ff00"


def test_a_data_manifest(tmp_path: Path) -> None:
    text = "name: mine\nlabels:\n  - {index: 1, name: liver}\n  - index: 2\n    name: 'no'\n"
    assert names(written(tmp_path / "mine.yaml", text)) == {1: "liver", 2: "no"}


def test_regions_and_what_is_ignored(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    nnunet = written(tmp_path / "dataset.json", {"labels": labels, "regions_class_order": [1, 2]})
    text = """\
labels: [{index: 1, name: rim}, {index: 2, name: core}]
regions: [{name: whole, labels: [1, 2]}, {name: core, labels: [2]}]
ignore_value: 3
"""
    for path in (nnunet, written(tmp_path / "mine.yaml", text)):
        scheme = load_scheme(path)
        assert scheme.targets == {"whole": (1, 2), "core": (2,)}
        assert [region.paint for region in scheme.regions] == [1, 2]
        assert scheme.ignore_value == 3
    assert load_scheme(written(tmp_path / "plain.json", {"labels": {"liver": 1}})).targets == {"liver": (1,)}


@pytest.mark.data
def test_the_real_dataset_json(data_root: Path) -> None:
    assert names(data_root / "hippocampus" / "dataset.json") == {1: "Anterior", 2: "Posterior"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions_class_order with a value for each of 1 regions"),
        ({"labels": {"background": 0, "liver": "1"}}, "'1' for liver"),
        ({"labels": {"background": 0, "liver": 1, "ignore": [2, 3]}}, "one value to ignore"),
        ({"labels": [{"index": 1, "name": "a"}], "regions": [{"name": "b", "labels": [2]}]}, r"regions\.0\.labels"),
        ({"labels": [{"index": 1, "name": "a"}], "regions": [{"name": "b"}]}, r"regions\.0\.labels: Field"),
        ({"labels": {"0": "background"}}, "at least one label"),
        ({"labels": [{"index": 1, "name": "a"}, {"index": 1, "name": "b"}]}, "own index"),
        ({"labels": [{"index": 0, "name": "a"}, {"name": "b"}]}, r"labels\.0\.index.*labels\.1\.index"),
        ({"labels": "liver"}, "key 'labels'"),
        ({"names": {}}, "key 'labels'"),
        ([1, 2], "key 'labels'"),
        ("{not json", "valid JSON"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        load_labels(written(tmp_path / "labels.json", content))


def test_missing_files_and_bad_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_labels(tmp_path / "none.json")
    with pytest.raises(UsageError, match="no such file"):
        load_labels(tmp_path)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_labels(written(tmp_path / "bad.yaml", "labels: [1"))
