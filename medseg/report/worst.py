"""Pictures of the cases that went worst: the slices through the largest error, prediction against reference."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from medseg.data.manifest import Case, Dataset
from medseg.errors import InputError
from medseg.labels import LabelMap, LabelSet
from medseg.nifti import read_nifti
from medseg.report.overlay import overlay_figure
from medseg.volume import Volume, require_same_grid

_MARGIN_MM = 20.0
_DPI = 110
_SAME_DEPTH = 1e-5

Index = tuple[int, int, int]


def error_picture(case: Case, prediction: Path, dataset: Dataset, labels: LabelSet) -> bytes:
    """Draw the prediction as areas and the reference as lines, on slices through the largest error.

    The picture is cut to what is labelled and 20 mm around it. The first image that the case has is shown.

    Args:
        case: A labelled case of the data set.
        prediction: Label map on the case's grid.
        dataset: Says the modality, and the value of voxels that nobody judged.
        labels: What the values mean.

    Returns:
        A PNG file.

    Raises:
        InputError: A file cannot be read, or they do not share a grid.
    """
    number, path = next((n, path) for n, path in enumerate(case.images) if path is not None)
    image = replace(read_nifti(path), modality=dataset.channels[number].modality.value)
    predicted, reference = read_nifti(prediction), read_nifti(_label_of(case))
    for volume, where in ((predicted, "prediction"), (reference, "reference")):
        require_same_grid(image.grid, volume.grid, owner="the image", where=where)
    wrong = predicted.array != reference.array
    ignored = getattr(dataset, "ignore_value", None)
    if ignored is not None:
        wrong &= reference.array != ignored
    box = _box(image, (predicted.array != 0) | (reference.array != 0))
    centre = largest_error(wrong[box], image.spacing_mm)
    figure = overlay_figure(
        _cut(image, box),
        LabelMap(_cut(predicted, box), labels),
        LabelMap(_cut(reference, box), labels),
        centre=centre,
        outlined=True,
    )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def largest_error(wrong: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> Index | None:
    """Return the voxel (i, j, k) that lies deepest in an error, or None where nothing is wrong.

    It is the voxel furthest from any right one, or the most central of several: a blob that is missing counts more
    than a border that is a little off, however long. Beyond the image nothing is right or wrong.

    Args:
        wrong: Where prediction and reference differ.
        spacing_mm: Along (i, j, k).
    """
    if not wrong.any():
        return None
    depth = edt.edt(np.asfortranarray(wrong), anisotropy=spacing_mm)
    deepest = np.argwhere(depth >= depth.max() * (1 - _SAME_DEPTH))
    off = np.linalg.norm((deepest - deepest.mean(axis=0)) * spacing_mm, axis=1)
    i, j, k = deepest[np.argmin(off)]
    return int(i), int(j), int(k)


def _label_of(case: Case) -> Path:
    if case.label is None:
        raise InputError(case.id, expected="a reference", found="none", remedy="add it to the manifest")
    return case.label


def _box(image: Volume, labelled: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Return the box around the labelled voxels with its margin; all of the image where there are none."""
    spans = []
    for axis, (size, spacing) in enumerate(zip(image.grid.shape, image.spacing_mm, strict=True)):
        held = np.flatnonzero(labelled.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(_MARGIN_MM / spacing))
        first, last = (held[0], held[-1]) if held.size else (0, size - 1)
        spans.append(slice(max(0, int(first) - margin), min(size, int(last) + 1 + margin)))
    i, j, k = spans
    return i, j, k


def _cut(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """Return the part of a volume, where it lies in the patient."""
    corner: NDArray[Any] = np.array([span.start for span in box])
    affine = volume.affine.copy()
    affine[:3, 3] = volume.grid.world(corner)
    return replace(volume, array=volume.array[box], affine=affine)
