"""What is measured on a mask: volume, values of the image, longest axial diameter; one pass, label by label.

The longest axial diameter is the greatest distance between two points of a label's outline in one plane. The
planes are those of the array axis that is nearest to the patient's head-foot direction: the slices of an axial
series, also of a tilted one. The outline lies halfway between a voxel's centre and that of its neighbour outside,
as that of a contour at 0.5, so a single voxel is as long as it is wide. The line may leave the mask, and parts of
one label that lie apart in a plane count together.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.diameter import Longest, outline_points
from medseg.labels import BACKGROUND, Label, LabelMap
from medseg.volume import Grid, Volume, require_same_grid

HOUNSFIELD = "HU"

_DECIMALS = 6
_MOST_TABLE_SIZE = 1 << 16
_BLOCK_VOXELS = 1 << 22  # copied at once where planes do not lie in one piece in memory

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Diameter:
    """A longest axial diameter; see the module.

    Attributes:
        length_mm: From end to end.
        ends_mm: Both ends, RAS+ millimetres.
        axis: Array axis that the plane is cut across: 2 for a series of axial slices.
        slice: Index along that axis, from 0; the lowest one of equal diameters.
    """

    length_mm: float
    ends_mm: tuple[Point, Point]
    axis: int
    slice: int


@dataclass(frozen=True)
class LabelMeasurement:
    """What is measured on one label.

    Attributes:
        label: Which.
        voxels: Their number, at least 1.
        volume_ml: Of the voxels.
        centroid_mm: Mean of the voxels' centres, RAS+ millimetres.
        mean: Of the image's finite values in the label; None without an image, or where no value is finite.
        deviation: Standard deviation of these values, as of a whole population (divided by n); None as for `mean`.
        unit: Of both, such as ``HU``; nothing where the values have none.
        diameter: Longest axial one.
    """

    label: Label
    voxels: int
    volume_ml: float
    centroid_mm: Point
    mean: float | None
    deviation: float | None
    unit: str
    diameter: Diameter


def measure(labels: LabelMap, image: Volume | None, unit: str = "") -> tuple[LabelMeasurement, ...]:
    """Measure every label that has a voxel, in the order of the label set.

    Planes are read one after another; beside them, memory holds a few numbers a label.

    Args:
        labels: The mask. Values that its labels do not name are left out.
        image: On the same grid; None where only sizes are asked for.
        unit: Of the image's values, as ``HU``; nothing where they have none. A CT may hold other values than HU.

    Raises:
        GridError: The image lies on another grid.
    """
    if image is not None:
        where = labels.volume.source or "label map"
        require_same_grid(image.grid, labels.grid, owner="the image", where=where)
    axis = axial_axis(labels.grid)
    sums = _Sums(labels, axis)
    for number, values, pixels in _planes(labels.array, None if image is None else image.array, axis):
        sums.add(number, values, pixels)
    return tuple(sums.measured(number, unit) for number in np.flatnonzero(sums.count).tolist())


def measurements_csv(measurements: Sequence[LabelMeasurement], channel: str = "") -> str:
    """Return measurements as CSV, a label a line, units in the head; positions are RAS+ millimetres.

    Args:
        measurements: Of each label.
        channel: Whose values were measured; nothing, and no column, where the image has one only.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    ends = [f"diameter_{end}_{axis}_ras_mm" for end in ("start", "end") for axis in "xyz"]
    columns = ["label", "value", "voxels", "volume_ml", "mean", "sd", "unit"]
    columns += ["channel"] if channel else []
    columns += ["longest_axial_diameter_mm"]
    columns += ["diameter_axis", "diameter_slice", *ends, *(f"centroid_{axis}_ras_mm" for axis in "xyz")]
    writer.writerow(columns)
    for one in measurements:
        values = [one.volume_ml, one.mean, one.deviation, one.unit, *([channel] if channel else [])]
        start, end = one.diameter.ends_mm
        places = [one.diameter.length_mm, one.diameter.axis, one.diameter.slice, *start, *end, *one.centroid_mm]
        row = [one.label.name, one.label.index, one.voxels, *values, *places]
        writer.writerow([_short(value) for value in row])
    return stream.getvalue()


def measurements_json(measurements: Sequence[LabelMeasurement], channel: str = "") -> str:
    """Return measurements as JSON, units in the names; positions are RAS+ millimetres, what is unknown is null.

    Args:
        measurements: Of each label.
        channel: Whose values were measured; nothing, and no entry, where the image has one only.
    """
    listed = [
        {
            "label": one.label.name,
            "value": one.label.index,
            "voxels": one.voxels,
            "volume_ml": _short(one.volume_ml),
            "mean": _short(one.mean),
            "sd": _short(one.deviation),
            "unit": one.unit,
            "longest_axial_diameter": {
                "length_mm": _short(one.diameter.length_mm),
                "ends_ras_mm": [[_short(part) for part in end] for end in one.diameter.ends_mm],
                "axis": one.diameter.axis,
                "slice": one.diameter.slice,
            },
            "centroid_ras_mm": [_short(part) for part in one.centroid_mm],
        }
        for one in measurements
    ]
    of_channel = {"channel": channel} if channel else {}
    return json.dumps(of_channel | {"measurements": listed}, indent=1, ensure_ascii=False) + "\n"


def axial_axis(grid: Grid) -> int:
    """Return the array axis that is nearest to the patient's head-foot direction."""
    return int(np.argmax(np.abs(grid.affine[2, :3]) / grid.spacing_mm))


