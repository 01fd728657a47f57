"""The voxel spacing that a network works at, from the spacings of the training cases."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.data.fingerprint import Fingerprint, Triple
from medseg.plan.reason import Reason

_COARSE = 3.0  # times the others, in mm and in voxels
_KEY = "preprocessing.spacing_mm"


def target_spacing(fingerprint: Fingerprint) -> Reason:
    """Return the spacing in mm along R, A, S.

    The median of the cases. Where one axis is over three times coarser than the others and has over three times
    fewer voxels, the 10th percentile along it: the thinner slices of other cases are not averaged away. It is never
    finer than the others.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, "image target spacing".
    """
    spacing = fingerprint.median_spacing_mm
    coarse = _coarse_axis(spacing, fingerprint.median_shape)
    if coarse is None:
        return Reason(_KEY, _rounded(spacing), "the median of the training cases")
    others = max(mm for axis, mm in enumerate(spacing) if axis != coarse)
    finer = max(fingerprint.percentile_10_spacing_mm[coarse], others)
    chosen = [finer if axis == coarse else mm for axis, mm in enumerate(spacing)]
    name = "RAS"[coarse]
    return Reason(_KEY, _rounded(chosen), f"the median; along {name}, over 3 times coarser, the 10th percentile")


def coarser_spacing(
    spacing_mm: Sequence[float], extent_mm: Sequence[float], patch_voxels: float, share: float
) -> tuple[float, ...]:
    """Return the spacing of a low-resolution stage: the finest at which a patch covers a share of the volume.

    Axes that are finer than the coarsest are coarsened first, so that the voxels become cubes; then all alike.

    Args:
        spacing_mm: Of the full resolution, one an axis of the network.
        extent_mm: Of the median case, likewise.
        patch_voxels: Of a patch.
        share: Of the volume's voxels that the patch has to have.
    """
    coarse = list(spacing_mm)
    while patch_voxels < share * _voxels(coarse, extent_mm):
        finest = min(coarse)
        coarse = [mm * _STEP if mm <= finest * _STEP else mm for mm in coarse]
    return tuple(coarse)


_STEP = 1.02


def _voxels(spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> float:
    product = 1.0
    for mm, extent in zip(spacing_mm, extent_mm, strict=True):
        product *= max(1.0, extent / mm)
    return product


def _coarse_axis(spacing_mm: Triple, shape: tuple[int, int, int]) -> int | None:
    """Return the axis that is over three times coarser and over three times shorter in voxels than the others."""
    axis = max(range(3), key=lambda n: spacing_mm[n])
    others = [n for n in range(3) if n != axis]
    coarser = spacing_mm[axis] > _COARSE * max(spacing_mm[n] for n in others)
    shorter = _COARSE * shape[axis] < min(shape[n] for n in others)
    return axis if coarser and shorter else None


def _rounded(spacing_mm: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(mm), 4) for mm in spacing_mm)
