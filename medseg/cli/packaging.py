"""The packages of a batch's pipeline: found once, and the same ones when the batch is tried again elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ModelError

if TYPE_CHECKING:
    from medseg.recipe import Recipe

PACKAGES_NOTE = "packages"
"""Under this name a ledger, and the context of a command that is given again, hold what `noted` returns."""

Noted = Mapping[str, Sequence[str]]
"""{name of a model in the pipeline: [path of its package, its SHA-256]}."""


def found_packages(recipe: Recipe | None, noted: Noted | None = None) -> tuple[Recipe | None, dict[str, Path]]:
    """Return a recipe with its packages found, and the packages by the names that stand in it.

    Args:
        recipe: As it was read; None for none, which is returned.
        noted: Of the batch that is tried again: these packages are taken, wherever the command is given.

    Raises:
        UsageError: The recipe has no models.
        ModelError: A package is nowhere, or is not the one that was noted, or the one of its hash in the recipe.
    """
    from medseg.recipe.packages import find_models

    if recipe is None:
        return None, {}
    written = recipe.require_models()
    names = dict.fromkeys([name for entry in written for name in (entry.path, entry.roi_from) if name])
    kept = {name: _kept(*noted[name]) for name in names if noted and name in noted}
    entries = [
        entry.model_copy(
            update={
                "path": kept.get(entry.path, entry.path),
                "roi_from": kept.get(entry.roi_from, entry.roi_from) if entry.roi_from else None,
            }
        )
        for entry in written
    ]
    found = find_models(recipe.model_copy(update={"models": tuple(entries)}))
    packages = {before.path: Path(entry.path) for before, entry in zip(written, found.models, strict=True)}
    packages |= {
        before.roi_from: Path(entry.roi_from)
        for before, entry in zip(written, found.models, strict=True)
        if before.roi_from and entry.roi_from
    }
    return found, packages


def noted(packages: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return what a ledger keeps of packages, for JSON.

    Raises:
        ModelError: One cannot be read.
    """
    from medseg.packages import model_hash

    return {name: [str(package), model_hash(package)] for name, package in packages.items()}


def _kept(path: str, sha256: str) -> str:
    """Return the path of a package that has to be as it was."""
    from medseg.packages import model_hash

    found = model_hash(Path(path))
    if found != sha256:
        raise ModelError(
            path,
            expected=f"the package of the batch, SHA-256 {sha256}",
            found=f"SHA-256 {found}",
            remedy="put that package back; or run medseg segment with this one, which does all studies anew",
        )
    return path
