"""YAML 1.2 files -> typed models, with every problem of a file reported at once.

Duplicate keys are errors, ``1e-3`` is a number and ``no`` is text. An unknown key is reported with its line
and the nearest valid key.
"""

from __future__ import annotations

import datetime
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.emitter import Emitter
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from medseg.errors import ConfigError, UsageError
from medseg.files import write_text

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]

_SAFE_BARE = re.compile(r"[\w./(][\w./()+=@;-]*( [\w./()+=@;-]+)*")


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a pydantic model.

    Args:
        path: The file.
        model: The model that says which keys are valid.

    Raises:
        UsageError: The file cannot be read.
        ConfigError: It is not YAML, or it does not fit the model; names every problem with its line.
    """
    return fit_tree(path, read_mapping(path), model)


def read_mapping(path: Path) -> CommentedMap:
    """Read a YAML file that holds keys and values; they remember their lines.

    Raises:
        UsageError: The file cannot be read.
        ConfigError: It is not YAML, or holds something else.
    """
    tree = read_tree(path)
    if not isinstance(tree, CommentedMap):
        found = "an empty file" if tree is None else "a list" if isinstance(tree, list) else "a single value"
        raise ConfigError(path, [f"{path}: expected keys and values, found {found}"])
    return tree


def fit_tree(path: Path, tree: CommentedMap, model: type[Model]) -> Model:
    """Turn what a YAML file holds into a pydantic model.

    Raises:
        ConfigError: It does not fit the model; names every problem with its line.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        items = [item for item in error.errors() if not _follows_from_another(item, error.errors())]
        raise ConfigError(path, [_describe(path, tree, model, item) for item in items]) from error


def read_tree(path: Path) -> Any:
    """Read a YAML file as nested dicts and lists that remember their lines.

    Raises:
        UsageError: The file cannot be read.
        ConfigError: It is not YAML, or a key stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            path, expected="a readable UTF-8 text file", found=type(error).__name__, remedy="check the path"
        ) from error
    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        first = str(error.problem).splitlines()[0]
        raise ConfigError(path, [f"{path}:{line}: not valid YAML 1.2: {first}"]) from error
    except YAMLError as error:
        raise ConfigError(path, [f"{path}: not valid YAML 1.2: {error}"]) from error
    except RecursionError as error:
        raise ConfigError(path, [f"{path}: expected a few levels of keys, found too many to read"]) from error


def dump_yaml(path: Path, data: Any, comment: str = "") -> None:
    """Write nested dicts and lists as YAML, atomically, with `comment` as the first lines.

    Raises:
        StorageError: The file cannot be written.
    """
    write_text(path, yaml_text(data, comment))


def yaml_text(data: Any, comment: str = "") -> str:
    """Return nested dicts and lists as YAML text, lists of plain values on one line."""
    stream = io.StringIO()
    for line in comment.splitlines():
        stream.write(f"# {line}\n")
    yaml = YAML(typ="rt")
    yaml.Emitter = _Emitter
    yaml.width = 110
    yaml.dump(_flowed(data), stream)
    return "".join(f"{line.rstrip(' ')}\n" for line in stream.getvalue().split("\n")[:-1])


class _Emitter(Emitter):
    """Never breaks quoted text into lines: ruamel.yaml adds a space where it does."""

    def write_double_quoted(self, text: Any, split: Any = True) -> None:
        super().write_double_quoted(text, split=False)


def _flowed(data: Any) -> Any:
    if isinstance(data, dict):
        return {_flowed(key): _flowed(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        sequence = CommentedSeq([_flowed(value) for value in data])
        if not any(isinstance(value, dict) for value in data):
            sequence.fa.set_flow_style()
        return sequence
    return _plain_text(data) if isinstance(data, str) else data


def _plain_text(text: str) -> str:
    """Quote all but simple text: ruamel.yaml leaves ``?a`` bare in a list, and loses one of two spaces."""
    return str(text) if _SAFE_BARE.fullmatch(text) else DoubleQuotedScalarString(text)


def problem_at(path: Path, tree: CommentedMap, location: Location, text: str) -> str:
    """Return a problem of a YAML file as `load_yaml` reports it: file, line, keys, text."""
    key = ".".join(str(part) for part in location) or "the file"
    return f"{path}:{_line_of(tree, location)}: {key}: {text}"


def nearest(given: str, valid: Sequence[str], what: str) -> str:
    """Return the one of valid names that was meant, or all of them, as the end of a message.

    Args:
        given: The name that is not valid.
        valid: Those that are.
        what: They are, such as ``valid keys``.
    """
    near = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"{what}: {', '.join(sorted(valid))}"


def _describe(path: Path, tree: CommentedMap, model: type[BaseModel], item: ErrorDetails) -> str:
    location = _without_union_tags(tree, item["loc"], names_absent_key=item["type"] == "missing")
    return problem_at(path, tree, location, _message(model, item, location))


def _follows_from_another(item: ErrorDetails, items: list[ErrorDetails]) -> bool:
    """Whether a list is called too short only because its wrong entries were left out."""
    place = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in items
    )


def _message(model: type[BaseModel], item: ErrorDetails, location: Location) -> str:
    context = item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key; {nearest(str(location[-1]), _keys_at(model, item['loc'][:-1]), 'valid keys')}"
        case "missing":
            return "this key is required and is not there"
        case "union_tag_not_found":
            return f"the key {context.get('discriminator')} is required and is not there"
        case "literal_error" if isinstance(item["input"], str):
            valid = re.findall(r"'([^']*)'", str(context.get("expected")))
            return f"unknown value '{item['input']}'; {nearest(item['input'], valid, 'valid')}"
        case "union_tag_invalid":
            tags = str(context.get("expected_tags", "")).replace("'", "").split(", ")
            tag = str(context.get("tag"))
            return f"unknown name '{tag}'; {nearest(tag, tags, 'valid')}"
    text = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    shown = f", found {given!r}" if isinstance(given, str | int | float | bool) else ""
    remedy = "; put it in quotes" if item["type"] == "string_type" and _is_scalar(given) else ""
    return text + shown + remedy


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | datetime.date)


def _without_union_tags(tree: Any, location: Location, *, names_absent_key: bool) -> Location:
    """Drop the parts of a pydantic location that name a union member and not a key of the file.

    The last part stays where it names a key that should be in the file and is not.
    """
    kept: list[int | str] = []
    here = tree
    last = len(location) - 1
    for position, part in enumerate(location):
        if isinstance(here, dict) and (part in here or (names_absent_key and position == last)):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            continue
        kept.append(part)
    return tuple(kept)


def _line_of(tree: Any, location: Location) -> int:
    line = 1
    here = tree
    for part in location:
        try:
            position = here.lc.key(part) if isinstance(here, CommentedMap) else here.lc.item(part)
            line = position[0] + 1
            here = here[part]
        except (KeyError, IndexError, AttributeError, TypeError):
            break
    return line


def _keys_at(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    """Return the valid keys of the model found by following `location` down from `model`."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        deeper = [m for parent in models for m in _models_in(_annotation(parent, part))]
        tagged = [m for m in models if str(part) in _literals(m)]
        models = deeper or tagged or models
    return [name for m in models for name in m.model_fields]


def _annotation(model: type[BaseModel], part: int | str) -> Any:
    field = model.model_fields.get(str(part))
    return field.annotation if field else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names; for a `RootModel`, those that its root is made of."""
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _models_in(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in _models_in(inner)]


def _literals(model: type[BaseModel]) -> set[str]:
    return {str(value) for f in model.model_fields.values() for value in get_args(f.annotation)}
