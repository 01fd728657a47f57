"""The labels of several models -> those of one mask; and what a recipe says of labels, checked against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ConfigError
from medseg.labels import Label, LabelSet
from medseg.recipe.models import ModelEntry
from medseg.recipe.recipe import Recipe
from medseg.sides import side_problem
from medseg.yamlfile import Location, nearest, problem_at, read_mapping

_Problem = tuple[Location, str]


@dataclass(frozen=True)
class MergedLabels:
    """The labels of a mask that several models draw.

    Attributes:
        labels: All of them, with values 1 to K: model after model, each by its own values.
        values: For each model, {its own value: the value in the mask}; what it draws beside is left out.
        names: For each model, the names of the labels that it draws.
    """

    labels: LabelSet
    values: tuple[dict[int, int], ...]
    names: tuple[tuple[str, ...], ...]


def merged_labels(recipe: Recipe, own: Sequence[LabelSet]) -> MergedLabels:
    """Return the labels of a recipe's mask.

    Args:
        recipe: Says which labels are taken, and how they are named.
        own: Labels of each model as its package has them, in the recipe's order.

    Raises:
        ConfigError: They do not fit the recipe; names every problem.
    """
    check_against(recipe, own)
    labels: list[Label] = []
    values: list[dict[int, int]] = []
    names: list[tuple[str, ...]] = []
    for entry, of_model in zip(recipe.models, own, strict=True):
        taken = [label for label in of_model if is_taken(label, entry)]
        values.append({label.index: len(labels) + place for place, label in enumerate(taken, start=1)})
        told = [described(recipe, label, entry) for label in taken]
        names.append(tuple(label.name for label in told))
        labels += [label.model_copy(update={"index": values[-1][label.index]}) for label in told]
    return MergedLabels(LabelSet(tuple(labels)), tuple(values), tuple(names))


def is_taken(label: Label, entry: ModelEntry) -> bool:
    """Whether a recipe takes a label of a model."""
    return entry.labels is None or label.name in entry.labels


def described(recipe: Recipe, label: Label, entry: ModelEntry) -> Label:
    """Return a label of a model by its name in the recipe, with what the recipe says of it."""
    name = entry.rename.get(label.name, label.name)
    facts = recipe.labels.get(name)
    said = {key: getattr(facts, key) for key in facts.model_fields_set} if facts else {}
    return label.model_copy(update=said | {"name": name})


def check_against(recipe: Recipe, own: Sequence[LabelSet | None]) -> None:
    """Refuse a recipe that names labels which its models do not draw.

    Args:
        recipe: What is checked.
        own: Labels of each model as its package has them; None for one that is not known, by which nothing is
            judged.

    Raises:
        ConfigError: Every problem, with its line where the recipe was read from a file.
    """
    problems = list(label_problems(recipe, own))
    if problems:
        raise config_error(recipe, problems)


def label_problems(recipe: Recipe, own: Sequence[LabelSet | None]) -> Iterator[_Problem]:
    """Yield what `check_against` refuses, each with the keys that lead to it."""
    drawn_by: dict[str, int] = {}
    for number, (entry, labels) in enumerate(zip(recipe.models, own, strict=True)):
        if labels is None:
            continue
        key, names = key_of(recipe, number), [label.name for label in labels]
        yield from _unknown_to_model(entry, key, names)
        yield from _contradictions(recipe, entry, key, labels)
        taken = names if entry.labels is None else [name for name in names if name in entry.labels]
        for name in (entry.rename.get(name, name) for name in taken):
            if name in drawn_by:
                again = "this model" if drawn_by[name] == number else f"model {drawn_by[name] + 1}"
                yield key, f"'{name}' is drawn by {again} already; rename one, or take other labels"
            drawn_by.setdefault(name, number)
    if all(labels is not None for labels in own):
        for where, name in _named(recipe):
            if name not in drawn_by:
                yield where, f"no model draws '{name}'; {nearest(name, list(drawn_by), 'labels')}"


def config_error(recipe: Recipe, problems: Sequence[_Problem]) -> ConfigError:
    """Return the error that names problems of a recipe, with their lines where it was read from a file."""
    if recipe.file is None:
        return ConfigError(
            recipe.name, [f"{recipe.name}: {'.'.join(map(str, at))}: {text}" for at, text in problems]
        )
    tree = read_mapping(recipe.file)
    return ConfigError(recipe.file, [problem_at(recipe.file, tree, at, text) for at, text in problems])


def key_of(recipe: Recipe, number: int) -> Location:
    """Return the keys that lead to a model in the recipe's file."""
    place = recipe.models[number].written_in
    return place.key if place else ("models", number)


def folder_of(entry: ModelEntry) -> Path | None:
    """Return the folder that a model's path is relative to, where it stands in a file."""
    return entry.written_in.file.parent if entry.written_in else None


def _unknown_to_model(entry: ModelEntry, key: Location, names: list[str]) -> Iterator[_Problem]:
    asked: list[tuple[Location, str]] = [((*key, "labels", n), name) for n, name in enumerate(entry.labels or ())]
    asked += [((*key, "rename", name), name) for name in entry.rename]
    for where, name in asked:
        if name not in names:
            yield where, f"the model has no label '{name}'; {nearest(name, names, 'labels')}"


def _contradictions(recipe: Recipe, entry: ModelEntry, key: Location, labels: LabelSet) -> Iterator[_Problem]:
    """Yield labels whose name, laterality and code, by model and recipe, are of different sides."""
    for label in (described(recipe, label, entry) for label in labels if is_taken(label, entry)):
        if problem := side_problem(label):
            where = ("labels", label.name) if label.name in recipe.labels else key
            yield where, f"'{label.name}' has to be of one side: {problem}; correct name, laterality or code"


def _named(recipe: Recipe) -> Iterator[tuple[Location, str]]:
    """Yield every label that is named outside of the models, with the keys that lead to it."""
    for name in recipe.labels:
        yield ("labels", name), name
    yield from ((("postprocess", *where), name) for where, name in recipe.postprocess.named())
    yield from ((("quality", *where), name) for where, name in recipe.quality.named())
