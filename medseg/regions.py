"""`Region`: a structure made of several labels. `LabelScheme`: what is learnt and measured of label maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.labels import BACKGROUND, LabelSet
from medseg.volume import smallest_unsigned


class Region(BaseModel):
    """A structure made of labels, such as a whole tumour of its parts; it may contain other regions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="Short unique name, used in tables.")
    labels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="Values of the labels that it is made of."
    )
    paint: int | None = Field(
        default=None,
        description="Label value of a voxel that is in this region and in none after it; the one of its labels "
        "that no later region has if unset.",
    )

    @model_validator(mode="after")
    def _check(self) -> Region:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"a label stands twice: {list(self.labels)}")
        if self.paint is not None and self.paint not in self.labels:
            raise ValueError(f"paint {self.paint} is none of its labels {list(self.labels)}")
        return self


def region_problems(regions: Sequence[Region], labels: LabelSet) -> Iterator[tuple[int, str, str]]:
    """Yield what does not fit together: (position of the region, its key, one sentence)."""
    names = [region.name for region in regions]
    own = {label.name: (label.index,) for label in labels}
    paints = [_paints(regions, position) for position in range(len(regions))]
    for position, region in enumerate(regions):
        if region.name in names[:position]:
            yield position, "name", f"another region is named {region.name}"
        if own.get(region.name, region.labels) != region.labels:
            yield position, "name", f"{region.name} is the name of a label that is not the whole region"
        unknown = sorted(set(region.labels).difference(labels.indices))
        if unknown:
            yield position, "labels", f"no label has the value {', '.join(map(str, unknown))}"
        if not paints[position]:
            yield position, "labels", "all of it is in later regions; put larger regions before smaller ones"
        elif len(paints[position]) > 1:
            several = ", ".join(map(str, paints[position]))
            yield position, "labels", f"set paint to one of {several}, which no later region has"
        elif paints[position] in paints[:position]:
            yield position, "labels", f"an earlier region is painted with {paints[position][0]} too"


def complete_regions(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return regions that have no problem with `Region.paint` set in every one."""
    return tuple(
        region.model_copy(update={"paint": _paints(regions, position)[0]})
        for position, region in enumerate(regions)
    )


def _paints(regions: Sequence[Region], position: int) -> list[int]:
    """Return what a region may be painted with: what is set, or what is in no later region."""
    region = regions[position]
    if region.paint is not None:
        return [region.paint]
    later = {value for other in regions[position + 1 :] for value in other.labels}
    return [value for value in region.labels if value not in later]


@dataclass(frozen=True)
class LabelScheme:
    """What is learnt and measured of label maps.

    Attributes:
        labels: The labels.
        regions: Complete; what is learnt and measured in place of the labels where there are some.
        ignore_value: Value of the voxels that nobody judged.
    """

    labels: LabelSet
    regions: tuple[Region, ...] = ()
    ignore_value: int | None = None

    @property
    def targets(self) -> dict[str, tuple[int, ...]]:
        """What is measured, in order: {name: the label values that it is made of}."""
        if self.regions:
            return {region.name: region.labels for region in self.regions}
        return {label.name: (label.index,) for label in self.labels}

    @property
    def drawn_values(self) -> NDArray[np.unsignedinteger[Any]]:
        """Background, and the label value that each target is drawn with, in order."""
        if not self.regions:
            return self.labels.channel_values
        values = [BACKGROUND, *(region.paint or BACKGROUND for region in self.regions)]
        return np.array(values, dtype=smallest_unsigned(max(values)))

    @property
    def names(self) -> dict[int, str]:
        """The names of the targets by the value that they are drawn with."""
        return dict(zip(self.drawn_values[1:].tolist(), self.targets, strict=True))

    @property
    def names_as_drawn(self) -> dict[int, str]:
        """The names of the labels by value, but for those that are drawn otherwise than references have them.

        What is painted with a label's value is that label alone, unless a region is also made of labels that have
        no region of their own: these are drawn with the region's value, or not at all.
        """
        drawn = {label.index: {label.index} for label in self.labels}
        if self.regions:
            later: set[int] = set()
            drawn = {}
            for region in reversed(self.regions):
                drawn[region.paint or BACKGROUND] = set(region.labels) - later
                later |= set(region.labels)
        return {label.index: label.name for label in self.labels if drawn.get(label.index) == {label.index}}

    @property
    def outputs(self) -> int:
        """How many channels a network has for it: one a region, or one a label and one for the background."""
        return len(self.regions) or len(self.labels) + 1

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The class indices that each region is made of; empty without regions."""
        place = {value: index for index, value in enumerate(self.labels.indices, start=1)}
        return tuple(tuple(place[value] for value in region.labels) for region in self.regions)

    @property
    def ignore_index(self) -> int | None:
        """The class index of the voxels that nobody judged, where there may be some."""
        return None if self.ignore_value is None else self.labels.ignore_index

    def judged(self, prediction: NDArray[Any], reference: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return both label maps with background where nobody judged the reference."""
        if self.ignore_value is None:
            return prediction, reference
        judged = reference != self.ignore_value
        return prediction * judged, reference * judged
