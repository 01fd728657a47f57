"""What is known of a recipe's models before any study is begun, and what is refused of it."""

import pytest

from medseg.batch import opening
from medseg.batch.opening import open_pipeline
from medseg.dicom.policy import Policies
from medseg.errors import ConfigError
from medseg.recipe import Recipe
from medseg.regions import Region
from tests.builders import tiny_package


def test_fractions_of_regions_are_refused_before_anything_is_run(monkeypatch):
    package = tiny_package()
    indices = package.labels.indices
    regions = tuple(Region(name=f"region {number}", labels=indices[number:]) for number in range(len(indices)))
    of_regions = package.model_copy(update={"regions": regions})
    monkeypatch.setattr(opening, "models_hash", lambda recipe: "0" * 64)
    for found, kind, is_refused in (
        (of_regions, "FRACTIONAL", True),
        (of_regions, "BINARY", False),
        (package, "FRACTIONAL", False),
    ):
        monkeypatch.setattr(opening, "load_package", lambda path, found=found: found)
        recipe = Recipe.model_validate(
            {"name": "r", "model": "m", "outputs": {"mask": {"kind": "seg", "type": kind}}}
        )
        if is_refused:
            with pytest.raises(
                ConfigError, match="outputs.mask: type FRACTIONAL needs the probabilities of labels"
            ):
                open_pipeline(recipe, Policies(), "1" * 64)
        else:
            assert open_pipeline(recipe, Policies(), "1" * 64).recipe is recipe
