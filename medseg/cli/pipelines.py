"""The options of ``medseg segment`` that say what is written of a study: a pipeline, or kinds of outputs."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from medseg.model import ModelPackage
    from medseg.recipe import Recipe

_PANEL = "What is written"

PipelineName = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        "-p",
        help="A YAML file, or a shipped name, that says which series, which models, what is written and where to; "
        "in place of --model.",
        rich_help_panel=_PANEL,
    ),
]
OutputKinds = Annotated[
    str | None,
    typer.Option(
        "--outputs",
        help="What is written of each study into a folder of its own, with commas between: nifti, seg, rtstruct, "
        "sr, tables, pictures, capture, report, probabilities. By default one label map as NIfTI.",
        rich_help_panel=_PANEL,
    ),
]
PerOrgan = Annotated[
    bool,
    typer.Option("--per-organ", help="NIfTI: one mask for each label.", rich_help_panel=_PANEL),
]
SaveProbabilities = Annotated[
    bool,
    typer.Option(
        "--save-probabilities",
        help="Of every class, float16 on the image's own grid: NAME.probabilities.h5 beside the label map; with "
        "--outputs CASE/labels.probabilities.h5.",
        rich_help_panel=_PANEL,
    ),
]


def asked_recipe(
    model: Path | None,
    pipeline: str | None,
    recipe: str | None,
    outputs: str | None,
    *,
    per_organ: bool,
    probabilities: bool,
) -> Recipe | None:
    """Return the recipe of a command as it is written; None where one label map is all that is asked for.

    Raises:
        UsageError: Options contradict one another, an output is of no known kind, or there is no such pipeline.
        ConfigError: The pipeline is not valid.
        StorageError: A folder that studies are delivered to cannot be written to.
    """
    from medseg.recipe import load_recipe

    if (model is None) == (pipeline is None):
        found = "neither" if model is None else "both"
        remedy = "see medseg segment --help"
        raise UsageError("medseg segment", expected="--model or --pipeline", found=found, remedy=remedy)
    if pipeline is not None:
        beside = {"--recipe": recipe, "--outputs": outputs, "--per-organ": per_organ}
        beside |= {"--save-probabilities": probabilities}
        if given := [option for option, value in beside.items() if value]:
            remedy = "write it into the pipeline"
            raise UsageError(given[0], expected="none beside --pipeline", found="one", remedy=remedy)
        return _with_folders(load_recipe(pipeline))
    if outputs is None and not per_organ:
        return None
    chosen = load_recipe(recipe).model_dump(include={"select", "on"}, exclude_unset=True) if recipe else {}
    kinds = [kind.strip() for kind in (outputs or "nifti").split(",")] + ["probabilities"] * probabilities
    return _recipe_of(chosen | {"model": str(Path(model or "").absolute())}, kinds, per_organ=per_organ)


def _with_folders(recipe: Recipe) -> Recipe:
    """Refuse a delivery to a folder that is not there: a share that is not mounted would fill the local disk.

    Raises:
        UsageError: It is not there.
        StorageError: Nothing can be written to it.
    """
    from medseg.files import prove_writable

    for delivery in recipe.deliver:
        if delivery.root is None:
            continue
        if not os.path.lexists(delivery.root):
            raise UsageError(
                delivery.root,
                expected="the folder that studies are delivered to",
                found="none",
                remedy="mount the share, or make the folder",
            )
        prove_writable(delivery.root)
    return recipe


def _recipe_of(parts: dict[str, Any], kinds: list[str], *, per_organ: bool) -> Recipe:
    """Return the recipe of a model and kinds of outputs, all by their defaults."""
    from pydantic import ValidationError

    from medseg.recipe import Recipe
    from medseg.recipe.outputs import KINDS

    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            remedy = f"did you mean '{near[0]}'?" if near else "choose among these"
            raise UsageError("--outputs", expected=", ".join(KINDS), found=repr(kind), remedy=remedy)
    made: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    if per_organ:
        made["nifti"] = {"per_organ": True}
    try:
        return Recipe.model_validate({"name": "segment", "outputs": made} | parts)
    except ValidationError as error:
        raise ConfigError("--outputs", [item["msg"] for item in error.errors()]) from error


def package_of(model: Path | None, recipe: Recipe | None) -> ModelPackage:
    """Return the package that says which images can be taken: of several models the first that is 3-D.

    Raises:
        ModelError: It cannot be read.
    """
    from medseg.model import load_package

    paths = [Path(entry.path) for entry in recipe.models] if recipe else [Path(model or "")]
    packages = [load_package(path) for path in paths]
    return next((package for package in packages if package.network.spatial_dims == 3), packages[0])
