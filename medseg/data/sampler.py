"""Training patches: which case, which place. The same (seed, epoch, index) gives the same patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.channels import drop_channels
from medseg.data.store import StoredCase

Corner = tuple[int, int, int]

_PLACE, _CASES, _CHANNELS = 0, 2, 3  # one stream of random numbers for each kind of draw; augmentation has 1


def foreground_patches(batch_size: int, share: float) -> int:
    """Return how many patches of a batch of several are centred on a label: the share, but at least one of any."""
    return max(1 if share else 0, round(batch_size * share))


@dataclass(frozen=True)
class PatchSampler:
    """Draws patches from stored cases.

    Args:
        cases: At least one.
        patch_size: (i, j, k) voxels; k is 1 for a 2-D network.
        foreground_share: Share of each batch that is centred on a voxel of a random class of its case: the last
            ones, as in nnU-Net, and at least one unless it is 0. Where a batch is one patch it is the probability.
        seed: Of all draws.
        slices: Neighbouring slices that are read for each one of the patch; odd.
        channel_dropout: Probability of each channel of a case to be withheld; one is always left.
    """

    cases: Sequence[StoredCase]
    patch_size: Corner
    foreground_share: float
    seed: int
    slices: int = 1
    channel_dropout: float = 0.0

    def sample(self, epoch: int, index: int, batch_size: int = 1) -> tuple[Tensor, Tensor]:
        """Draw one patch.

        Args:
            epoch: Counted from 0.
            index: Of the patch within the epoch; a batch begins at every multiple of its size.
            batch_size: Patches a batch, in all processes together.

        Returns:
            Image float32 (C, i, j, k + slices - 1) and class indices int64 (i, j, k).
        """
        case = self.case(epoch, index)
        rng = np.random.default_rng([self.seed, epoch, index, _PLACE])
        centred = self._is_centred(index, batch_size, rng)
        (i, j, k), (rows, columns, planes) = self._corner(case, rng, centred), self.patch_size
        beyond = self.slices // 2
        image, label = case.patch((i, j, k - beyond), (rows, columns, planes + 2 * beyond))
        return image, label[..., beyond : beyond + planes]

    def case(self, epoch: int, index: int) -> StoredCase:
        """Return the case of a patch; every case comes once, in random order, before one comes again."""
        turn, place = divmod(index, len(self.cases))
        order = np.random.default_rng([self.seed, epoch, turn, _CASES]).permutation(len(self.cases))
        case: StoredCase = self.cases[order[place]]
        return case

    def present(self, epoch: int, index: int) -> tuple[bool, ...]:
        """Return which channels the network is given of a patch: those of the case but for the dropped ones."""
        case = self.case(epoch, index)
        if not self.channel_dropout:
            return case.present
        rng = np.random.default_rng([self.seed, epoch, index, _CHANNELS])
        return drop_channels(case.present, self.channel_dropout, rng)

    def batch(self, epoch: int, first: int, size: int, share: range | None = None) -> tuple[Tensor, Tensor]:
        """Draw the patches of a batch.

        Args:
            epoch: Counted from 0.
            first: Index of its first patch, a multiple of its size.
            size: Patches a batch, in all processes together.
            share: Which of them are wanted; all if None.

        Returns:
            Images (B, C, i, j, k + slices - 1) and class indices (B, i, j, k).
        """
        wanted = range(size) if share is None else share
        images, labels = zip(*(self.sample(epoch, first + n, size) for n in wanted), strict=True)
        return torch.stack(images), torch.stack(labels)

    def _is_centred(self, index: int, batch_size: int, rng: np.random.Generator) -> bool:
        """Whether a patch is one of those of its batch that are centred on a labelled voxel."""
        if batch_size == 1:
            return bool(rng.random() < self.foreground_share)
        return index % batch_size >= batch_size - foreground_patches(batch_size, self.foreground_share)

    def _corner(self, case: StoredCase, rng: np.random.Generator, centred: bool) -> Corner:
        free = [n - p for n, p in zip(case.shape, self.patch_size, strict=True)]
        voxels = self._centres(case, rng, centred)
        if len(voxels):
            centre = voxels[rng.integers(len(voxels))]
            wanted = [int(c) - p // 2 for c, p in zip(centre, self.patch_size, strict=True)]
        else:
            wanted = [int(rng.integers(0, max(f, 0) + 1)) for f in free]
        # a patch larger than the case is centred on it
        i, j, k = (f // 2 if f < 0 else min(max(w, 0), f) for w, f in zip(wanted, free, strict=True))
        return i, j, k

    def _centres(self, case: StoredCase, rng: np.random.Generator, centred: bool) -> NDArray[np.int64]:
        """Return the voxels (n, 3) of which one becomes the centre; none where any place will do."""
        if centred and case.classes.size:
            return case.voxels_of(int(rng.choice(case.classes)))
        if case.has_ignored:  # a patch of voxels that nobody judged would teach nothing
            return case.voxels_of(0)  # none where nobody judged any
        return np.empty((0, 3), np.int64)
