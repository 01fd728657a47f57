"""What the training cases are like: spacing, size and foreground intensities, measured on every one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medseg.data.channels import require_every_channel
from medseg.data.label_statistics import LabelStatistics, MeasuredLabel, measure_labels, summarize_labels
from medseg.errors import InputError
from medseg.volume import Volume

MAX_VOXELS_A_CASE = 10_000
Triple = tuple[float, float, float]
_BY_AXIS = (
    "median_spacing_mm",
    "smallest_spacing_mm",
    "largest_spacing_mm",
    "percentile_10_spacing_mm",
    "smallest_extent_mm",
    "largest_extent_mm",
    "median_extent_mm",
    "median_cropped_extent_mm",
    "median_shape",
)
Shape = tuple[int, int, int]


class IntensityStatistics(BaseModel):
    """Statistics of the foreground (labelled) voxels of one channel, pooled over the cases that have some.

    Where none of the cases that have the channel has foreground, they are of all voxels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class Fingerprint(BaseModel):
    """Measurements of a set of cases, axes in RAS order.

    Packages of earlier versions lack the fields with a default; there zeros and empty ones mean "not measured".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cases: int = Field(description="Number of cases measured.")
    median_spacing_mm: Triple
    smallest_spacing_mm: Triple
    largest_spacing_mm: Triple
    smallest_extent_mm: Triple
    largest_extent_mm: Triple
    foreground: tuple[IntensityStatistics, ...] = Field(description="One entry a channel.")
    percentile_10_spacing_mm: Triple = Field(default=(0, 0, 0), description="One case in ten is finer.")
    median_extent_mm: Triple = Field(default=(0, 0, 0), description="Of whole images, before any crop.")
    median_shape: Shape = Field(
        default=(0, 0, 0), description="Voxels at each case's own spacing, cropped to what is not zero."
    )
    median_cropped_extent_mm: Triple = Field(
        default=(0, 0, 0), description="Of images that are cropped to what is not zero."
    )
    kept_by_crop: float = Field(
        default=1.0,
        description="Median share of an image's voxels inside the box of those where a channel is not zero; "
        "1 where nothing would be cropped.",
    )
    label_values: tuple[int, ...] = Field(
        default=(), description="Values above 0 that occur in at least one case, in ascending order."
    )
    labels: dict[str, LabelStatistics] = Field(
        default_factory=dict, description="By name: how large each label is, and in how many cases it occurs."
    )
    modalities: tuple[str, ...] = Field(default=(), description="DICOM modality of each channel.")
    is_stored_order: bool = Field(
        default=False, description="Whether axes are those of the files, whatever way they lie, instead of RAS."
    )

    def renamed(self, names: Mapping[str, str]) -> Fingerprint:
        """Return the same with labels under other names: {name: new name}; others keep theirs."""
        return self.model_copy(
            update={"labels": {names.get(name, name): found for name, found in self.labels.items()}}
        )

    def along(self, axes: Sequence[int]) -> Fingerprint:
        """Return the same with its axes in another order: the present one of each new one."""
        values = {name: getattr(self, name) for name in _BY_AXIS}
        return self.model_copy(update={name: tuple(value[a] for a in axes) for name, value in values.items()})


class CaseMeasurement(BaseModel):
    """What one case contributes: its spacing and size along R, A, S, its labels, a sample of its foreground.

    `shape`, `kept_by_crop` and `label_values` are those of `Fingerprint`, for one case. `labels` has one entry for
    each of `label_values`. `samples` are values of
    the foreground, an array a channel; empty where the channel is missing or the case has no foreground. In the
    latter case, and only then, `everywhere` has values of all voxels.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    spacing_mm: Triple
    extent_mm: Triple
    shape: Shape
    kept_by_crop: float
    label_values: tuple[int, ...]
    labels: tuple[MeasuredLabel, ...]
    samples: tuple[NDArray[np.float32], ...]
    everywhere: tuple[NDArray[np.float32], ...]


def measure_case(
    images: Sequence[Volume | None], label: Volume, seed: int = 0, *, ignore_value: int | None = None
) -> CaseMeasurement:
    """Measure one case.

    Args:
        images: One volume a channel, all on the label's grid; None for one that is missing, which has no sample.
        label: Label values; every non-zero voxel is foreground.
        seed: Of the choice of at most 10,000 voxels.
        ignore_value: Label value of the voxels that nobody judged; they are not foreground.

    Raises:
        InputError: An image is constant, or holds NaN or infinite values.
    """
    given = [image for image in images if image is not None]
    for image in given:
        _check_values(image)
    grid = label.grid
    values = label.array.reshape(-1, order="F")
    foreground = np.flatnonzero(values if ignore_value is None else (values != 0) & (values != ignore_value))
    anywhere = _some(0 if foreground.size else grid.voxel_count, seed)
    foreground = foreground[_some(foreground.size, seed)]
    extent = [size * spacing for size, spacing in zip(grid.shape, grid.spacing_mm, strict=True)]
    box = _nonzero_box(given)
    labels = measure_labels(label, ignore_value)
    right, front, up = in_ras(grid.orientation, box)
    return CaseMeasurement(
        spacing_mm=in_ras(grid.orientation, grid.spacing_mm),
        extent_mm=in_ras(grid.orientation, extent),
        shape=(int(right), int(front), int(up)),
        kept_by_crop=math.prod(box) / grid.voxel_count,
        label_values=tuple(measured.value for measured in labels),
        labels=labels,
        samples=tuple(_sample(image, foreground) for image in images),
        everywhere=tuple(_sample(image, anywhere) for image in images),
    )


