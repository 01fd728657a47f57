"""`Cleanup`: what a recipe cleans up in a mask, label by label, on the image's own grid.

The order is fixed, each step over all labels that ask for it, in the order of their values: small components are
dropped (`minimum_ml`), gaps closed (`closing_mm`), the largest component kept (`keep_largest`), holes filled
(`fill_holes`). So nothing is closed up to a speck that is to go, parts that a thin gap divides count as one, and
holes that closing has left are filled. What grows, grows into background only, never into another label.

Every step works in the box of one label: in memory is one organ at a time beside the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import edt
import fill_voids
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medseg.components import Box, LabelArray, box_of, components_of, first_of_the_largest
from medseg.labels import BACKGROUND, LabelSet
from medseg.volume import Grid

_TIE = 1e-5  # share by which a distance may pass a radius: distances are 32-bit

Labels = NDArray[np.integer[Any]]
Step = Callable[[Labels, int], None]


class Cleanup(BaseModel):
    """What is cleaned up in a mask; nothing by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum_ml: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="{label: millilitres}: smaller components become background (26 neighbours).",
    )
    closing_mm: dict[str, Annotated[float, Field(gt=0, le=50)]] = Field(
        default_factory=dict,
        description="{label: millimetres}: gaps that no ball of this radius fits into are closed.",
    )
    keep_largest: tuple[str, ...] = Field(
        default=(), description="Labels of which the largest component is kept (26 neighbours)."
    )
    fill_holes: tuple[str, ...] = Field(
        default=(), description="Labels whose holes are filled: background that the label encloses on all sides."
    )

    def named(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every label that is named, with the keys that lead to it."""
        for key in ("minimum_ml", "closing_mm"):
            yield from (((key, name), name) for name in getattr(self, key))
        for key in ("keep_largest", "fill_holes"):
            yield from (((key, place), name) for place, name in enumerate(getattr(self, key)))

    def clean(self, array: LabelArray, labels: LabelSet, grid: Grid) -> LabelArray:
        """Clean up a mask.

        Args:
            array: Label values (i, j, k).
            labels: What they mean; labels that are named and not among them are left alone.
            grid: Where the voxels lie; of a sheared one, distances are taken along its axes.

        Returns:
            The array itself where nothing is asked for, a changed copy otherwise.
        """
        steps = list(self._steps(labels, grid))
        if not steps:
            return array
        cleaned = array.copy(order="K")
        for value, step in steps:
            step(cleaned, value)
        return cleaned

    def _steps(self, labels: LabelSet, grid: Grid) -> Iterator[tuple[int, Step]]:
        voxel_ml, spacing_mm = grid.voxel_volume_ml, grid.spacing_mm
        for label in labels:
            if (least_ml := self.minimum_ml.get(label.name)) is not None:
                yield label.index, _dropping(math.ceil(least_ml / voxel_ml * (1 - _TIE)))
        for label in labels:
            if (radius_mm := self.closing_mm.get(label.name)) is not None:
                yield label.index, _closing(radius_mm, spacing_mm)
        yield from ((label.index, keep_the_largest) for label in labels if label.name in self.keep_largest)
        yield from ((label.index, fill_holes) for label in labels if label.name in self.fill_holes)


def drop_small(array: Labels, value: int, least_voxels: int) -> None:
    """Make components of a label with fewer voxels background, in place.

    Args:
        array: Label values (i, j, k); changed.
        value: Of the label.
        least_voxels: Of a component that stays.
    """
    box = box_of(array, value)
    if box is None:
        return
    components, sizes = components_of(array[box] == value)
    if sizes.min() < least_voxels:
        goes = np.concatenate(([False], sizes < least_voxels))
        array[box][goes[components]] = BACKGROUND


def keep_the_largest(array: Labels, value: int) -> None:
    """Make all but the largest component of a label background, in place.

    Args:
        array: Label values (i, j, k); changed.
        value: Of the label.
    """
    box = box_of(array, value)
    if box is None:
        return
    components, sizes = components_of(array[box] == value)
    if len(sizes) > 1:
        largest = first_of_the_largest(components, sizes)
        array[box][(components != BACKGROUND) & (components != largest)] = BACKGROUND


def fill_holes(array: Labels, value: int) -> None:
    """Fill the background that a label encloses, in place.

    A hole is closed where no way leads out of it over faces of voxels that are not the label. Other labels in it
    stay.

    Args:
        array: Label values (i, j, k); changed.
        value: Of the label.
    """
    box = box_of(array, value)
    if box is None:
        return
    part = array[box]
    mask = np.zeros([size + 2 for size in part.shape], dtype=bool, order="F")  # fill_voids 2.1 errs at borders
    inner = (slice(1, -1),) * 3
    mask[inner] = part == value
    filled = fill_voids.fill(mask, in_place=True)[inner]
    part[filled.astype(bool) & (part == BACKGROUND)] = value


def close_gaps(array: Labels, value: int, radius_mm: float, spacing_mm: Sequence[float]) -> None:
    """Close a label by a ball, in place: background where no ball fits that misses the label becomes the label.

    The closing of mathematical morphology: the label is widened by the radius and narrowed again. Beyond the image
    is background.

    Args:
        array: Label values (i, j, k); changed.
        value: Of the label.
        radius_mm: Of the ball.
        spacing_mm: Of the voxels along (i, j, k).
    """
    box = box_of(array, value)
    if box is None:
        return
    margins = [math.floor(radius_mm / step * (1 + _TIE)) + 1 for step in spacing_mm]
    near = np.pad(array[box] == value, [(margin, margin) for margin in margins])
    limit = np.float32(radius_mm**2 * (1 + _TIE))
    wide = _squared_mm(~near, spacing_mm) <= limit
    closed = _squared_mm(wide, spacing_mm) > limit
    inside = _inner(closed, margins)  # closing never leaves the box of what it closes
    part = array[box]
    part[inside & (part == BACKGROUND)] = value


def _dropping(least_voxels: int) -> Step:
    return lambda array, value: drop_small(array, value, least_voxels)


def _closing(radius_mm: float, spacing_mm: Sequence[float]) -> Step:
    return lambda array, value: close_gaps(array, value, radius_mm, spacing_mm)


def _squared_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Return of every voxel of a mask the squared distance to the nearest one that is not in it."""
    distances: NDArray[np.float32] = edt.edtsq(np.asfortranarray(mask), anisotropy=tuple(spacing_mm))
    return distances


def _inner(array: NDArray[np.bool_], margins: Sequence[int]) -> NDArray[np.bool_]:
    inner: Box = (slice(margins[0], -margins[0]), slice(margins[1], -margins[1]), slice(margins[2], -margins[2]))
    return array[inner]
