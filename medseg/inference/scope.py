"""What of an image is segmented, and in how much memory: region of interest, air left out, a limit in bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import UsageError
from medseg.findings import Finding, FindingCode
from medseg.inference.preflight import Preflight
from medseg.inference.tiles import Advance
from medseg.labels import LabelMap, LabelSet
from medseg.volume import Grid, Volume

Box = tuple[slice, slice, slice]
Findings = tuple[Finding, ...]

AIR_BELOW_HU = -500.0
MARGIN_MM = 20.0
_CT = "CT"
_OF_A_RUN = (FindingCode.SMALLER_TILES, FindingCode.NO_REGION)


class Coarse(Protocol):
    """A model that finds where to look."""

    def segment(self, image: Sequence[Volume | None], advance: Advance | None = None) -> LabelMap:
        """Return a label map on the image's own grid."""

    def preflight(self, native: Grid, image_bytes: int = 4) -> Preflight:
        """Return what that takes."""


@dataclass(frozen=True)
class RegionOfInterest:
    """The box around what a coarse model finds.

    Args:
        model: Sees the same images as the model whose region it finds.
        values: Label values that count; all but background where there are none.
        margin_mm: On every side.
    """

    model: Coarse
    values: tuple[int, ...] = ()
    margin_mm: float = MARGIN_MM

    def box(self, images: Sequence[Volume | None], advance: Advance | None = None) -> tuple[Box | None, Findings]:
        """Return where to segment, in voxels of the images' own grid, and what is to be said of that.

        Returns:
            The box, None where nothing is found; how the coarse model ran, where a user must know of it.
        """
        found = self.model.segment(images, advance)
        findings = told_by("the coarse model", found)
        box = self._around(found)
        return box, findings if box else (*findings, _nothing_found())

    def _around(self, found: LabelMap) -> Box | None:
        wanted = np.isin(found.array, self.values) if self.values else found.array != 0
        box = []
        for axis, (size, step_mm) in enumerate(zip(wanted.shape, found.grid.spacing_mm, strict=True)):
            there = np.flatnonzero(wanted.any(axis=tuple({0, 1, 2} - {axis})))
            if not len(there):
                return None
            margin = math.ceil(self.margin_mm / step_mm)
            box.append(slice(max(int(there[0]) - margin, 0), min(int(there[-1]) + 1 + margin, size)))
        return box[0], box[1], box[2]


@dataclass(frozen=True)
class Scope:
    """What of an image a model segments, and in how much memory.

    Attributes:
        roi: Where it is sought; everywhere if None.
        skip_air: Whether tiles that hold nothing but air are background without a look; of CT only.
        memory_bytes: That a study may take on the device beside the process and the model; what there is if None.
    """

    roi: RegionOfInterest | None = None
    skip_air: bool = False
    memory_bytes: int | None = None


def values_of(names: Sequence[str], labels: LabelSet) -> tuple[int, ...]:
    """Return the label values of names.

    Raises:
        UsageError: There is no such label.
    """
    known = {label.name: label.index for label in labels}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            "--roi-labels", expected=", ".join(known), found=unknown[0], remedy="name labels of the coarse model"
        )
    return tuple(known[name] for name in names)


def told_by(model: str, found: LabelMap) -> Findings:
    """Return what a label map of a model that runs before another says of how that model ran.

    What was odd about the image is not among it: the image itself says so.

    Args:
        model: What it is to the other one, such as ``the first stage``.
        found: Its label map.
    """
    told = (finding for finding in found.volume.findings if finding.code in _OF_A_RUN)
    return tuple(replace(finding, message=f"{model}: {finding.message}") for finding in told)


def _nothing_found() -> Finding:
    return Finding(FindingCode.NO_REGION, "the coarse model found nothing: the whole image was segmented")


def cropped(volume: Volume, box: Box) -> Volume:
    """Return the part of a volume in a box, at the same place of the patient; its array is a view."""
    affine = volume.affine.copy()
    affine[:3, 3] = volume.grid.world(np.array([side.start for side in box]))
    return Volume(volume.array[box], affine, volume.modality, volume.source, volume.findings)


def pasted(labels: NDArray[Any], box: Box, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return labels of a box within background of a shape, i fastest in memory."""
    if labels.shape == shape:
        return labels
    whole = np.zeros(shape, dtype=labels.dtype, order="F")
    whole[box] = labels
    return whole


def body_volume(images: Sequence[Volume | None], modalities: Sequence[str]) -> Volume | None:
    """Return which voxels of a CT are not air: 1 from -500 HU on; None where the case has no CT."""
    for volume, modality in zip(images, modalities, strict=True):
        if volume is not None and modality == _CT:
            return Volume((volume.array >= AIR_BELOW_HU).view(np.uint8), volume.affine)
    return None


def require_ct(modalities: Sequence[str]) -> None:
    """Refuse to skip the air of images that do not show it.

    Raises:
        UsageError: None of the modalities is CT.
    """
    if _CT not in modalities:
        raise UsageError(
            "--skip-air",
            expected="a model of CT, in which air has a value of its own",
            found=", ".join(modalities),
            remedy="leave it out",
        )


def filled_body(mask: Tensor) -> Tensor:
    """Return the voxels that tiles are predicted for: the body, the air in it, and one voxel around.

    Air lies in the body where there is body on both sides along an axis: lungs, bowel, airways. One voxel around
    makes all voxels that are interpolated from a voxel of the body be interpolated from predicted ones.

    Args:
        mask: (i, j, k), not 0 in the body.

    Returns:
        bool (i, j, k).
    """
    body = mask.cpu().numpy() != 0
    inside = body.copy()
    for axis in range(3):
        backward = np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
        inside |= np.logical_or.accumulate(body, axis=axis) & backward
    for axis in range(3):
        inside = _widened(inside, axis)
    return torch.from_numpy(inside)


def _widened(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Return a mask with one voxel more on both sides along an axis."""
    wide = mask.copy()
    into, of = np.moveaxis(wide, axis, 0), np.moveaxis(mask, axis, 0)
    into[1:] |= of[:-1]
    into[:-1] |= of[1:]
    return wide
