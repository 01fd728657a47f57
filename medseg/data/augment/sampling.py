"""Image and label at moved positions, by one grid for both: linear and nearest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.data.augment.geometry import Matrix

_VOXELS_AT_ONCE = 1 << 16  # so that what is computed on the way stays in the cache


def resample(image: Tensor, label: Tensor, matrix: Matrix, shift: Tensor | None) -> None:
    """Overwrite a patch with itself at other positions: centre + matrix (voxel - centre) + shift.

    Beyond the border the image keeps the border's value, and the label is background.

    Args:
        image: float32 (C, *spatial).
        label: (*spatial).
        matrix: (dims, dims), in voxels.
        shift: (dims, *spatial), in voxels.
    """
    spatial, dims = label.shape, label.ndim
    lines = F.pad(image[None], (0, 1) * dims, mode="replicate")[0].flatten(1)
    classes = F.pad(label, (1, 1) * dims).flatten()
    unmoved = (np.abs(matrix) == np.eye(dims)).all(axis=1) & (shift is None)
    moving = [axis for axis in range(dims) if not unmoved[axis]]
    rows, rest = _positions(spatial, matrix, image.device)
    step = _rows_at_once(spatial, image.device)
    for first in range(0, spatial[0], step):
        part = slice(first, first + step)
        where = [a[part] + b for a, b in zip(rows, rest, strict=True)]
        if shift is not None:
            where = [position.add_(moved) for position, moved in zip(where, shift[:, part], strict=True)]
        label[part] = _nearest(classes, where, spatial)
        _linear(lines, where, spatial, moving, image[:, part])


def _rows_at_once(spatial: Sequence[int], device: torch.device) -> int:
    if device.type != "cpu":
        return spatial[0]
    return max(_VOXELS_AT_ONCE * torch.get_num_threads() * spatial[0] // int(np.prod(spatial)), 1)


def _positions(spatial: Sequence[int], matrix: Matrix, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return, for each source axis, what the first axis adds, (n, 1, 1), and what the rest adds, (*spatial[1:])."""
    dims = len(spatial)
    centre = [(n - 1) / 2 for n in spatial]
    offsets = [
        (torch.arange(n, device=device) - c).reshape(-1, *[1] * (dims - 1 - axis))
        for axis, (n, c) in enumerate(zip(spatial, centre, strict=True))
    ]
    rows = [offsets[0] * row[0] for row in matrix.tolist()]
    rest = [
        sum((o * x for o, x in zip(offsets[1:], row[1:], strict=True)), start=torch.tensor(c, device=device))
        for row, c in zip(matrix.tolist(), centre, strict=True)
    ]
    return rows, rest


def _nearest(classes: Tensor, where: Sequence[Tensor], spatial: Sequence[int]) -> Tensor:
    """Read the classes, padded by one voxel of background on all sides."""
    places = [(position + 1).round_().clamp_(0, n + 1).int() for position, n in zip(where, spatial, strict=True)]
    index = _flat(places, [n + 2 for n in spatial])
    return classes.index_select(0, index.flatten()).view(index.shape)


def _linear(
    lines: Tensor, where: Sequence[Tensor], spatial: Sequence[int], moving: Sequence[int], out: Tensor
) -> None:
    """Interpolate each channel, padded by one voxel behind, along the axes that move; `where` is overwritten."""
    places, fractions = [], []
    for position, n in zip(where, spatial, strict=True):
        whole = position.clamp_(0, n - 1).floor()
        places.append(whole.int())
        fractions.append(position.sub_(whole).flatten())
    sizes = [n + 1 for n in spatial]
    index = _flat(places, sizes).flatten()
    steps = [int(np.prod(sizes[axis + 1 :])) for axis in moving]
    corners = [sum(corner) for corner in product(*((0, step) for step in steps))]
    for channel, target in zip(lines, out, strict=True):
        values = [channel[corner:].index_select(0, index) for corner in corners]
        for axis in reversed(moving):
            values = [a.lerp_(b, fractions[axis]) for a, b in zip(values[::2], values[1::2], strict=True)]
        target.copy_(values[0].view(target.shape))


def _flat(places: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return the index into the flattened array; `places` is overwritten."""
    index = places[0]
    for place, size in zip(places[1:], sizes[1:], strict=True):
        index = index.mul_(size).add_(place)
    return index
