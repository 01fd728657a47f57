"""Whether an image is like those that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medseg.data.fingerprint import Fingerprint, Triple, in_ras
from medseg.findings import Finding, FindingCode
from medseg.labels import LabelMap
from medseg.quality.settings import QualitySettings
from medseg.quality.wording import figure
from medseg.volume import Grid, Volume

_AXES = ("from left to right", "from back to front", "from foot to head")
_STORED_AXES = ("along the first axis", "along the second axis", "along the third axis")
_WITH_UNIT = {"CT"}  # modalities whose values mean the same on every scanner
_ANY_MODALITY = "OT"

Images = Sequence[Volume | None]


def envelope_findings(
    labels: LabelMap,
    images: Images,
    envelope: Fingerprint,
    names: Sequence[str],
    settings: QualitySettings,
) -> Iterator[Finding]:
    """Yield a finding for each property of the images that lies outside of training's.

    Args:
        labels: The mask.
        images: One a channel, on the mask's grid; None for one that is missing.
        envelope: What the training images were like.
        names: Of the labels that the model drew.
        settings: The tolerances.
    """
    messages = (
        *_modality(images, envelope),
        *_spacing(labels.grid, envelope, settings.spacing_tolerance),
        *_extent(labels.grid, envelope, settings.extent_tolerance),
        *_intensities(labels, images, envelope, (names, settings.intensity_tolerance)),
    )
    for message in messages:
        yield Finding(FindingCode.OUTSIDE_ENVELOPE, message)


def unknown_of(images: Images, envelope: Fingerprint) -> Iterator[str]:
    """Yield what an envelope or the images do not tell, such as ``field of view``.

    Args:
        images: One a channel.
        envelope: What the training images were like.
    """
    modalities = _modalities(images, envelope)
    if any(image and None in pair for image, pair in zip(images, modalities, strict=True)):
        yield "modality"
    if not any(envelope.largest_spacing_mm):
        yield "spacing"
    if not _knows_extent(envelope):
        yield "field of view"
    if not any(_has_unit(image, pair) for image, pair in zip(images, modalities, strict=True)):
        yield "intensities"


def _modality(images: Images, envelope: Fingerprint) -> Iterator[str]:
    for number, (expected, found) in enumerate(_modalities(images, envelope)):
        if expected and found and found not in (expected, _ANY_MODALITY) and expected != _ANY_MODALITY:
            yield f"channel {number} is a {found} image; in training {expected}"


def _spacing(grid: Grid, envelope: Fingerprint, tolerance: float) -> Iterator[str]:
    yield from _outside(
        "voxels measure",
        (grid, grid.spacing_mm),
        (envelope, envelope.smallest_spacing_mm, envelope.largest_spacing_mm),
        tolerance,
    )


def _extent(grid: Grid, envelope: Fingerprint, tolerance: float) -> Iterator[str]:
    if _knows_extent(envelope):
        extent = [size * spacing for size, spacing in zip(grid.shape, grid.spacing_mm, strict=True)]
        bounds = (envelope, envelope.smallest_extent_mm, envelope.largest_extent_mm)
        yield from _outside("the field of view measures", (grid, extent), bounds, tolerance)


def _outside(
    what: str,
    found: tuple[Grid, Sequence[float]],
    known: tuple[Fingerprint, Triple, Triple],
    tolerance: float,
) -> Iterator[str]:
    grid, values = found
    envelope, least, most = known
    ordered = values if envelope.is_stored_order else in_ras(grid.orientation, values)
    axes = _STORED_AXES if envelope.is_stored_order else _AXES
    for axis, value, low, high in zip(axes, ordered, least, most, strict=True):
        if high > 0 and not low / (1 + tolerance) <= value <= high * (1 + tolerance):
            yield f"{what} {figure(value)} mm {axis}; in training {figure(low)} to {figure(high)} mm"


def _intensities(
    labels: LabelMap, images: Images, envelope: Fingerprint, how: tuple[Sequence[str], float]
) -> Iterator[str]:
    names, tolerance = how
    values = [label.index for label in labels.labels if label.name in names]
    modalities = _modalities(images, envelope)
    for number, (image, known) in enumerate(zip(images, envelope.foreground, strict=False)):
        if image is None or not _has_unit(image, modalities[number]):
            continue
        mean = _mean(labels, image, values)
        if mean is None:
            continue
        far = abs(mean - known.mean) > tolerance * known.std
        if far or not known.percentile_00_5 <= mean <= known.percentile_99_5:
            yield (
                f"channel {number} has a mean of {mean:.0f} where labels were drawn; "
                f"in training {known.mean:.0f} with a standard deviation of {known.std:.0f}"
            )


def _mean(labels: LabelMap, image: Volume, values: Sequence[int]) -> float | None:
    """Return the mean of an image over some labels, plane by plane; None where there are no voxels of them."""
    total, count = 0.0, 0
    for k in range(image.array.shape[2]):
        inside = np.isin(labels.array[:, :, k], values)
        count += int(np.count_nonzero(inside))
        total += float(image.array[:, :, k][inside].sum(dtype=np.float64))
    return total / count if count else None


def _modalities(images: Images, envelope: Fingerprint) -> list[tuple[str | None, str | None]]:
    """Return what each channel should be, and what it is; None where nobody says."""
    expected = envelope.modalities if len(envelope.modalities) == len(images) else (None,) * len(images)
    return [(name, image.modality if image else None) for name, image in zip(expected, images, strict=True)]


def _has_unit(image: Volume | None, modality: tuple[str | None, str | None]) -> bool:
    return image is not None and (modality[0] or modality[1]) in _WITH_UNIT


def _knows_extent(envelope: Fingerprint) -> bool:
    """Whether whole images were measured: nnU-Net measures them after a crop."""
    return any(envelope.median_extent_mm)
