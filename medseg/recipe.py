"""`Recipe`: a pipeline YAML, typed and checked before any study is read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from medseg.dicom.policy import Policies
from medseg.dicom.series_rules import SeriesRules
from medseg.shipped import Shelf, find_yaml
from medseg.yamlfile import load_yaml


class Recipe(BaseModel):
    """What is done with a study, complete in one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the recipe, in reports.")
    description: str = Field(default="", description="One or two sentences for people.")
    series: SeriesRules = Field(default=SeriesRules(), description="Which series of a study are taken.")
    on: Policies = Field(default=Policies(), description="What to do about irregular series.")


def load_recipe(name_or_path: str) -> Recipe:
    """Read a pipeline YAML by its path, or by its name in ``pipelines/``.

    Raises:
        UsageError: There is no such file.
        ConfigError: It is not valid; every problem is named with its line.
    """
    return load_yaml(find_yaml(name_or_path, Shelf.PIPELINES), Recipe)
