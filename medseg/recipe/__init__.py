"""Pipelines: a YAML file -> what is done with a study. Reading one imports neither torch nor MONAI."""

from medseg.recipe.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe"]
