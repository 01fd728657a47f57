"""How well a mask agrees with a reference: one costly pass, many figures.

The surface of a mask is its border: the voxels that the 6-connected erosion takes away. Two Euclidean
distance transforms, one for each border, give every surface figure. The definitions are those of Maier-Hein
et al., "Metrics reloaded", Nature Methods 21 (2024), and of Nikolov et al., "Clinically applicable
segmentation of head and neck anatomy for radiotherapy", JMIR 23 (2021), with border voxels as the surface, as
in MONAI.

What an empty mask counts for, the same everywhere in medseg:

===========================  ====  ============  ==========  ==============
mask                         Dice  surface Dice  HD95, ASSD  volume error %
===========================  ====  ============  ==========  ==============
both empty                   NaN   NaN           NaN         NaN
only the prediction empty    0     0             inf         -100
only the reference empty     0     0             inf         inf
===========================  ====  ============  ==========  ==============

NaN never enters a mean, and the volumes of two empty masks are NaN too; an infinite distance stays out of the
mean of distances and is counted instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import edt
import numpy as np
from numpy.typing import NDArray

from medseg.errors import GridError, UsageError

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
Box = tuple[slice, slice, slice]

DEFAULT_TOLERANCE_MM = 1.0
# Three spacings of 0.7 mm are not quite 2.1 mm in floating point, nor is a spacing from a float32 affine
# quite 0.7: what lies this little beyond the tolerance is within it.
TOLERANCE_SLACK_MM = 1e-4
_PERCENTILE = 95
_CHUNK_VOXELS = 1 << 22


@dataclass(frozen=True)
class LabelMetrics:
    """The figures of one label of one case; see the module for what an empty mask counts for.

    Attributes:
        dice: Overlap of the voxels, 2|A∩B| / (|A| + |B|), from 0 to 1.
        surface_dice: Share of the border voxels of both masks that lie within the tolerance of the other
            border (normalized surface distance, NSD), from 0 to 1.
        hd95_mm: The larger of the two directed 95th percentiles of the border distances, in millimetres.
        assd_mm: Mean distance over the border voxels of both masks, in millimetres.
        volume_ml: Volume of the prediction in millilitres.
        reference_ml: Volume of the reference in millilitres.
        volume_error_percent: 100 (prediction - reference) / reference.
    """

    dice: float
    surface_dice: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float
    reference_ml: float
    volume_error_percent: float

    @property
    def is_defined(self) -> bool:
        """Whether at least one of the two masks holds a voxel."""
        return not math.isnan(self.dice)

    @property
    def is_one_sided(self) -> bool:
        """Whether exactly one of the two masks is empty."""
        return math.isinf(self.hd95_mm)


BOTH_EMPTY = LabelMetrics(*[math.nan] * 7)


def label_metrics(
    prediction: Mask,
    reference: Mask,
    spacing_mm: Spacing,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> LabelMetrics:
    """Compare two masks on one grid.

    Distances are those of the grid's spacing, with index axes taken to be at right angles: resample a sheared
    image first. Outside the image counts as background: a mask cut off by its edge has a border there.

    Args:
        prediction: Mask (i, j, k), bool.
        reference: Mask (i, j, k), bool.
        spacing_mm: Distance between neighbouring voxel centres along (i, j, k) in millimetres.
        tolerance_mm: Distance within which a border voxel counts as right in the surface Dice.

    Raises:
        GridError: The masks differ in shape or are not 3-D, or the spacing is not three positive numbers.
        UsageError: The tolerance is negative or not finite.
    """
    _check(prediction, reference, spacing_mm, tolerance_mm)
    box = _bounding_box(prediction, reference)
    if box is None:
        return BOTH_EMPTY
    prediction, reference = _padded(prediction[box]), _padded(reference[box])
    count, reference_count = np.count_nonzero(prediction), np.count_nonzero(reference)
    common = np.count_nonzero(prediction & reference)
    nsd, hd95, assd = 0.0, math.inf, math.inf
    if count and reference_count:
        nsd, hd95, assd = _surface_figures(prediction, reference, spacing_mm, tolerance_mm)
    voxel_ml = math.prod(spacing_mm) / 1000.0
    return LabelMetrics(
        dice=2.0 * common / (count + reference_count),
        surface_dice=nsd,
        hd95_mm=hd95,
        assd_mm=assd,
        volume_ml=count * voxel_ml,
        reference_ml=reference_count * voxel_ml,
        volume_error_percent=100.0 * (count - reference_count) / reference_count if reference_count else math.inf,
    )


def all_label_metrics(
    prediction: NDArray[np.integer[Any]],
    reference: NDArray[np.integer[Any]],
    indices: Iterable[int],
    spacing_mm: Spacing,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> dict[int, LabelMetrics]:
    """Compare two label maps on one grid, label by label.

    Args:
        prediction: Label values (i, j, k).
        reference: Label values (i, j, k).
        indices: The label values to compare.
        spacing_mm: Distance between neighbouring voxel centres along (i, j, k) in millimetres.
        tolerance_mm: Distance within which a border voxel counts as right in the surface Dice.

    Returns:
        The figures of each index, in the order given.

    Raises:
        GridError: The maps differ in shape or are not 3-D, or the spacing is not three positive numbers.
        UsageError: The tolerance is negative or not finite.
    """
    _check(prediction, reference, spacing_mm, tolerance_mm)
    box = _bounding_box(prediction != 0, reference != 0)
    if box is None:
        return dict.fromkeys(indices, BOTH_EMPTY)
    prediction, reference = prediction[box], reference[box]
    return {
        index: label_metrics(prediction == index, reference == index, spacing_mm, tolerance_mm) for index in indices
    }


def dice_per_label(
    prediction: NDArray[np.integer[Any]], reference: NDArray[np.integer[Any]], indices: Iterable[int]
) -> dict[int, float]:
    """Return the Dice of each label, from one pass over two label maps of any number of dimensions.

    Args:
        prediction: Label values, none negative.
        reference: Label values of the same shape, none negative.
        indices: The label values to compare.

    Returns:
        Dice by index, NaN where neither map holds the label.

    Raises:
        GridError: The maps differ in shape.
    """
    _check_shapes(prediction, reference)
    wanted = list(indices)
    size = max(wanted, default=0) + 1
    sums, common = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for part, reference_part in _chunks(prediction, reference):
        sums += _histogram(part, size) + _histogram(reference_part, size)
        common += _histogram(part[part == reference_part], size)
    return {i: 2.0 * int(common[i]) / int(sums[i]) if sums[i] else math.nan for i in wanted}


def _chunks(prediction: NDArray[Any], reference: NDArray[Any]) -> Iterable[tuple[NDArray[Any], NDArray[Any]]]:
    """Cut both arrays along their last axis, so that the temporary arrays of a pass stay small."""
    length = prediction.shape[-1]
    step = max(1, _CHUNK_VOXELS * length // max(prediction.size, 1))
    for start in range(0, length, step):
        yield prediction[..., start : start + step], reference[..., start : start + step]


def _histogram(values: NDArray[Any], size: int) -> NDArray[np.int64]:
    return np.bincount(values.ravel(order="K"), minlength=size)[:size]


def _surface_figures(
    prediction: Mask, reference: Mask, spacing_mm: Spacing, tolerance_mm: float
) -> tuple[float, float, float]:
    """Return surface Dice, HD95 and ASSD of two masks that are not empty and have an empty margin."""
    border, reference_border = _border(prediction), _border(reference)
    distances = (
        _distances_to(reference_border, border, spacing_mm),
        _distances_to(border, reference_border, spacing_mm),
    )
    both = np.concatenate(distances)
    nsd = np.count_nonzero(both <= tolerance_mm + TOLERANCE_SLACK_MM) / both.size
    hd95 = max(float(np.percentile(directed, _PERCENTILE)) for directed in distances)
    return nsd, hd95, float(both.mean())


def _distances_to(target: Mask, at: Mask, spacing_mm: Spacing) -> NDArray[np.float64]:
    field = edt.edt(~target, anisotropy=spacing_mm)
    return cast(NDArray[np.float64], field[at].astype(np.float64))


def _border(mask: Mask) -> Mask:
    """Return the voxels of a mask that lack one of their six neighbours; the margin of the mask is empty."""
    border = mask.copy(order="K")
    inside = border[1:-1, 1:-1, 1:-1]
    eroded = inside.copy(order="K")
    for axis in range(3):
        for step in (slice(None, -2), slice(2, None)):
            neighbour = [slice(1, -1)] * 3
            neighbour[axis] = step
            eroded &= mask[tuple(neighbour)]
    inside &= ~eroded
    return border


def _padded(mask: Mask) -> Mask:
    """Return a contiguous copy with a margin of one empty voxel, in the memory order of the mask."""
    i_is_fastest = abs(mask.strides[0]) < abs(mask.strides[2])
    shape = [size + 2 for size in mask.shape]
    padded: Mask = np.zeros(shape, dtype=np.bool_, order="F" if i_is_fastest else "C")
    padded[1:-1, 1:-1, 1:-1] = mask
    return padded


def _bounding_box(prediction: Mask, reference: Mask) -> Box | None:
    """Return the smallest box that holds both masks, or None where both are empty."""
    either = prediction | reference
    slices = []
    for axis in (2, 1, 0):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(either.any(axis=others))
        if not occupied.size:
            return None
        slices.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    k, j, i = slices
    return i, j, k


def _check(prediction: NDArray[Any], reference: NDArray[Any], spacing_mm: Spacing, tolerance_mm: float) -> None:
    _check_shapes(prediction, reference)
    if prediction.ndim != 3:
        raise GridError(
            "masks",
            expected="3-D arrays",
            found=f"{prediction.ndim}-D",
            remedy="compare one volume at a time",
        )
    if len(spacing_mm) != 3 or not all(0 < spacing < math.inf for spacing in spacing_mm):
        raise GridError(
            "spacing_mm",
            expected="three positive numbers",
            found=str(spacing_mm),
            remedy="correct the header",
        )
    if not 0 <= tolerance_mm < math.inf:
        raise UsageError(
            "tolerance_mm",
            expected="a distance of 0 mm or more",
            found=str(tolerance_mm),
            remedy="give a tolerance such as 1.0",
        )


def _check_shapes(prediction: NDArray[Any], reference: NDArray[Any]) -> None:
    if prediction.shape != reference.shape:
        raise GridError(
            "prediction",
            expected=f"the reference's shape {reference.shape}",
            found=f"shape {prediction.shape}",
            remedy="resample it onto the reference's grid",
        )