class _Sums:
    """Running sums of all labels over planes; a label's number is its place in the label set."""

    def __init__(self, labels: LabelMap, axis: int) -> None:
        self.labels = tuple(labels.labels)
        self.grid = labels.grid
        self.axes = tuple(other for other in range(3) if other != axis)
        self.numbers = _Numbers(labels)
        size = len(self.labels)
        self.count = np.zeros(size, dtype=np.int64)
        self.places = np.zeros((size, 3))  # sums of indices
        self.finite = np.zeros(size, dtype=np.int64)
        self.mean = np.zeros(size)
        self.spread = np.zeros(size)  # sum of squared deviations from the mean
        self.axis = axis
        steps = labels.affine[:3, self.axes]
        self.longest = [Longest(steps.T @ steps) for _ in self.labels]

    def add(self, number: int, values: NDArray[Any], pixels: NDArray[Any] | None) -> None:
        """Add a plane (m, n) of label values with the image's values."""
        places = np.flatnonzero(values.ravel() != BACKGROUND)
        if not places.size:
            return
        which = self.numbers.of(values.ravel()[places])
        places, which = places[which >= 0], which[which >= 0]
        size = len(self.labels)
        count = np.bincount(which, minlength=size)
        self.count += count
        self.places[:, self.axis] += count * float(number)
        for axis, index in zip(self.axes, np.divmod(places, values.shape[1]), strict=True):
            self.places[:, axis] += np.bincount(which, weights=index, minlength=size)
        if pixels is not None:
            self._add_values(which, pixels.ravel()[places].astype(np.float64))
        for value, points in outline_points(values):
            found = int(self.numbers.of(np.array([value]))[0])
            if found >= 0:
                self.longest[found].offer(number, points)

    def _add_values(self, which: NDArray[np.intp], values: NDArray[np.float64]) -> None:
        """Merge mean and spread of a plane with what is there (Chan, Golub and LeVeque 1983)."""
        if not np.isfinite(values).all():
            which, values = which[np.isfinite(values)], values[np.isfinite(values)]
        size = len(self.labels)
        count = np.bincount(which, minlength=size)
        mean = np.bincount(which, weights=values, minlength=size) / np.maximum(count, 1)
        spread = np.bincount(which, weights=(values - mean[which]) ** 2, minlength=size)
        both = np.maximum(self.finite + count, 1)
        apart = np.where(count > 0, mean - self.mean, 0.0)
        self.mean += apart * count / both
        self.spread += spread + apart**2 * self.finite * count / both
        self.finite += count

    def measured(self, number: int, unit: str) -> LabelMeasurement:
        """Return what was summed of one label."""
        count = int(self.count[number])
        has_values = self.finite[number] > 0
        deviation = np.sqrt(self.spread[number] / max(int(self.finite[number]), 1))
        return LabelMeasurement(
            label=self.labels[number],
            voxels=count,
            volume_ml=count * self.grid.voxel_volume_ml,
            centroid_mm=_point(self.grid.world(self.places[number] / count)),
            mean=float(self.mean[number]) if has_values else None,
            deviation=float(deviation) if has_values else None,
            unit=unit if has_values else "",
            diameter=self._diameter(self.longest[number]),
        )

    def _diameter(self, longest: Longest) -> Diameter:
        ends = np.zeros((2, 3))
        ends[:, self.axes] = longest.ends
        ends[:, self.axis] = longest.plane
        first, second = self.grid.world(ends)
        return Diameter(longest.length_mm, (_point(first), _point(second)), self.axis, longest.plane)


class _Numbers:
    """Label values -> places in the label set; -1 for what it does not name."""

    def __init__(self, labels: LabelMap) -> None:
        self.indices = np.array(labels.labels.indices)
        self.table: NDArray[np.intp] | None = None
        if labels.array.dtype.kind == "u" and labels.array.dtype.itemsize <= 2:
            self.table = np.full(_MOST_TABLE_SIZE, -1, dtype=np.intp)
            known = self.indices < _MOST_TABLE_SIZE
            self.table[self.indices[known]] = np.flatnonzero(known)

    def of(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Return the place of each value."""
        if self.table is not None:
            found: NDArray[np.intp] = self.table[values]
            return found
        places = np.minimum(np.searchsorted(self.indices, values), len(self.indices) - 1)
        return np.where(self.indices[places] == values, places, -1)


def _planes(
    array: NDArray[Any], image: NDArray[Any] | None, axis: int
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any] | None]]:
    """Yield number, label values and image values of each plane that holds a label, in C order.

    A few planes are copied at once: where the axis is the fastest one in memory, each of them alone would touch
    every part of the array.
    """
    step = max(1, _BLOCK_VOXELS * array.shape[axis] // max(array.size, 1))
    for start in range(0, array.shape[axis], step):
        block = [slice(None)] * 3
        block[axis] = slice(start, start + step)
        values = np.ascontiguousarray(np.moveaxis(array[tuple(block)], axis, 0))
        if not values.any():
            continue
        pixels = None if image is None else np.ascontiguousarray(np.moveaxis(image[tuple(block)], axis, 0))
        for number, plane in enumerate(values):
            yield start + number, plane, None if pixels is None else pixels[number]


def _point(position_mm: NDArray[np.float64]) -> Point:
    x, y, z = (float(value) for value in position_mm)
    return x, y, z


def _short(value: Any) -> Any:
    """Return a number without the digits that rounding makes; no -0.0."""
    return round(value, _DECIMALS) + 0.0 if isinstance(value, float) else value
