"""What the training cases are like: spacing, size and foreground intensities, measured on every one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medseg.volume import Volume

MAX_VOXELS_A_CASE = 10_000
Triple = tuple[float, float, float]


class IntensityStatistics(BaseModel):
    """Statistics of the foreground (labelled) voxels of one channel, pooled over cases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class Fingerprint(BaseModel):
    """Measurements of a set of cases, axes in RAS order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cases: int = Field(description="Number of cases measured.")
    median_spacing_mm: Triple
    smallest_spacing_mm: Triple
    largest_spacing_mm: Triple
    smallest_extent_mm: Triple
    largest_extent_mm: Triple
    foreground: tuple[IntensityStatistics, ...] = Field(description="One entry a channel.")


class CaseMeasurement(BaseModel):
    """What one case contributes: its spacing and size along R, A, S and a sample of its foreground."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    spacing_mm: Triple
    extent_mm: Triple
    samples: tuple[NDArray[np.float32], ...]


def measure_case(images: Sequence[Volume], label: Volume, seed: int = 0) -> CaseMeasurement:
    """Measure one case.

    Args:
        images: One volume a channel, all on the label's grid.
        label: Label values; every non-zero voxel is foreground. Without any, all voxels are taken.
        seed: Of the choice of at most 10,000 foreground voxels.
    """
    grid = label.grid
    foreground = np.flatnonzero(label.array.reshape(-1, order="F"))
    if foreground.size == 0:
        foreground = np.arange(grid.voxel_count)
    if foreground.size > MAX_VOXELS_A_CASE:
        foreground = np.random.default_rng(seed).choice(foreground, MAX_VOXELS_A_CASE, replace=False)
    extent = [size * spacing for size, spacing in zip(grid.shape, grid.spacing_mm, strict=True)]
    return CaseMeasurement(
        spacing_mm=_in_ras(grid.orientation, grid.spacing_mm),
        extent_mm=_in_ras(grid.orientation, extent),
        samples=tuple(v.array.reshape(-1, order="F")[foreground].astype(np.float32) for v in images),
    )


def summarize(measurements: Sequence[CaseMeasurement]) -> Fingerprint:
    """Pool the measurements of all cases.

    Args:
        measurements: At least one.
    """
    spacing = np.array([m.spacing_mm for m in measurements])
    extent = np.array([m.extent_mm for m in measurements])
    channels = zip(*(m.samples for m in measurements), strict=True)
    return Fingerprint(
        cases=len(measurements),
        median_spacing_mm=_triple(np.median(spacing, axis=0)),
        smallest_spacing_mm=_triple(spacing.min(axis=0)),
        largest_spacing_mm=_triple(spacing.max(axis=0)),
        smallest_extent_mm=_triple(extent.min(axis=0)),
        largest_extent_mm=_triple(extent.max(axis=0)),
        foreground=tuple(_statistics(np.concatenate(samples)) for samples in channels),
    )


def _statistics(values: NDArray[np.float32]) -> IntensityStatistics:
    exact = values.astype(np.float64)
    low, high = np.percentile(exact, (0.5, 99.5))
    return IntensityStatistics(
        mean=float(exact.mean()), std=float(exact.std()), percentile_00_5=float(low), percentile_99_5=float(high)
    )


def _in_ras(orientation: str, values: Sequence[float]) -> Triple:
    """Put one value an array axis into the order R, A, S."""
    axes = ["RL", "AP", "SI"]
    by_world = [next(v for code, v in zip(orientation, values, strict=True) if code in pair) for pair in axes]
    return _triple(by_world)


def _triple(values: Sequence[float] | NDArray[np.float64]) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third
