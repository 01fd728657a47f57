"""``medseg check``: a training config, a recipe or a data manifest -> every problem, or that there is none."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medseg.cli.console import console
from medseg.errors import ConfigError, MedsegError, UsageError
from medseg.shipped import Shelf, find_yaml

if TYPE_CHECKING:
    from pydantic import BaseModel

    from medseg.model import ModelPackage
    from medseg.recipe import Recipe
    from medseg.recipe.models import ModelEntry

_ALIKE = 0.75
_FORMER_RECIPE_KEYS = frozenset(["series"])


class Kind(Enum):
    """What a YAML file can be, and where files of its kind are shipped."""

    CONFIG = "training config"
    RECIPE = "recipe"
    MANIFEST = "data manifest"

    @property
    def shelf(self) -> Shelf:
        """Where those lie that come with medseg."""
        return {Kind.CONFIG: Shelf.CONFIGS, Kind.RECIPE: Shelf.PIPELINES, Kind.MANIFEST: Shelf.MANIFESTS}[self]


def check(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="YAML files, or names of shipped ones.", show_default=False),
    ],
) -> None:
    """Check YAML files before anything is computed: training configs, recipes, data manifests.

    Which of them a file is, its keys tell: [bold]network, loss, training[/bold] make a config,
    [bold]select, models, outputs, deliver[/bold] a recipe, [bold]channels, cases, splits[/bold] a manifest.
    Every problem is named at once: file, line, key, and the valid key or name that is nearest.

    What else is looked at: of a recipe with models, every label that it names is one that its models draw, and a
    package has the SHA-256 that is asked for. A model that is not on this machine is a note, no problem. Of a
    manifest, the table of its cases; not the images, for which there is medseg dataset check.

    [bold]Examples:[/bold]

    medseg check my_pipeline.yaml

    medseg check configs/*.yaml pipelines/*.yaml

    [bold]Exit status:[/bold] 0 all are valid; 2 at least one is not.
    """
    are_valid = [_is_valid(name) for name in files]
    if not all(are_valid):
        raise typer.Exit(UsageError.exit_status)


def _is_valid(name: str) -> bool:
    """Check one file and print what came of it."""
    kind: Kind | None = None
    notes: list[str] = []
    problems: list[str] = []
    try:
        path, kind = _recognised(name)
        checks: dict[Kind, Callable[[Path, list[str]], None]] = {
            Kind.CONFIG: _check_config,
            Kind.RECIPE: _check_recipe,
            Kind.MANIFEST: _check_manifest,
        }
        checks[kind](path, notes)
    except ConfigError as error:
        problems = error.problems
    except MedsegError as error:
        problems = [str(error)]
    taken_for = f"a {kind.value}, " if kind else ""
    _print(f"{name}: {taken_for}{f'{len(problems)} problem(s)' if problems else 'valid'}", problems, notes)
    return not problems


def _print(title: str, problems: list[str], notes: list[str]) -> None:
    console.print(f"[{'red' if problems else 'green'}]{escape(title)}", highlight=False, soft_wrap=True)
    for line in (*problems, *(f"note: {note}" for note in notes)):
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def _recognised(name: str) -> tuple[Path, Kind]:
    """Return the file that a path or a shipped name stands for, and what it is by its keys."""
    from medseg.yamlfile import read_mapping

    path = _found(name)
    given = [str(key) for key in read_mapping(path)]
    keys = _keys()
    common = set.union(*(keys[a] & keys[b] for a in Kind for b in Kind if a is not b))
    signs = {kind: sum(_sign(key, keys[kind], common, keys) for key in given) for kind in Kind}
    best = max(signs, key=lambda kind: signs[kind])
    if list(signs.values()).count(signs[best]) > 1:
        known = "; ".join(f"a {kind.value}: {', '.join(sorted(keys[kind] - common))}" for kind in Kind)
        remedy = "add the keys that are missing"
        raise UsageError(name, expected=f"keys of {known}", found=", ".join(given) or "none", remedy=remedy)
    return path, best


def _sign(key: str, own: set[str], common: set[str], keys: dict[Kind, set[str]]) -> float:
    """Return how much a key speaks for a kind of file: 1 for one of its own, less for one that is nearly so."""
    if key in _FORMER_RECIPE_KEYS:
        return float(own is keys[Kind.RECIPE])
    if any(key in names for names in keys.values()):
        return float(key in own - common)
    return 0.5 if difflib.get_close_matches(key, own - common, n=1, cutoff=_ALIKE) else 0.0


def _keys() -> dict[Kind, set[str]]:
    from medseg.config import ExperimentConfig
    from medseg.data.schema import Manifest
    from medseg.recipe import Recipe

    models: dict[Kind, type[BaseModel]] = {
        Kind.CONFIG: ExperimentConfig,
        Kind.RECIPE: Recipe,
        Kind.MANIFEST: Manifest,
    }
    return {kind: set(model.model_fields) for kind, model in models.items()}


def _found(name: str) -> Path:
    for kind in Kind:
        try:
            return find_yaml(name, kind.shelf)
        except UsageError:
            continue
    raise UsageError(
        name,
        expected="a YAML file, or the name of a shipped one",
        found="no such file or name",
        remedy="check the path; medseg list names the shipped ones",
    )


def _check_config(path: Path, notes: list[str]) -> None:
    from medseg.config import load_config

    manifest = load_config(str(path)).data.manifest
    try:
        find_yaml(manifest, Shelf.MANIFESTS)
    except UsageError:
        notes.append(f"data.manifest: {manifest} is not there")


def _check_manifest(path: Path, notes: list[str]) -> None:
    from medseg.data.manifest import read_manifest

    manifest = read_manifest(path)
    notes.append(f"{len(manifest.entries)} case(s), {len(manifest.labels)} label(s)")


def _check_recipe(path: Path, notes: list[str]) -> None:
    from medseg.recipe import load_recipe
    from medseg.recipe.labels import check_against, config_error, key_of

    recipe = load_recipe(str(path))
    packages: list[ModelPackage | None] = []
    problems = []
    for number, entry in enumerate(recipe.models):
        package = None
        try:
            package = _package_of(entry, ".".join(map(str, key_of(recipe, number))), notes)
        except MedsegError as error:
            problems.append((key_of(recipe, number), str(error)))
        packages.append(package)
    if problems:
        raise config_error(recipe, problems)
    check_against(recipe, [package.labels if package else None for package in packages])
    notes.extend(_said_of(recipe))
    notes.extend(_uncheckable(recipe, [package for package in packages if package]))


def _package_of(entry: ModelEntry, key: str, notes: list[str]) -> ModelPackage | None:
    """Return the package of a model; None where it is not on this machine, which is noted."""
    from medseg.errors import ModelError
    from medseg.inference.scope import values_of
    from medseg.model import load_package
    from medseg.packages import find_model, require_sha256
    from medseg.recipe.labels import folder_of

    try:
        folder = find_model(entry.path, folder_of(entry))
        coarse = find_model(entry.roi_from, folder_of(entry)) if entry.roi_from else None
    except ModelError as error:
        notes.append(f"{key}: not on this machine, so labels are not checked: {error}")
        return None
    sha256 = require_sha256(folder, entry.sha256)
    if coarse:
        values_of(entry.roi_labels, load_package(coarse).labels)
    package = load_package(folder)
    notes.append(f"{key}: {package.name} at {folder}, sha256: {sha256}")
    return package


def _uncheckable(recipe: Recipe, packages: Sequence[ModelPackage]) -> Iterator[str]:
    """Yield the flags of `hold` that no study will be held back for, where all packages are on this machine."""
    from medseg.quality import uncheckable
    from medseg.recipe.labels import merged_labels
    from medseg.recipe.running import relabelled

    if not recipe.quality.hold or len(packages) < len(recipe.models):
        return
    names = merged_labels(recipe, [package.labels for package in packages]).names
    pairs = zip(packages, recipe.models, names, strict=True)
    envelopes = [(relabelled(package, recipe, entry).envelope, of_model) for package, entry, of_model in pairs]
    for said in uncheckable(envelopes, recipe.quality):
        yield f"quality.hold: not in the package, so no study is held back for it: {said}"


def _said_of(recipe: Recipe) -> Iterator[str]:
    if not recipe.models:
        yield "no model: it only chooses series, for medseg dicom plan --recipe and medseg segment --recipe"
    if recipe.needs_probabilities:
        yield "probabilities need h5py: pip install 'medseg[probabilities]'"
    if recipe.has_uncleaned:
        yield "postprocess: probabilities, and a FRACTIONAL seg, are as the model gives them, not cleaned up"
