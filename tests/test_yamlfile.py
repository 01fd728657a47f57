"""YAML 1.2 files -> typed models: every problem at once, with its line and the nearest valid key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator
from ruamel.yaml import YAML

from medseg.errors import ConfigError, StorageError, UsageError
from medseg.yamlfile import dump_yaml, load_yaml, read_tree, yaml_text


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UNet(Strict):
    kind: Literal["unet"]
    depth: int = 3

    @model_validator(mode="after")
    def _check(self) -> UNet:
        if self.depth > 9:
            raise ValueError("too deep")
        return self


class FCN(Strict):
    kind: Literal["fcn"]
    layers: int = 3


Network = Annotated[UNet | FCN, Field(discriminator="kind")]


class Organ(Strict):
    index: int
    name: str


class Organs(RootModel[tuple[Organ, ...]]):
    pass


class Experiment(Strict):
    name: str = ""
    rate: float = 0.0
    quick: bool = False
    network: Network | None = None
    networks: list[Network] = []
    organs: Organs | None = None
    folds: dict[int, list[str]] = {}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "experiment.yaml"


def problems(file: Path, text: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(file, Experiment)
    assert all(problem.startswith(str(file)) for problem in caught.value.problems)
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def load(file: Path, text: str) -> Experiment:
    file.write_text(text, encoding="utf-8")
    return load_yaml(file, Experiment)


# --- what YAML 1.2 values mean ---


@pytest.mark.parametrize("word", ["no", "No", "NO", "yes", "on", "off", "y", "n"])
def test_words_that_yaml_1_1_takes_for_booleans_are_text(file: Path, word: str) -> None:
    assert load(file, f"name: {word}\n").name == word


@pytest.mark.parametrize(("text", "number"), [("1e-3", 1e-3), ("1E3", 1000.0), (".5", 0.5), ("-2", -2.0)])
def test_numbers(file: Path, text: str, number: float) -> None:
    assert load(file, f"rate: {text}\n").rate == number


def test_merge_keys_and_aliases(file: Path) -> None:
    loaded = load(file, "networks:\n- &a {kind: unet, depth: 4}\n- *a\n- {<<: *a, depth: 5}\n")
    assert [network.depth for network in loaded.networks if isinstance(network, UNet)] == [4, 4, 5]


def test_byte_order_mark_and_windows_line_ends(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfname: a\r\nrate: 2\r\n")
    assert load_yaml(file, Experiment) == Experiment(name="a", rate=2)


def test_python_tags_construct_nothing(file: Path) -> None:
    assert problems(file, "name: !!python/object/apply:os.getcwd []\n")[0].startswith("1: name: ")


# --- every problem at once ---


def test_all_problems_at_once_with_line_and_nearest_key(file: Path) -> None:
    text = "nam: a\nrate: fast\nnetwork:\n  kind: unet\n  depht: 3\norgans:\n  - {index: 1, nmae: liver}\nxyz: 1\n"
    assert sorted(problems(file, text)) == [
        "1: nam: unknown key; did you mean 'name'?",
        "2: rate: Input should be a valid number, unable to parse string as a number, found 'fast'",
        "5: network.depht: unknown key; did you mean 'depth'?",
        "7: organs.0.name: this key is required and is not there",
        "7: organs.0.nmae: unknown key; did you mean 'name'?",
        "8: xyz: unknown key; valid keys: folds, name, network, networks, organs, quick, rate",
    ]


def test_unknown_key_of_a_union_member_is_compared_with_that_member_only(file: Path) -> None:
    text = "networks:\n  - kind: unet\n  - kind: fcn\n    depth: 3\n"
    assert problems(file, text) == ["4: networks.1.depth: unknown key; valid keys: kind, layers"]


def test_unknown_key_in_a_root_model_is_compared_with_the_keys_of_its_items(file: Path) -> None:
    text = "organs:\n  - index: 1\n    name: liver\n    quick: 2\n"
    assert problems(file, text) == ["4: organs.0.quick: unknown key; valid keys: index, name"]


def test_unknown_union_tag_names_the_nearest(file: Path) -> None:
    assert problems(file, "rate: 1\nnetwork:\n  kind: unt\n") == [
        "2: network: unknown name 'unt'; did you mean 'unet'?"
    ]


def test_missing_union_tag(file: Path) -> None:
    assert problems(file, "network:\n  depth: 3\n") == ["1: network: the key 'kind' is required and is not there"]


def test_problem_of_a_whole_union_member_stands_at_its_key(file: Path) -> None:
    assert problems(file, "rate: 1\nnetwork:\n  kind: unet\n  depth: 12\n") == ["2: network: too deep"]


@pytest.mark.parametrize("value", ["007", "1.5", "true", "2024-01-01"])
def test_text_that_yaml_takes_for_something_else_should_be_quoted(file: Path, value: str) -> None:
    found = problems(file, f"rate: 0\nfolds:\n  0:\n  - a\n  - {value}\n")
    assert len(found) == 1
    assert found[0].startswith("5: folds.0.1: ")
    assert found[0].endswith("; put it in quotes")
    assert load(file, f"folds: {{0: ['{value}']}}\n").folds == {0: [value]}


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: a\nname: b\n", 2), ("rate: 1\nnetwork:\n  kind: unet\n  depth: 1\n  depth: 2\n", 5)],
)
def test_duplicate_keys(file: Path, text: str, line: int) -> None:
    (problem,) = problems(file, text)
    assert problem.startswith(f"{line}: not valid YAML 1.2: found duplicate key")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", " expected keys and values, found an empty file"),
        ("- a\n", " expected keys and values, found a list"),
        ("a\n", " expected keys and values, found a single value"),
        ("name: [\n", "2: not valid YAML 1.2: "),
        ("\tname: a\n", "1: not valid YAML 1.2: "),
        ("name: \x01\n", " not valid YAML 1.2: "),
        ("name: a\n---\nname: b\n", "2: not valid YAML 1.2: "),
        ("name: " + "[" * 600, " expected a few levels of keys, found too many to read"),
    ],
    ids=["empty", "list", "scalar", "open", "tab", "control", "two", "deep"],
)
def test_what_is_not_keys_and_values(file: Path, text: str, problem: str) -> None:
    (found,) = problems(file, text)
    assert found.startswith(problem)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FileNotFoundError"):
        load_yaml(tmp_path / "none.yaml", Experiment)
    with pytest.raises(UsageError, match="IsADirectoryError"):
        load_yaml(tmp_path, Experiment)
    (tmp_path / "latin.yaml").write_bytes("name: Jürgen".encode("latin-1"))
    with pytest.raises(UsageError, match="UTF-8"):
        load_yaml(tmp_path / "latin.yaml", Experiment)


# --- writing ---

texts = st.text(st.characters(codec="utf-8"), max_size=200)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts)
trees = st.dictionaries(
    texts, st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)
)


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_written_trees_read_back_the_same(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    dump_yaml(path, tree, "a comment")
    assert read_tree(path) == tree


@pytest.mark.parametrize(
    "text",
    ["no", "1e-3", "007", "2024-01-01", "null", "a: b", "# x", "- a", "?a", ": 0", "\x85", "a \n b  \n", "x " * 99],
)
def test_text_stays_text(tmp_path: Path, text: str) -> None:
    dump_yaml(tmp_path / "a.yaml", {"key": text, "list": [text, text]})
    assert read_tree(tmp_path / "a.yaml") == {"key": text, "list": [text, text]}


def test_block_text_of_a_tree_keeps_its_trailing_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("key: |\n  one  \n  two\n")
    tree = read_tree(tmp_path / "a.yaml")
    dump_yaml(tmp_path / "b.yaml", tree)
    assert read_tree(tmp_path / "b.yaml") == {"key": "one  \ntwo\n"} == tree


@pytest.mark.parametrize("text", ["x  y  z", '00"\x1f0 0', "a, b: c  d", "one two three"])
def test_text_at_the_end_of_a_line_keeps_its_spaces(text: str) -> None:
    for before in range(80, 116):
        tree = {"list": ["a" * before, text], "text": "a" * before + text}
        assert YAML(typ="rt").load(yaml_text(tree)) == tree


def test_long_lists_wrap_evenly_and_leave_no_trailing_spaces() -> None:
    lines = yaml_text({"folds": {0: [f"patient_{number:05d}" for number in range(40)]}}, "two\nlines").splitlines()
    assert lines[:3] == ["# two", "# lines", "folds:"]
    assert lines[3].startswith("  0: [patient_00000, ")
    assert all(line.startswith("      patient_") for line in lines[4:])
    assert all(line == line.rstrip() and len(line) <= 116 for line in lines)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        dump_yaml(tmp_path / "folder", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
