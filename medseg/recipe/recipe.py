"""`Recipe`: a pipeline YAML, typed and checked before any study is read.

The order of the stages lies in code: select, read, segment, merge, postprocess, judge, write, prove, deliver. The
YAML gives their parameters only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from medseg.cleanup import Cleanup
from medseg.dicom.output_options import ObjectOptions
from medseg.dicom.policy import Policies
from medseg.dicom.series_rules import SeriesRules
from medseg.errors import UsageError
from medseg.quality.settings import QualitySettings
from medseg.recipe.deliver import FolderDelivery
from medseg.recipe.filenames import name_clashes
from medseg.recipe.models import LabelFacts, ModelEntry, ModelRef, WrittenIn
from medseg.recipe.outputs import (
    DICOM_KINDS,
    NiftiOutput,
    Output,
    Outputs,
    ProbabilitiesOutput,
    RtstructOutput,
    SegOutput,
    SrOutput,
)
from medseg.shipped import Shelf, find_yaml
from medseg.yamlfile import load_yaml, nearest

_Problem = tuple[tuple[str | int, ...], str]


def _label_map() -> dict[str, Output]:
    return {"nifti": NiftiOutput()}


class Recipe(BaseModel):
    """What is done with a study, complete in one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the recipe, in reports.")
    description: str = Field(default="", description="One or two sentences for people.")
    select: SeriesRules = Field(default=SeriesRules(), description="Which series of a study are taken.")
    on: Policies = Field(default=Policies(), description="What to do about irregular series.")
    model: ModelRef | None = Field(default=None, description="The model, where there is one.")
    models: tuple[ModelRef, ...] = Field(
        default=(),
        description="Several models that see the same images, in order of precedence: a voxel that two of them "
        "draw is the earlier one's.",
    )
    labels: dict[str, LabelFacts] = Field(
        default_factory=dict, description="{label: what the model does not say of it, or says otherwise}."
    )
    postprocess: Cleanup = Field(default=Cleanup(), description="What is cleaned up in the mask.")
    quality: QualitySettings = Field(
        default=QualitySettings(), description="What is asked of a mask, and what becomes of a study that fails."
    )
    outputs: Outputs = Field(default_factory=_label_map, description="What is written, by name.")
    deliver: tuple[FolderDelivery, ...] = Field(
        default=(FolderDelivery(to="folder"),), min_length=1, description="Where it goes."
    )

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        problems = [
            InitErrorDetails(type=PydanticCustomError("recipe", "{text}", {"text": text}), loc=where, input=None)
            for where, text in _contradictions(self)
        ]
        if problems:
            raise ValidationError.from_exception_data("Recipe", problems)
        if self.model is not None:
            object.__setattr__(self, "models", (self.model,))
            object.__setattr__(self, "model", None)
        return self

    @property
    def file(self) -> Path | None:
        """Where it was read from; None for one without models, or made in code."""
        places = [entry.written_in for entry in self.models]
        return places[0].file if places and places[0] else None

    @property
    def rules(self) -> SeriesRules | None:
        """Which series are taken; None where the recipe leaves that to the model's modality."""
        return self.select if "select" in self.model_fields_set else None

    @property
    def needs_probabilities(self) -> bool:
        """Whether an output is made of probabilities, which the model then saves."""
        return any(map(_is_of_probabilities, self.outputs.values()))

    @property
    def has_uncleaned(self) -> bool:
        """Whether a mask that is cleaned up goes with probabilities, which are not."""
        return self.needs_probabilities and self.postprocess != Cleanup()

    @property
    def needs_dicom(self) -> bool:
        """Whether an output is a DICOM object, which only a study that is DICOM can have."""
        return any(made.kind in DICOM_KINDS for made in self.outputs.values())

    @property
    def object_options(self) -> tuple[ObjectOptions, ...]:
        """Of the DICOM objects whose coordinates count in the frame of reference of the source."""
        return tuple(made for made in self.outputs.values() if isinstance(made, SegOutput | RtstructOutput))

    def segmentation_of(self, report: str) -> str:
        """Return the name of the segmentation that a measurement report refers to.

        Args:
            report: Name of an output of the kind sr.
        """
        made = self.outputs[report]
        named = made.segmentation if isinstance(made, SrOutput) else None
        return named or _first_binary(self) or ""

    def require_models(self) -> tuple[ModelEntry, ...]:
        """Return the models, of which there has to be one.

        Raises:
            UsageError: There is none.
        """
        if not self.models:
            raise UsageError(
                self.name,
                expected="a pipeline with a model",
                found="a recipe that only chooses series",
                remedy="add 'model: PATH' to it, or name a model by --model and this file by --recipe",
            )
        return self.models


