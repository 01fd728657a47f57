"""Batches of patches, read ahead in threads while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.data.augment import Augmentation, Draw, augment, draw
from medseg.data.sampler import PatchSampler
from medseg.networks.slices import stack_slices

Batch = tuple[Tensor, Tensor]
_AHEAD = 3


@dataclass(frozen=True)
class PatchLoader:
    """Augmented batches of an endless run of epochs.

    Args:
        sampler: Draws the patches.
        augmentation: Changes them, on the device.
        batch_size: Patches a batch.
        steps_per_epoch: Batches an epoch.
        device: Where the batches are wanted.
        workers: Threads that read ahead. Their number changes no value of any batch.
    """

    sampler: PatchSampler
    augmentation: Augmentation
    batch_size: int
    steps_per_epoch: int
    device: torch.device
    workers: int = 1

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield the batch of each step from `first_step` on, without end.

        Yields:
            Image float32 (B, C, *patch) and class indices int64 (B, *patch). Where the patch is one plane they
            are 2-D, with the neighbouring slices as channels.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: deque[Future[Batch]] = deque()
            try:
                step = first_step
                while True:
                    while len(waiting) < _AHEAD * self.workers:
                        waiting.append(pool.submit(self._read, step + len(waiting)))
                    yield self._finish(waiting.popleft().result(), step)
                    step += 1
            finally:
                for future in waiting:
                    future.cancel()

    def _read(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        image, label = self.sampler.batch(epoch, place * self.batch_size, self.batch_size)
        if self.device.type == "cuda":
            return image.pin_memory(), label.pin_memory()
        return image, label

    def _finish(self, batch: Batch, step: int) -> Batch:
        image, label = (x.to(self.device, non_blocking=True) for x in batch)
        if self.sampler.patch_size[2] == 1:
            image, label = stack_slices(image), label[..., 0]
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.batch_size
        draws = [self._draw(epoch, first + n, label.ndim - 1) for n in range(self.batch_size)]
        return augment(image, label, draws)

    def _draw(self, epoch: int, index: int, spatial_dims: int) -> Draw:
        spacing_mm = self.sampler.case(epoch, index).grid.spacing_mm
        extent_mm = [n * mm for n, mm in zip(self.sampler.patch_size, spacing_mm, strict=True)]
        return draw(self.augmentation, extent_mm[:spatial_dims], (self.sampler.seed, epoch, index))