def summarize(
    measurements: Sequence[CaseMeasurement],
    *,
    names: Mapping[int, str] | None = None,
    modalities: Sequence[str] = (),
) -> Fingerprint:
    """Pool the measurements of all cases.

    Args:
        measurements: At least one.
        names: {value: name} of the labels to keep statistics of.
        modalities: DICOM modality of each channel, where they are known.

    Raises:
        ManifestError: None of them has one of the channels.
    """
    spacing = np.array([m.spacing_mm for m in measurements])
    extent = np.array([m.extent_mm for m in measurements])
    right, front, up = (round(size) for size in np.median([m.shape for m in measurements], axis=0).tolist())
    require_every_channel([[sample.size > 0 for sample in _seen(m)] for m in measurements])
    return Fingerprint(
        cases=len(measurements),
        median_spacing_mm=_triple(np.median(spacing, axis=0)),
        smallest_spacing_mm=_triple(spacing.min(axis=0)),
        largest_spacing_mm=_triple(spacing.max(axis=0)),
        smallest_extent_mm=_triple(extent.min(axis=0)),
        largest_extent_mm=_triple(extent.max(axis=0)),
        foreground=tuple(_statistics(values) for values in _pooled(measurements)),
        percentile_10_spacing_mm=_triple(np.percentile(spacing, 10, axis=0)),
        median_extent_mm=_triple(np.median(extent, axis=0)),
        median_shape=(right, front, up),
        median_cropped_extent_mm=_triple(np.median(spacing * [m.shape for m in measurements], axis=0)),
        kept_by_crop=float(np.median([m.kept_by_crop for m in measurements])),
        label_values=tuple(sorted({value for m in measurements for value in m.label_values})),
        labels=summarize_labels([m.labels for m in measurements], names or {}),
        modalities=tuple(modalities),
    )


def _seen(measurement: CaseMeasurement) -> tuple[NDArray[np.float32], ...]:
    """Return the values of each channel: those of the foreground, or of all voxels where there is none."""
    pairs = zip(measurement.samples, measurement.everywhere, strict=True)
    return tuple(foreground if foreground.size else anywhere for foreground, anywhere in pairs)


def _pooled(measurements: Sequence[CaseMeasurement]) -> list[NDArray[np.float32]]:
    """Return the foreground of all cases, a channel each; all voxels where no case with the channel has any.

    A case without foreground counts for nothing beside one that has some: its air is not what is looked for.
    """
    foreground = [np.concatenate(values) for values in zip(*(m.samples for m in measurements), strict=True)]
    anywhere = [np.concatenate(values) for values in zip(*(m.everywhere for m in measurements), strict=True)]
    return [one if one.size else other for one, other in zip(foreground, anywhere, strict=True)]


def _some(count: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers below `count`, or a random choice of 10,000 of them."""
    if count <= MAX_VOXELS_A_CASE:
        return np.arange(count)
    return np.random.default_rng(seed).choice(count, MAX_VOXELS_A_CASE, replace=False)


def _sample(image: Volume | None, voxels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the values at flat places of an image; none where it is missing."""
    if image is None:
        return np.empty(0, np.float32)
    return image.array.reshape(-1, order="F")[voxels].astype(np.float32)


def _check_values(image: Volume) -> None:
    low, high = image.array.min(), image.array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            image.source or "image",
            expected="finite values",
            found="NaN or infinite ones",
            remedy="replace them, by the value of air for example",
        )
    if low == high:
        raise InputError(
            image.source or "image",
            expected="an image",
            found=f"the value {low:g} in every voxel",
            remedy="export it again, or leave the case out",
        )


def _nonzero_box(images: Sequence[Volume]) -> tuple[int, int, int]:
    """Return the size of the smallest box around the voxels where any channel is not zero."""
    sizes = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(np.logical_or.reduce([v.array.any(axis=others) for v in images]))
        sizes.append(int(occupied[-1] - occupied[0] + 1))
    i, j, k = sizes
    return i, j, k


def _statistics(values: NDArray[np.float32]) -> IntensityStatistics:
    exact = values.astype(np.float64)
    low, high = np.percentile(exact, (0.5, 99.5))
    return IntensityStatistics(
        mean=float(exact.mean()), std=float(exact.std()), percentile_00_5=float(low), percentile_99_5=float(high)
    )


def in_ras(orientation: str, values: Sequence[float]) -> Triple:
    """Put one value an array axis into the order R, A, S."""
    axes = ["RL", "AP", "SI"]
    by_world = [next(v for code, v in zip(orientation, values, strict=True) if code in pair) for pair in axes]
    return _triple(by_world)


def _triple(values: Sequence[float] | NDArray[np.float64]) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third