def load_recipe(name_or_path: str) -> Recipe:
    """Read a pipeline YAML by its path, or by its name in ``pipelines/``.

    Models are not looked for yet; see `medseg.recipe.packages.find_models`.

    Raises:
        UsageError: There is no such file.
        ConfigError: It is not valid; every problem is named with its line.
    """
    file = find_yaml(name_or_path, Shelf.PIPELINES)
    recipe = load_yaml(file, Recipe)
    if not recipe.models:
        return recipe
    is_single = "model" in recipe.model_fields_set
    keys = [("model",) if is_single else ("models", place) for place in range(len(recipe.models))]
    entries = [entry.placed(WrittenIn(file, key)) for entry, key in zip(recipe.models, keys, strict=True)]
    return recipe.model_copy(update={"models": tuple(entries)})


def _contradictions(recipe: Recipe) -> Iterator[_Problem]:
    """Yield what does not fit together, each with the keys that lead to it."""
    if recipe.model is not None and recipe.models:
        yield ("model",), "give either model or models"
    for name, earlier, file in name_clashes(recipe.outputs):
        yield ("outputs", name), f"'{earlier}' writes {file} too; give one of them another name"
    yield from _of_segmentations(recipe)
    yield from _of_reports(recipe)
    yield from _of_deliveries(recipe)


def _of_segmentations(recipe: Recipe) -> Iterator[_Problem]:
    for name, made in recipe.outputs.items():
        if _is_of_probabilities(made) and len(recipe.models) > 1:
            key = ("outputs", name, "type") if isinstance(made, SegOutput) else ("outputs", name)
            instead = "take BINARY or LABELMAP" if isinstance(made, SegOutput) else "leave it out"
            yield (
                key,
                f"it is made of the probabilities of one model, and there are {len(recipe.models)}; {instead}",
            )


def _is_of_probabilities(made: Output) -> bool:
    """Whether an output is made of what the model saves of its probabilities."""
    return isinstance(made, ProbabilitiesOutput) or (isinstance(made, SegOutput) and made.type == "FRACTIONAL")


def _of_reports(recipe: Recipe) -> Iterator[_Problem]:
    """A measurement report refers to the segments of a segmentation (PS3.16 TID 1411)."""
    segs = [name for name, made in recipe.outputs.items() if isinstance(made, SegOutput)]
    for name, made in recipe.outputs.items():
        if not isinstance(made, SrOutput):
            continue
        if made.segmentation is not None and made.segmentation not in segs:
            hint = nearest(made.segmentation, segs, "outputs of the kind seg") if segs else "there is none; add one"
            yield ("outputs", name, "segmentation"), f"no output of the kind seg is named so; {hint}"
        elif made.segmentation is None and not _first_binary(recipe):
            other = f", or name one: segmentation: {segs[0]}" if segs else ""
            yield (
                ("outputs", name),
                f"a report refers to the segments of a BINARY segmentation; add seg: {{}}{other}",
            )


def _of_deliveries(recipe: Recipe) -> Iterator[_Problem]:
    delivered: dict[tuple[PurePath, str], int] = {}
    for place, delivery in enumerate(recipe.deliver):
        for position, name in enumerate(delivery.outputs or ()):
            if name not in recipe.outputs:
                hint = nearest(name, list(recipe.outputs), "outputs")
                yield ("deliver", place, "outputs", position), f"there is no output '{name}'; {hint}"
        for name in filter(delivery.takes, recipe.outputs):
            earlier = delivered.setdefault((delivery.place, name), place)
            if earlier != place:
                yield ("deliver", place), f"'{name}' goes to this folder already, by delivery {earlier + 1}"
    for name in recipe.outputs:
        if not any(delivery.takes(name) for delivery in recipe.deliver):
            yield ("outputs", name), "goes nowhere; name it in a delivery, or leave it out"


def _first_binary(recipe: Recipe) -> str | None:
    binary = (
        name for name, made in recipe.outputs.items() if isinstance(made, SegOutput) and made.type == "BINARY"
    )
    return next(binary, None)
