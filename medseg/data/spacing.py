"""Resampling of a case to the network's spacing, as MONAI dictionary transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from medseg.data.preprocessing import Spline
from medseg.data.resample import GridMap, resample
from medseg.data.spline import faced_grid, header_spacing, resize, resize_labels, separate_axis
from medseg.errors import InputError
from medseg.volume import MAX_VOXELS, Affine, Grid

IMAGE = "image"
NEAREST_AXIS = "nearest_axis"

Data = Mapping[Hashable, Any]


class ExactSpacingd(MapTransform):  # type: ignore[misc]
    """Resample to a spacing: linear for images, nearest for labels; equals MONAI's ``Spacingd`` to 1e-5.

    The first voxel's centre stays where it is, a size is ``round((n - 1) * old / new + 1)``. A sheared grid
    becomes one with right angles.

    Args:
        keys: Which entries.
        spacing_mm: Along i, j, k; ``keep`` leaves an axis as it is.
    """

    def __init__(self, keys: Sequence[str], spacing_mm: Sequence[float | str]) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.spacing_mm = tuple(spacing_mm)

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Resample every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            x = out[key]
            source = grid_of(x)
            target = spaced_grid(source, self.spacing_mm)
            if source.difference(target, tolerance_mm=0.0) is not None:
                values = resample(x.as_tensor(), GridMap(source, target), nearest=key != IMAGE)
                out[key] = placed(values, target)
        return out


class SplineSpacingd(MapTransform):  # type: ignore[misc]
    """Resample to a spacing, images by cubic splines and labels by their shares; see `medseg.data.spline`.

    Args:
        keys: Which entries.
        spacing_mm: Along i, j, k; ``keep`` leaves an axis as it is.
        spline: Which axes are interpolated.
    """

    def __init__(self, keys: Sequence[str], spacing_mm: Sequence[float | str], spline: Spline) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.spacing_mm, self.spline = tuple(spacing_mm), spline

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Resample every key, and note along which axis logits come from the nearest plane."""
        out = dict(data)
        source = grid_of(data[IMAGE])
        old = header_spacing(source)
        new = [o if isinstance(s, str) else float(s) for o, s in zip(old, self.spacing_mm, strict=True)]
        target = _not_too_large(source, faced_grid(source, new))
        forced = self.spline.separate
        separate = separate_axis(old, new, forced)
        for key in self.key_iterator(out):
            change = resize if key == IMAGE else resize_labels
            out[key] = placed(change(out[key].as_tensor(), target.shape, separate), target)
        return out | {NEAREST_AXIS: separate_axis(new, old, forced)}


def spaced_grid(source: Grid, spacing_mm: Sequence[float | str]) -> Grid:
    """Return the right-angled grid of a spacing that covers `source` from its first voxel's centre.

    Args:
        source: Any grid.
        spacing_mm: Along i, j, k; ``keep`` keeps the source's own.

    Raises:
        InputError: It would have more than 2^31 voxels.
    """
    old = np.array(source.spacing_mm)
    new = np.array([o if isinstance(s, str) else float(s) for o, s in zip(old, spacing_mm, strict=True)])
    affine = source.affine.copy()
    affine[:3, :3] = _right_angled(source.affine[:3, :3]) * new
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in source.shape], indexing="ij")).reshape(3, -1).T
    in_target = Grid((1, 1, 1), affine).index(source.world(corners))
    if source.is_sheared:
        affine[:3, 3] += affine[:3, :3] @ in_target.min(axis=0)
    i, j, k = (int(size) for size in np.rint(np.ptp(in_target, axis=0) + 1))
    return _not_too_large(source, Grid((i, j, k), affine))


def _not_too_large(source: Grid, target: Grid) -> Grid:
    """Return a grid to resample to, unless it is too large.

    Raises:
        InputError: It has more than 2^31 voxels.
    """
    i, j, k = target.shape
    if i * j * k > MAX_VOXELS:
        raise InputError(
            f"spacing {_rounded(source.spacing_mm)} mm",
            expected=f"at most {MAX_VOXELS} voxels at the network's spacing of {_rounded(target.spacing_mm)} mm",
            found=f"{i} x {j} x {k}",
            remedy="check the unit of the voxel size; millimetres are meant",
        )
    return target


def grid_of(x: MetaTensor) -> Grid:
    """Return the grid of a (C, i, j, k) `MetaTensor`."""
    i, j, k = x.shape[1:]
    return Grid((i, j, k), np.asarray(x.affine, dtype=np.float64))


def _right_angled(axes: Affine) -> Affine:
    """Return unit axes at right angles: the first kept, the others turned least (Gram-Schmidt)."""
    rotation, triangle = np.linalg.qr(axes)
    return np.asarray(rotation * np.sign(np.diag(triangle)))


def _rounded(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def placed(x: Tensor, grid: Grid) -> MetaTensor:
    """Return channels (C, i, j, k) that know where their grid lies."""
    return MetaTensor(x, affine=torch.from_numpy(grid.affine.copy()))
