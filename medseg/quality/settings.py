"""`QualitySettings`: what a recipe asks of a mask, and what becomes of a study whose mask is odd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.findings import Finding, FindingCode

Flag = Literal[
    "organ-absent",
    "truncated",
    "several-components",
    "unusual-volume",
    "sides-swapped",
    "outside-envelope",
    "low-confidence",
]
"""The codes of the findings that a recipe may hold a study back for."""

FLAGS: tuple[Flag, ...] = get_args(Flag)

_Share = Annotated[float, Field(ge=0, le=1)]
_Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class VolumeRange(BaseModel):
    """The volumes that a label may have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="The smallest, in millilitres.")
    max: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="The largest, in millilitres; any if unset."
    )

    @model_validator(mode="after")
    def _check(self) -> VolumeRange:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class QualitySettings(BaseModel):
    """What is asked of a mask; by default, what the model's training cases were like.

    What the model package does not tell, as older ones and imported ones do not, is not asked;
    `medseg.quality.unchecked` lists it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hold: tuple[Flag, ...] = Field(default=(), description="Flags for which a study is held back.")
    mark: tuple[Flag, ...] | None = Field(
        default=None,
        description="Flags that are only reported; all that are not in `hold` if unset. Those in neither of two "
        "lists that are set are not looked for.",
    )
    expected: tuple[str, ...] | None = Field(
        default=None,
        description="Labels that must be there (organ-absent); those that nearly every training case has if unset.",
    )
    expected_share: _Share = Field(
        default=0.95, description="Share of the training cases with a label from which on it is expected."
    )
    least_border_voxels: int = Field(
        default=1, ge=1, description="Voxels on a face of the volume from which on a label is truncated."
    )
    usual_border_share: _Share = Field(
        default=0.5,
        description="Share of the training cases from which on a label that touches the border is nothing odd.",
    )
    may_touch_border: tuple[str, ...] = Field(
        default=(), description="Labels that are never truncated, such as vessels that leave the body part."
    )
    components: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="{label: the most components}; those of training by `component_share` for labels not named.",
    )
    component_ml: _Tolerance = Field(
        default=0.1, description="Components below so many millilitres do not count for several-components."
    )
    component_share: _Share = Field(
        default=0.05,
        description="Share of a label outside of its largest component that is nothing odd, even where it was less "
        "in training.",
    )
    volume_ml: dict[str, VolumeRange] = Field(
        default_factory=dict,
        description="{label: {min, max}} in millilitres; those of training where not named.",
    )
    volume_tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.3, description="How far a volume may lie outside the training range: 0.3 is 30 %."
    )
    left_of: dict[str, str] = Field(
        default_factory=lambda: {"spleen": "liver"},
        description="{label: another one that it lies further left in the patient than}, beside the pairs of left "
        "and right, which are found by laterality or name. Unlike these it shows an image that is mirrored.",
    )
    spacing_tolerance: _Tolerance = Field(
        default=0.5, description="How far voxel sizes may lie outside the training range: 0.5 is 50 %."
    )
    extent_tolerance: _Tolerance = Field(
        default=0.5, description="How far the field of view may lie outside the training range: 0.5 is 50 %."
    )
    intensity_tolerance: _Tolerance = Field(
        default=2.0,
        description="How far the mean of a CT over what was drawn may lie from training's, in standard deviations "
        "of training's labelled voxels.",
    )
    least_confidence: _Share = Field(
        default=0.6, description="Mean probability at a label's boundary below which it is a low-confidence one."
    )

    @model_validator(mode="after")
    def _check(self) -> QualitySettings:
        lists = {"hold": self.hold, "mark": self.mark or ()}
        for name, flags in lists.items():
            if twice := sorted({flag for flag in flags if flags.count(flag) > 1}):
                raise ValueError(f"{name}: listed twice: {', '.join(twice)}")
        if both := sorted(set(self.hold) & set(self.mark or ())):
            raise ValueError(f"in both hold and mark: {', '.join(both)}; a flag goes into one of them")
        return self

    @property
    def watched(self) -> frozenset[FindingCode]:
        """The flags that are looked for: those held and those marked."""
        flags = FLAGS if self.mark is None else (*self.hold, *self.mark)
        return frozenset(FindingCode(flag) for flag in flags)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that are named, each once: a model must draw them."""
        return tuple(dict.fromkeys(name for _, name in self.named()))

    def named(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every label that is named, with the keys that lead to it; the usual `left_of` is left out."""
        for key in ("expected", "may_touch_border"):
            yield from (((key, place), name) for place, name in enumerate(getattr(self, key) or ()))
        for key in ("components", "volume_ml"):
            yield from (((key, name), name) for name in getattr(self, key))
        if "left_of" in self.model_fields_set:
            for left, right in self.left_of.items():
                yield ("left_of", left), left
                yield ("left_of", left), right


def is_held(findings: Iterable[Finding], settings: QualitySettings) -> tuple[str, ...]:
    """Return the codes for which a study is held back, in the order of the recipe; empty where it is released."""
    found = {finding.code.value for finding in findings}
    return tuple(flag for flag in settings.hold if flag in found)
