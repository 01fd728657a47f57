"""Batches of patches, read ahead in threads while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from medseg.data.augment import Augmentation, Draw, augment, draw
from medseg.data.coarse import with_masks
from medseg.data.flags import with_flags
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
        workers: Threads that read ahead; with 0 the caller reads. Their number changes no value of any batch.
        share: Which patches of each batch are wanted, where several processes share it; all of them if None.
        channel_flags: Whether flags of the channels that are there are appended; see `medseg.data.channels`.
        coarse_labels: Labels of the first stage of a cascade, whose masks are appended; see `medseg.data.coarse`.
    """

    sampler: PatchSampler
    augmentation: Augmentation
    batch_size: int
    steps_per_epoch: int
    device: torch.device
    workers: int = 1
    share: range | None = None
    channel_flags: bool = False
    coarse_labels: tuple[int, ...] = ()

    @property
    def _wanted(self) -> range:
        return range(self.batch_size) if self.share is None else self.share

    def batches(self, first_step: int) -> Generator[Batch]:
        """Yield the batch of each step from `first_step` on, without end.

        Yields:
            Image float32 (B, C, *patch) and class indices int64 (B, *patch). Where the patch is one plane they
            are 2-D, with the neighbouring slices as channels; flags make the channels twice as many, and masks of
            the labels of a first stage come last.
        """
        if not self.workers:
            yield from (self._finish(self._read(step), step) for step in count(first_step))
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
        image, label = self.sampler.batch(epoch, place * self.batch_size, self.batch_size, self._wanted)
        if self.device.type == "cuda":
            return image.pin_memory(), label.pin_memory()
        return image, label

    def _finish(self, batch: Batch, step: int) -> Batch:
        image, label = (x.to(self.device, non_blocking=True) for x in batch)
        channels = image.shape[1] - bool(self.coarse_labels)
        image = with_masks(image, self.coarse_labels)
        if self.sampler.patch_size[2] == 1:
            image, label = stack_slices(image), label[..., 0]
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.batch_size
        draws = [self._draw(epoch, first + n, (channels, *label.shape[1:])) for n in self._wanted]
        masks = len(self.coarse_labels) * (image.shape[1] // (channels + len(self.coarse_labels)))
        image, label = augment(image, label, draws, masks=masks)
        if self.channel_flags:
            present = [self.sampler.present(epoch, first + n) for n in self._wanted]
            own = image.shape[1] - masks
            flagged = with_flags(image[:, :own], torch.tensor(present, device=image.device))
            image = torch.cat((flagged, image[:, own:]), dim=1)
        return image, label

    def _draw(self, epoch: int, index: int, shape: tuple[int, ...]) -> Draw:
        spacing_mm = self.sampler.case(epoch, index).grid.spacing_mm[: len(shape) - 1]
        return draw(self.augmentation, shape, spacing_mm, (self.sampler.seed, epoch, index))
