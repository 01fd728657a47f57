"""Which patches and batches a plan can have, from the data's measurements; pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.data.fingerprint import Fingerprint, Triple
from medseg.errors import UsageError
from medseg.plan.compute import Compute
from medseg.plan.patch import patch_sizes
from medseg.plan.reason import Reason
from medseg.plan.spacing import coarser_spacing, target_spacing

Resolution = Literal["full", "low"]

SMALL_COVER = 0.25  # of the median volume: a patch below it does not see enough of it
_DATA_SHARE = 0.05  # of all voxels of the training cases that one step sees at most
_FEWEST_PATCHES = 2
_MOST_PATCHES = 64


@dataclass(frozen=True)
class Fixed:
    """What the configuration says already, and stays.

    Attributes:
        dims: 2 or 3; by the data where None.
        patch_size: One size an axis.
        batch_size: Patches a step.
        spacing_mm: Along R, A, S, where all of it is said.
        resolution: ``low`` plans the first stage of a cascade.
        optimizer: Its name.
    """

    dims: int | None = None
    patch_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    spacing_mm: Triple | None = None
    resolution: Resolution = "full"
    optimizer: str = "adamw"


@dataclass(frozen=True)
class Candidate:
    """One possible size of a training step.

    Attributes:
        patch_size: One size an axis.
        batch_size: Patches a step.
        parts: That the batch goes through the network in, one after the other.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    parts: int = 1


@dataclass(frozen=True)
class Ground:
    """What all candidates stand on.

    Attributes:
        dims: 2 or 3.
        spacing: The planned spacing.
        shape: Of the median case at that spacing.
        cases: Number of training cases.
        compute: What may be used.
        fixed: What stays.
    """

    dims: int
    spacing: Reason
    shape: tuple[int, int, int]
    cases: int
    compute: Compute
    fixed: Fixed

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """One an axis of the network."""
        return tuple(self.spacing.value)[: self.dims]

    def cover(self, patch: Sequence[int]) -> float:
        """Return the share of the median volume that a patch covers, at most 1."""
        inside = [min(p, n) / n for p, n in zip(patch, self.shape, strict=False)]
        return math.prod(inside)

    def patches(self) -> Iterator[tuple[int, ...]]:
        """Yield the sizes of patches, the largest first; only one where it is fixed."""
        if self.fixed.patch_size is not None:
            yield self.fixed.patch_size
        else:
            most = self.compute.most_voxels(self.dims)
            yield from patch_sizes(self.shape[: self.dims], self.spacing_mm, most)

    def batches(self, patch: Sequence[int]) -> list[int]:
        """Return the numbers of patches a step to try, the smallest last; only one where it is fixed."""
        if self.fixed.batch_size is not None:
            return [self.fixed.batch_size]
        voxels, limit = math.prod(patch), self.compute.voxels_a_step
        if limit is None:
            limit = int(_DATA_SHARE * self.cases * math.prod(self.shape))
        most = min(_MOST_PATCHES, max(_FEWEST_PATCHES, round(limit / voxels)))
        sizes = {max(_FEWEST_PATCHES, math.floor(most * 0.8**n)) for n in range(20)}
        return sorted(sizes, reverse=True)


def ground(fingerprint: Fingerprint, compute: Compute, fixed: Fixed) -> Ground:
    """Return what the candidates of a data set stand on.

    Raises:
        UsageError: A 3-D network is asked for on single slices, or the slices are not axial.
    """
    dims = _dims(fingerprint, fixed)
    spacing = target_spacing(fingerprint)
    if fixed.spacing_mm is not None:
        spacing = Reason(spacing.what, fixed.spacing_mm, "set in the configuration")
    elif fixed.resolution == "low":
        i, j, k = spacing.value
        most = compute.most_voxels(dims)
        low = coarser_spacing((i, j, k), fingerprint.median_extent_mm, most, SMALL_COVER)
        spacing = Reason(spacing.what, tuple(round(mm, 4) for mm in low), "a patch covers a quarter of the volume")
    i, j, k = (
        max(1, round(extent / mm)) for extent, mm in zip(fingerprint.median_extent_mm, spacing.value, strict=True)
    )
    return Ground(dims, spacing, (i, j, k), fingerprint.cases, compute, fixed)


def best_candidate(place: Ground, fits: Callable[[Candidate], bool]) -> Candidate | None:
    """Return the candidate with the largest patch that fits, and then with the most patches a step.

    Where the patch or the number of patches is fixed, the batch is cut into parts before the patch becomes smaller.

    Args:
        place: What they stand on.
        fits: Whether a candidate fits into the memory.

    Returns:
        The candidate, or None where not even the smallest fits.
    """
    for patch in place.patches():
        batches = place.batches(patch)
        smallest = batches[-1]
        if fits(Candidate(patch, smallest)):
            return next(
                c for c in (Candidate(patch, batch) for batch in batches) if c.batch_size == smallest or fits(c)
            )
        if place.fixed.patch_size or place.fixed.batch_size:
            for parts in range(2, smallest + 1):
                if smallest % parts == 0 and fits(Candidate(patch, smallest, parts)):
                    return Candidate(patch, smallest, parts)
    return None


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
        raise UsageError(
            "--dims", expected="2: the training cases are single slices", found="3", remedy="leave it out"
        )
    return 2
