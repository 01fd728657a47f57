"""Smooth random functions over a patch: cubic B-splines on few control points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.augment.separable import along_axes


@dataclass(frozen=True, eq=False)
class SmoothField:
    """Uniform cubic B-splines (Rueckert et al., IEEE TMI 18, 1999).

    Args:
        control: (components, *points): control values; an axis has three more of them than cells.
        cell: Size of a cell along each axis, in voxels.
    """

    control: NDArray[np.float64]
    cell: tuple[float, ...]

    def on_voxels(self, spatial: Sequence[int], device: torch.device) -> Tensor:
        """Return the values at the centres of the voxels, float32 (components, *spatial)."""
        points = self.control.shape[1:]
        matrices = [_basis(n, p, cell) for n, p, cell in zip(spatial, points, self.cell, strict=True)]
        return along_axes(torch.from_numpy(self.control).to(device, torch.float32), matrices)


def random_field(
    rng: np.random.Generator,
    spatial: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    cells: int,
    limits: Sequence[float],
) -> SmoothField:
    """Draw control values evenly.

    Args:
        rng: Random numbers.
        spatial: Size of the patch.
        spacing_mm: Of its axes; cells have one size in mm along all of them.
        cells: Along the longest side.
        limits: Largest control value, and so largest value, of each component.
    """
    extent_mm = [n * mm for n, mm in zip(spatial, spacing_mm, strict=True)]
    cell_mm = max(extent_mm) / cells
    points = [max(int(np.ceil(mm / cell_mm - 1e-6)), 1) + 3 for mm in extent_mm]
    limit = np.array(limits).reshape(-1, *[1] * len(spatial))
    control = rng.uniform(-1, 1, (len(limits), *points)) * limit
    return SmoothField(control, tuple(cell_mm / mm for mm in spacing_mm))


def _basis(n: int, points: int, cell: float) -> NDArray[np.float64]:
    """Return (n, points): the weight of each control value at each voxel."""
    u = (np.arange(n) + 0.5) / cell
    first = np.minimum(u.astype(int), points - 4)
    t = u - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    matrix = np.zeros((n, points))
    np.put_along_axis(matrix, first[:, None] + np.arange(4), weights, axis=1)
    return matrix
