"""Which models a recipe runs, and how; what it says of labels beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from medseg.labels import CodedConcept, Laterality


@dataclass(frozen=True)
class WrittenIn:
    """Where a model is named: the recipe's file and the key, for messages and for paths relative to it."""

    file: Path
    key: tuple[str | int, ...]


class ModelEntry(BaseModel):
    """One model of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        min_length=1,
        description="Of the package or its run folder, relative to the recipe's file; or a name below a folder of "
        "$MEDSEG_MODELS, ./models or the current folder.",
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="Hash of the package, as medseg check prints it: any other package is refused."
    )
    labels: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Names of the labels that are taken of it; all by default."
    )
    rename: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict, description="{its own name of a label: the name in this recipe}."
    )
    overlap: float | None = Field(
        default=None, ge=0, le=0.9, description="Of neighbouring tiles; the model's own by default."
    )
    mirror: bool | None = Field(
        default=None, description="false: without test-time mirroring; as the model says by default."
    )
    skip_air: bool = Field(default=False, description="Of CT: leave out tiles that hold nothing but air.")
    roi_from: str | None = Field(
        default=None, description="A coarse model, found as path is: only the region that it finds is segmented."
    )
    roi_labels: tuple[str, ...] = Field(
        default=(), description="Labels of the coarse model that make the region; all by default."
    )
    roi_margin_mm: float | None = Field(default=None, ge=0, description="Around the region; 20 mm by default.")

    _written_in: WrittenIn | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> ModelEntry:
        if self.roi_from is None and (self.roi_labels or self.roi_margin_mm is not None):
            raise ValueError(
                "roi_labels and roi_margin_mm describe the region of a coarse model: name it in roi_from"
            )
        unused = sorted(set(self.rename) - set(self.labels)) if self.labels is not None else []
        if unused:
            raise ValueError(f"rename: '{unused[0]}' is not among the labels that are taken")
        return self

    @property
    def written_in(self) -> WrittenIn | None:
        """Where it stands; None where it was not read from a file."""
        return self._written_in

    def placed(self, where: WrittenIn) -> ModelEntry:
        """Return the same model, as one that stands in a file."""
        copy = self.model_copy()
        copy._written_in = where
        return copy

    def at(self, path: Path, roi_from: Path | None) -> ModelEntry:
        """Return the same model with the packages that were found for it."""
        found = {"path": str(path), "roi_from": None if roi_from is None else str(roi_from)}
        return self.model_copy(update=found)


def _entry(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


ModelRef = Annotated[ModelEntry, BeforeValidator(_entry)]
"""A model, or its path alone."""


class LabelFacts(BaseModel):
    """What a recipe says of a label, where the model does not, or otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = Field(
        default=None, description="Display colour as #rrggbb."
    )
    code: CodedConcept | None = Field(default=None, description="What the structure is, as a coded concept.")
    laterality: Laterality | None = Field(default=None, description="Side, for paired organs.")
    category: CodedConcept | None = Field(default=None, description="What kind of thing it is (PS3.16 CID 7150).")
    region: CodedConcept | None = Field(default=None, description="Where in the body it is.")
