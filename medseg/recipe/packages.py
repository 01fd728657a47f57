"""The packages of a recipe's models: found, verified, hashed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medseg.packages import find_model, model_hash, require_sha256
from medseg.recipe.labels import folder_of
from medseg.recipe.recipe import Recipe


def find_models(recipe: Recipe) -> Recipe:
    """Return a recipe whose models, and the coarse ones of their regions, are absolute paths of packages.

    Such a recipe means the same in another folder.

    Raises:
        UsageError: It has no models.
        ModelError: A package is nowhere, cannot be read, or has another hash than the recipe says.
    """
    found = []
    for entry in recipe.require_models():
        folder = find_model(entry.path, folder_of(entry)).absolute()
        require_sha256(folder, entry.sha256)
        coarse = find_model(entry.roi_from, folder_of(entry)).absolute() if entry.roi_from else None
        found.append(entry.at(folder, coarse))
    return recipe.model_copy(update={"models": tuple(found)})


def without_delivery(recipe: Recipe) -> Recipe:
    """Return a recipe that makes the same, whatever folders it goes to: its hash is for UIDs.

    A run whose deliveries changed has to deliver again, but not to make other objects.
    """
    return recipe.model_copy(
        update={"deliver": Recipe.model_fields["deliver"].get_default(call_default_factory=True)}
    )


def models_hash(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe's models: that of the package itself where there is one.

    Args:
        recipe: From `find_models`.

    Raises:
        ModelError: A package cannot be read.
    """
    hashes = [model_hash(Path(entry.path)) for entry in recipe.models]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def recipe_hash(recipe: Recipe) -> str:
    """Return the SHA-256 of what else of a recipe changes what is made of a study.

    Its description and where packages lie are not among it.

    Args:
        recipe: From `find_models`.

    Raises:
        ModelError: The coarse model of a region cannot be read.
    """
    coarse = [model_hash(Path(entry.roi_from)) if entry.roi_from else "" for entry in recipe.models]
    said = recipe.model_dump(
        mode="json", exclude={"description": True, "models": {"__all__": {"path", "roi_from", "sha256"}}}
    )
    return hashlib.sha256(json.dumps([said, coarse], sort_keys=True).encode()).hexdigest()
