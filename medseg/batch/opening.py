"""A recipe -> `Pipeline`: what its writer has to know of the models, read from their packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.batch.pipeline import Pipeline
from medseg.dicom.policy import Policies
from medseg.errors import ConfigError
from medseg.maker import Maker
from medseg.model import ModelPackage, load_package
from medseg.recipe import Recipe
from medseg.recipe.labels import merged_labels
from medseg.recipe.outputs import SegOutput
from medseg.recipe.packages import models_hash
from medseg.recipe.running import envelope_of, relabelled


def open_pipeline(recipe: Recipe, policies: Policies, settings_sha256: str) -> Pipeline:
    """Read what there is to know of a recipe's models but their networks.

    Args:
        recipe: From `medseg.recipe.packages.find_models`.
        policies: What to do about irregular DICOM series.
        settings_sha256: By `medseg.batch.network.settings_hash`, without the memory: it goes into the UIDs.

    Raises:
        ModelError: A package cannot be read.
        ConfigError: The recipe does not fit its models.
    """
    packages = [load_package(Path(entry.path)) for entry in recipe.models]
    _require_probabilities_of_labels(recipe, packages)
    names = merged_labels(recipe, [package.labels for package in packages]).names
    named = [relabelled(package, recipe, entry) for package, entry in zip(packages, recipe.models, strict=True)]
    envelopes = tuple((envelope_of(package), of_model) for package, of_model in zip(named, names, strict=True))
    maker = Maker("+".join(package.name for package in packages), models_hash(recipe), settings_sha256)
    return Pipeline(recipe, policies, maker, envelopes)


def _require_probabilities_of_labels(recipe: Recipe, packages: Sequence[ModelPackage]) -> None:
    """Refuse a SEG of fractions of a model whose probabilities are those of regions, each of several labels."""
    fractional = [
        name for name, made in recipe.outputs.items() if isinstance(made, SegOutput) and made.type == "FRACTIONAL"
    ]
    of_regions = [package.name for package in packages if package.regions]
    if fractional and of_regions:
        problem = (
            f"outputs.{fractional[0]}: type FRACTIONAL needs the probabilities of labels; the model "
            f"{of_regions[0]} gives those of regions: make it BINARY"
        )
        raise ConfigError(recipe.name, [problem])
