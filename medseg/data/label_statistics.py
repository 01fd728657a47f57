"""How large the labels of the training cases are, in how many they occur, touch the border or fall apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medseg.components import FULL_CONNECTIVITY, Box
from medseg.volume import Volume

_CHUNK = 1 << 20  # voxels whose components are counted at once


class MeasuredLabel(BaseModel):
    """One label of one case.

    Attributes:
        value: In the label map.
        volume_ml: Of all its voxels.
        is_at_border: Whether a voxel of it lies on a face of the volume; an axis of one voxel has no faces.
        share_apart: Share of its voxels outside of its largest component; voxels that share a corner are connected.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: int
    volume_ml: float
    is_at_border: bool
    share_apart: float


class LabelStatistics(BaseModel):
    """What a label is like in the training cases; volumes and shares are of the cases that have it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share_of_cases: float = Field(description="Share of all cases that have it.")
    share_at_border: float = Field(description="Share of these where it touches a face of the volume.")
    smallest_ml: float
    percentile_05_ml: float
    median_ml: float
    percentile_95_ml: float
    largest_ml: float
    largest_share_apart: float = Field(
        description="The largest share of a case's voxels of it outside of its largest component."
    )
    percentile_95_share_apart: float | None = Field(
        default=None, description="95th percentile of that share, which one odd case hardly moves; None if unknown."
    )
    smallest_whole_ml: float | None = Field(
        default=None, description="Of the cases where it touches no face of the volume; None where there are none."
    )

    @property
    def usual_share_apart(self) -> float:
        """The largest share outside of the largest component that is usual in the training cases."""
        known = self.percentile_95_share_apart
        return self.largest_share_apart if known is None else known


def measure_labels(label: Volume, ignore_value: int | None = None) -> tuple[MeasuredLabel, ...]:
    """Measure the labels of one case.

    Args:
        label: Label values; those above 0 are measured.
        ignore_value: Value of the voxels that nobody judged; it is no label.

    Returns:
        One entry a value that occurs, in ascending order.
    """
    box = occupied_box(label.array)
    if box is None:
        return ()
    array = np.asfortranarray(_labels_only(label.array[box], ignore_value))
    value_of, sizes = component_sizes(array)
    at_border = {int(value) for face in faces(label.array) for value in np.unique(face)}
    found = []
    for value in np.unique(value_of).tolist():
        voxels = sizes[value_of == value]
        total = int(voxels.sum())
        found.append(
            MeasuredLabel(
                value=value,
                volume_ml=total * label.grid.voxel_volume_ml,
                is_at_border=value in at_border,
                share_apart=1 - int(voxels.max()) / total,
            )
        )
    return tuple(found)


def component_sizes(array: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the label value and the voxels of each connected component of each label.

    Args:
        array: Label values (i, j, k), none below 0; 0 is background.

    Returns:
        Two arrays of one entry a component, in no order that means anything; voxels that share a corner are
        connected.
    """
    parts = cc3d.connected_components(array, connectivity=FULL_CONNECTIVITY)
    components, values = parts.reshape(-1, order="F"), array.reshape(-1, order="F")
    sizes = np.zeros(int(components.max(initial=0)) + 1, dtype=np.int64)
    value_of = np.zeros(len(sizes), dtype=np.int64)
    for start in range(0, len(values), _CHUNK):
        part, value = components[start : start + _CHUNK], values[start : start + _CHUNK]
        counted = np.bincount(part)
        sizes[: len(counted)] += counted
        value_of[part] = value
    return value_of[1:], sizes[1:]


def occupied_box(array: NDArray[Any]) -> Box | None:
    """Return the smallest box around what is not 0, or None where nothing is.

    Args:
        array: (i, j, k), i fastest in memory.
    """
    sides = [slice(None)] * 3
    for axis in (2, 1, 0):  # i is fastest in memory: the box is first cut where that leaves whole planes
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(array[tuple(sides)].any(axis=others))
        if not occupied.size:
            return None
        sides[axis] = slice(int(occupied[0]), int(occupied[-1]) + 1)
    return sides[0], sides[1], sides[2]


def faces(array: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the faces of an array: the first and the last plane along i, then j, then k.

    An axis of one voxel has none: everything in a single slice would touch both.
    """
    axes = [axis for axis, size in enumerate(array.shape) if size > 1]
    return [array[(slice(None),) * axis + (end,)] for axis in axes for end in (0, -1)]


def summarize_labels(
    measurements: Sequence[Sequence[MeasuredLabel]], names: Mapping[int, str]
) -> dict[str, LabelStatistics]:
    """Pool what was measured of labels.

    Args:
        measurements: One entry a case, at least one.
        names: {value: name} of the labels wanted.

    Returns:
        By name; labels that no case has are not there.
    """
    found = {}
    for value, name in names.items():
        seen = [label for case in measurements for label in case if label.value == value]
        if not seen:
            continue
        volumes = [label.volume_ml for label in seen]
        low, middle, high = (float(ml) for ml in np.percentile(volumes, (5, 50, 95)))
        apart = [label.share_apart for label in seen]
        found[name] = LabelStatistics(
            share_of_cases=len(seen) / len(measurements),
            share_at_border=sum(label.is_at_border for label in seen) / len(seen),
            smallest_ml=min(volumes),
            percentile_05_ml=low,
            median_ml=middle,
            percentile_95_ml=high,
            largest_ml=max(volumes),
            largest_share_apart=max(apart),
            percentile_95_share_apart=float(np.percentile(apart, 95)),
            smallest_whole_ml=min((label.volume_ml for label in seen if not label.is_at_border), default=None),
        )
    return found


def pool_labels(several: Sequence[Mapping[str, LabelStatistics]]) -> dict[str, LabelStatistics]:
    """Return the statistics of labels over several sets of cases, such as those of folds, which share most cases.

    Extremes are the outermost, shares and the median their means, over the sets that tell.
    """
    names = dict.fromkeys(name for one in several for name in one)
    return {name: _pooled([one[name] for one in several if name in one]) for name in names}


def _pooled(parts: Sequence[LabelStatistics]) -> LabelStatistics:
    apart = [part.percentile_95_share_apart for part in parts]
    whole = [part.smallest_whole_ml for part in parts if part.smallest_whole_ml is not None]

    def mean(field: str) -> float:
        return math.fsum(getattr(part, field) for part in parts) / len(parts)

    return LabelStatistics(
        share_of_cases=mean("share_of_cases"),
        share_at_border=mean("share_at_border"),
        smallest_ml=min(part.smallest_ml for part in parts),
        percentile_05_ml=min(part.percentile_05_ml for part in parts),
        median_ml=mean("median_ml"),
        percentile_95_ml=max(part.percentile_95_ml for part in parts),
        largest_ml=max(part.largest_ml for part in parts),
        largest_share_apart=max(part.largest_share_apart for part in parts),
        percentile_95_share_apart=None if None in apart else max(share for share in apart if share is not None),
        smallest_whole_ml=min(whole, default=None),
    )


def _labels_only(array: NDArray[Any], ignore_value: int | None) -> NDArray[np.integer[Any]]:
    """Return label values with 0 in place of what is no label."""
    if array.dtype.kind == "u" and ignore_value is None:
        return array
    kept = array > 0 if ignore_value is None else (array > 0) & (array != ignore_value)
    values = np.where(kept, array, 0)
    return values if values.dtype.kind in "iu" else values.astype(np.int64)
