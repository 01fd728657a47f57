"""`Ground`: what all candidates of a plan stand on, from the data's measurements; pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from medseg.data.fingerprint import Fingerprint, Triple
from medseg.errors import UsageError
from medseg.plan.compute import Compute
from medseg.plan.fixed import Fixed
from medseg.plan.patch import patch_sizes
from medseg.plan.reason import Reason
from medseg.plan.spacing import coarser_spacing, target_spacing
from medseg.plan.topology import topology

SMALL_COVER = 0.25  # of the median volume: a patch below it does not see enough of it
_DATA_SHARE = 0.05  # of all voxels of the training cases that one step sees at most
_FEWEST_PATCHES = 2
_MOST_PATCHES = 64


@dataclass(frozen=True)
class Ground:
    """What all candidates stand on.

    Attributes:
        dims: 2 or 3.
        spacing: The planned spacing.
        extent_mm: Of the median case, as the network sees it: cropped where the plan crops.
        cases: Number of training cases.
        compute: What may be used.
        fixed: What stays.
    """

    dims: int
    spacing: Reason
    extent_mm: Triple
    cases: int
    compute: Compute
    fixed: Fixed

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """One an axis of the network."""
        return tuple(self.spacing.value)[: self.dims]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the median case at the planned spacing."""
        i, j, k = (
            max(1, round(extent / mm)) for extent, mm in zip(self.extent_mm, self.spacing.value, strict=True)
        )
        return i, j, k

    @property
    def whole(self) -> str:
        """What a patch is a part of, for people."""
        return "slice" if self.dims == 2 else "volume"

    @property
    def together(self) -> int:
        """Patches a step come in multiples of it: as many parts in every process."""
        return self.compute.processes * (self.fixed.accumulate or 1)

    def cover(self, patch: Sequence[int]) -> float:
        """Return the share of the median volume, or slice, that a patch covers, at most 1."""
        inside = [min(p, n) / n for p, n in zip(patch, self.shape, strict=False)]
        return math.prod(inside)

    def patches(self) -> Iterator[tuple[int, ...]]:
        """Yield the sizes of patches, the largest first; only one where it is fixed.

        Raises:
            UsageError: None can be halved as often as the network's fixed number of stages asks for.
        """
        own, most = self.fixed.patch_size, self.compute.most_voxels(self.dims)
        sizes = [own] if own else patch_sizes(self.shape[: self.dims], self.spacing_mm, most)
        stages = {size: len(topology(size, self.spacing_mm).kernels) for size in sizes}
        wanted = 0 if self.fixed.has_strides else self.fixed.depth or 0
        deepest = max(stages, key=lambda size: stages[size])
        if stages[deepest] < wanted:
            raise _too_deep(wanted, deepest, stages[deepest])
        yield from (size for size, depth in stages.items() if depth >= wanted)

    def batches(self, patch: Sequence[int]) -> list[int]:
        """Return the numbers of patches a step to try, the smallest last; only one where it is fixed."""
        if self.fixed.batch_size is not None:
            return [self.fixed.batch_size]
        voxels, limit = math.prod(patch), self.compute.voxels_a_step
        if limit is None:
            limit = int(_DATA_SHARE * self.cases * math.prod(self.shape))
        else:
            limit *= self.compute.processes
        most = min(_MOST_PATCHES, max(_FEWEST_PATCHES, round(limit / voxels)))
        sizes = {max(_FEWEST_PATCHES, math.floor(most * 0.8**n)) for n in range(20)}
        return sorted({max(1, size // self.together) * self.together for size in sizes}, reverse=True)


def ground(fingerprint: Fingerprint, compute: Compute, fixed: Fixed, *, cropped: bool = False) -> Ground:
    """Return what the candidates of a data set stand on.

    Args:
        fingerprint: Of the training cases.
        compute: What may be used.
        fixed: What stays.
        cropped: The network sees images that are cropped to what is not zero.

    Raises:
        UsageError: A 3-D network is asked for on single slices, the slices are not axial, the patch that is set has
            another number of axes than --dims, or the batch cannot be dealt to the processes.
    """
    check_dims(fixed)
    seen = fingerprint.along(fixed.axes)
    dims = _dims(seen, fixed)
    spacing = _along(fixed.axes, target_spacing(fingerprint))
    if fixed.spacing_mm is not None:
        spacing = Reason(spacing.what, fixed.spacing_mm, "set in the configuration")
    extent = seen.median_cropped_extent_mm if cropped else seen.median_extent_mm
    place = Ground(dims, spacing, extent, fingerprint.cases, compute, fixed)
    if compute.processes > 1 and fixed.batch_size is not None and fixed.batch_size % place.together:
        raise UsageError(
            "training.batch_size",
            expected=f"a multiple of {place.together}: {compute.processes} processes, training.accumulate parts",
            found=str(fixed.batch_size),
            remedy="correct it, leave it out, or start another number of processes",
        )
    return place


def _along(axes: Sequence[int], spacing: Reason) -> Reason:
    return replace(spacing, value=tuple(spacing.value[axis] for axis in axes))


def lowered(place: Ground, patch: Sequence[int]) -> Ground:
    """Return the ground of a cascade's first stage: coarser, until a patch covers a quarter of the median volume.

    Args:
        place: At the full resolution.
        patch: The best one there.
    """
    if place.fixed.spacing_mm is not None:
        return place
    full, dims = tuple(place.spacing.value), place.dims
    low = coarser_spacing(full[:dims], place.extent_mm[:dims], math.prod(patch), SMALL_COVER)
    value = (*(round(mm, 4) for mm in low), *full[dims:])
    already = "already " if value == full else ""
    why = f"a patch {already}covers a quarter of the median {place.whole}"
    return replace(place, spacing=Reason(place.spacing.what, value, why))


def check_dims(fixed: Fixed) -> None:
    """Refuse --dims that the patch contradicts.

    Raises:
        UsageError: The patch that is set has another number of axes.
    """
    if fixed.dims and fixed.patch_size and len(fixed.patch_size) != fixed.dims:
        raise UsageError(
            "--dims",
            expected=f"{len(fixed.patch_size)}, the number of sizes of {fixed.patch_from}",
            found=str(fixed.dims),
            remedy=f"leave it out, or change {fixed.patch_from}",
        )


def _dims(fingerprint: Fingerprint, fixed: Fixed) -> int:
    asked = len(fixed.patch_size) if fixed.patch_size else fixed.dims
    thin = [axis for axis, size in enumerate(fingerprint.median_shape) if size == 1]
    if not thin:
        return asked or 3
    if thin != [2]:
        names = ", ".join("RAS"[axis] for axis in thin)
        raise UsageError(
            "the training cases",
            expected="volumes, or single slices along S",
            found=f"images that are one voxel thick along {names}",
            remedy="store them so that rows and columns run along R and A",
        )
    if asked == 3:
        patch = fixed.patch_size
        raise UsageError(
            fixed.patch_from if patch else "--dims",
            expected=f"{'two sizes' if patch else '2'}: the training cases are single slices",
            found=str(list(patch) if patch else 3),
            remedy="leave it out",
        )
    return 2


def _too_deep(wanted: int, patch: Sequence[int], most: int) -> UsageError:
    return UsageError(
        "network.channels",
        expected=f"at most {most} stages, as often as a patch of {list(patch)} can be halved",
        found=f"{wanted} stages",
        remedy="leave stages out, set network.strides, or set a larger training.patch_size",
    )
