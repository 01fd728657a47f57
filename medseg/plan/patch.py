"""The size of training patches: cubes in millimetres, no larger than the images, of a given number of voxels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from medseg.plan.topology import topology

_ROUNDS = 10
_STEP = 0.8  # from one candidate to the next smaller one
_SMALLEST_VOXELS = {2: 16**2, 3: 16**3}


def patch_sizes(
    shape: Sequence[float], spacing_mm: Sequence[float], most_voxels: float
) -> Iterator[tuple[int, ...]]:
    """Yield patches from the largest on, each with about a fifth fewer voxels than the one before.

    Args:
        shape: Of the median case at the network's spacing, two or three axes.
        spacing_mm: One an axis.
        most_voxels: Of the first one.
    """
    dims, last = len(shape), None
    voxels = min(most_voxels, float(math.prod(shape)))
    while True:
        patch = _whole(filled(shape, spacing_mm, voxels), spacing_mm)
        if patch != last:
            yield patch
        if voxels <= _SMALLEST_VOXELS[dims]:
            return
        last, voxels = patch, voxels * _STEP


def filled(shape: Sequence[float], spacing_mm: Sequence[float], voxels: float) -> tuple[float, ...]:
    """Return the box of so many voxels that is a cube in mm but for the axes where the image is smaller.

    The edge L solves prod(min(L / spacing, shape)) = voxels.

    Args:
        shape: Of the image.
        spacing_mm: One an axis.
        voxels: At most those of the image.
    """
    low, high = 0.0, max(n * mm for n, mm in zip(shape, spacing_mm, strict=True))
    for _ in range(60):
        edge = (low + high) / 2
        low, high = (edge, high) if math.prod(_box(shape, spacing_mm, edge)) < voxels else (low, edge)
    return _box(shape, spacing_mm, high)


def _box(shape: Sequence[float], spacing_mm: Sequence[float], edge_mm: float) -> tuple[float, ...]:
    return tuple(min(edge_mm / mm, n) for n, mm in zip(shape, spacing_mm, strict=True))


def _whole(box: Sequence[float], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Round each axis to the nearest multiple of what a network for the rounded patch halves it to."""
    patch = tuple(max(1, round(n)) for n in box)
    for _ in range(_ROUNDS):
        multiple = topology(patch, spacing_mm).multiple
        rounded = tuple(max(m, m * round(n / m)) for n, m in zip(patch, multiple, strict=True))
        if rounded == patch:
            break
        patch = rounded  # may be halved more or less often than before
    return patch
