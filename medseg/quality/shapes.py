"""What the labels of a mask are like: their size, parts and place, and the faces of the volume that they touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg.data.label_statistics import component_sizes, faces, occupied_box
from medseg.labels import Label, LabelMap, LabelSet
from medseg.volume import Grid

_TABLE_LENGTH = 1 << 16
_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "foot"}
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True, eq=False)
class LabelShape:
    """One label of a mask.

    Attributes:
        label: Which.
        voxels: Of all of it.
        component_ml: Volume of each connected component (26 neighbours), the largest first.
        centroid_mm: Mean position of its voxels, RAS+.
        at_faces: {side of the patient: voxels} on the faces of the volume, such as {"head": 12}; an axis of one
            voxel has none.
    """

    label: Label
    voxels: int
    component_ml: tuple[float, ...]
    centroid_mm: tuple[float, float, float]
    at_faces: dict[str, int]

    @property
    def volume_ml(self) -> float:
        """Of all of it."""
        return sum(self.component_ml)

    @property
    def share_apart(self) -> float:
        """Share of it outside of its largest component."""
        return 1 - self.component_ml[0] / self.volume_ml


def shapes_of(labels: LabelMap) -> dict[str, LabelShape]:
    """Measure the labels that a mask has, in their box, and in a number of passes that does not grow with them.

    Args:
        labels: The mask.

    Returns:
        By name, in the order of the label set; labels without a voxel are not there.
    """
    box = occupied_box(labels.array)
    if box is None:
        return {}
    array, values = _small(np.asfortranarray(labels.array[box]), labels.labels)
    value_of, sizes = component_sizes(array)
    centroids = _centroids(array)
    corner = [side.start for side in box]
    touched = _at_faces(labels)
    found = {}
    for label, value in zip(labels.labels, values, strict=True):
        voxels = np.sort(sizes[value_of == value])[::-1]
        if voxels.size:
            x, y, z = labels.grid.world(centroids[value] + corner).tolist()
            parts = tuple((voxels * labels.grid.voxel_volume_ml).tolist())
            at_faces = {side: counts[label.index] for side, counts in touched if label.index in counts}
            found[label.name] = LabelShape(label, int(voxels.sum()), parts, (x, y, z), at_faces)
    return found


def sides_of(grid: Grid) -> list[str]:
    """Return the side of the patient that each of a grid's faces is on, as `medseg.data.label_statistics.faces`."""
    axes = zip(grid.orientation, grid.shape, strict=True)
    return [_SIDES[end] for code, size in axes if size > 1 for end in (_OPPOSITE[code], code)]


def _centroids(array: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the mean index (3,) of the voxels of each value."""
    missing = int(array.max()) + 1 - array.size
    if missing > 0:  # cc3d takes no value above the number of voxels
        array = np.pad(array, ((0, 0), (0, 0), (0, -(-missing // (array.shape[0] * array.shape[1])))))
    return np.asarray(cc3d.statistics(array, no_slice_conversion=True)["centroids"], dtype=np.float64)


def _at_faces(labels: LabelMap) -> list[tuple[str, dict[int, int]]]:
    """Return {label value: voxels} on each face."""
    found = []
    for side, face in zip(sides_of(labels.grid), faces(labels.array), strict=True):
        values, counts = np.unique(face, return_counts=True)
        found.append((side, dict(zip(values.tolist(), counts.tolist(), strict=True))))
    return found


def _small(array: NDArray[np.integer[Any]], labels: LabelSet) -> tuple[NDArray[np.integer[Any]], tuple[int, ...]]:
    """Return an array whose values are small enough for tables, and the value of each label in it."""
    if labels.largest < _TABLE_LENGTH and array.dtype.kind == "u":
        return array, labels.indices
    return labels.class_indices(array), tuple(range(1, len(labels) + 1))
