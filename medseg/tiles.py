"""Streamed sliding window: an image -> slabs of logits, in memory that is that of one tile's depth.

Tiles go along the last axis. Their weighted logits are summed in a ring that is as deep as a tile; planes that no
later tile touches are finished and handed on at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from medseg.networks.slices import stack_slices

Predictor = Callable[[Tensor], Tensor]
Advance = Callable[[int, int], None]
Shape = tuple[int, int, int]

_GAUSSIAN_SIGMA = 0.125  # of the tile's size, as nnU-Net and MONAI
_SMALLEST_WEIGHT = 1e-3


class SlidingWindow(BaseModel):
    """How a volume is cut into tiles and the tiles' predictions are put together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile_size: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, description="Voxels along each axis of the network; the training patch if unset."
    )
    overlap: float = Field(default=0.5, ge=0, lt=1, description="Share of a tile that the next one covers again.")
    batch_size: int = Field(default=1, ge=1, description="Tiles that go through the network at once.")
    mirror_axes: tuple[int, ...] = Field(
        default=(), description="Axes of test-time mirroring; predictions of all flips are averaged."
    )


@dataclass(frozen=True)
class Slab:
    """Finished planes of logits.

    Attributes:
        start: First plane along the last axis.
        logits: (K, i, j, planes).
    """

    start: int
    logits: Tensor


def gaussian_importance(tile: Sequence[int]) -> Tensor:
    """Return the weight of each voxel of a tile: a Gaussian around its centre, at least 0.001.

    The standard deviation is an eighth of the tile's size along each axis; axes of size 1 weigh nothing.
    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
    """
    weight = torch.ones(())
    for size in tile:
        x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (x / (_GAUSSIAN_SIGMA * size)) ** 2)
    return weight.clamp_min_(_SMALLEST_WEIGHT)


def tile_starts(size: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles start along one axis: evenly stepped, the last one flush with the end."""
    if size <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    return sorted({min(start, size - tile) for start in range(0, size - tile + step, step)})


@dataclass(frozen=True)
class TileEngine:
    """Runs a network over all tiles of an image.

    Args:
        predict: (B, C, *tile) -> (B, K, *tile); (B, C x slices, i, j) -> (B, K, i, j) for a 2-D network.
        tile: Tile size (i, j, k); k is 1 for a 2-D network.
        window: Overlap, batch size and mirroring.
        spatial_dims: Of the network: 2 or 3.
        slices: Neighbouring slices that a 2-D network sees as channels; those beyond the image are zero, the mean.
        device: Where network and ring live.
        behind: (c, i, j, k), further channels that the network sees behind those of the image.
    """

    predict: Predictor
    tile: Shape
    window: SlidingWindow
    spatial_dims: int
    slices: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    behind: Tensor | None = None

    def slabs(self, image: Tensor, advance: Advance | None = None) -> Iterator[Slab]:
        """Yield the logits of an image, plane after plane.

        Args:
            image: float32 (C, i, j, k).
            advance: Called with (tiles done, tiles in all).

        Yields:
            Slabs that follow one another along the last axis and cover the image.
        """
        padded, crop = self._padded(image if self.behind is None else torch.cat((image, self.behind.to(image))))
        rows, columns, planes = (
            tile_starts(n, t, self.window.overlap) for n, t in zip(padded.shape[1:], self.tile, strict=True)
        )
        corners = list(product(rows, columns))
        ends = [*planes[1:], padded.shape[3]]  # planes before these get no more tiles
        ring = _Ring((padded.shape[1], padded.shape[2], self.tile[2]), gaussian_importance(self.tile), self.device)
        beyond = self.slices // 2
        padded = F.pad(padded, (beyond, beyond)) if beyond else padded
        done = 0
        for start, end in zip(planes, ends, strict=True):
            for batch in _batched(corners, self.window.batch_size):
                tiles = torch.stack([self._cut(padded, (i, j, start)) for i, j in batch])
                ring.add(batch, self._predict(tiles.to(self.device)))
                done += len(batch)
                if advance:
                    advance(done, len(corners) * len(planes))
            yield from _cropped(Slab(start, ring.finish(end - start)), crop)

    def _padded(self, image: Tensor) -> tuple[Tensor, tuple[slice, slice, slice]]:
        """Pad with zeros (the mean) on both sides up to one tile; also return where the image lies in it."""
        before = [max(t - n, 0) // 2 for n, t in zip(image.shape[1:], self.tile, strict=True)]
        after = [max(t - n, 0) - b for n, t, b in zip(image.shape[1:], self.tile, before, strict=True)]
        i, j, k = (slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
        if not any(before) and not any(after):
            return image, (i, j, k)
        pads = [pad for axis in (2, 1, 0) for pad in (before[axis], after[axis])]
        return F.pad(image, pads), (i, j, k)

    def _cut(self, image: Tensor, corner: Shape) -> Tensor:
        """Cut a tile, and the slices before and behind it, out of an image that has them at both ends."""
        rows, columns, planes = self.tile
        i, j, k = corner
        return image[:, i : i + rows, j : j + columns, k : k + planes + self.slices - 1]

    def _predict(self, tiles: Tensor) -> Tensor:
        """Predict tiles (B, C, i, j, k), averaged over the flips asked for, in float32.

        For a 2-D network, k counts the slices that it sees beside one another.
        """
        x = stack_slices(tiles) if self.spatial_dims == 2 else tiles
        flips = [
            [axis + 2 for axis, on in zip(self.window.mirror_axes, chosen, strict=True) if on]
            for chosen in product((False, True), repeat=len(self.window.mirror_axes))
        ]
        total: Tensor | None = None
        for axes in flips:
            logits = (self.predict(x.flip(axes)).flip(axes) if axes else self.predict(x)).float()
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise ValueError("there is always at least the unflipped prediction")
        if len(flips) > 1:
            total /= len(flips)
        return total[..., None] if self.spatial_dims == 2 else total


class _Ring:
    """Weighted sums of logits, as deep as one tile along the last axis.

    Args:
        shape: (i, j) of the image and the depth of a tile.
        importance: Weight of each voxel of a tile.
        device: Where it lives.
    """

    def __init__(self, shape: Shape, importance: Tensor, device: torch.device) -> None:
        self._importance = importance.to(device)
        self._weight = torch.zeros(shape, device=device)
        self._logits: Tensor | None = None  # (K, *shape); K is known with the first tiles

    def add(self, corners: list[tuple[int, int]], logits: Tensor) -> None:
        """Add tiles (B, K, *tile) at their (i, j) corners."""
        if self._logits is None:
            self._logits = logits.new_zeros((logits.shape[1], *self._weight.shape))
        rows, columns = self._importance.shape[:2]
        for (i, j), values in zip(corners, logits, strict=True):
            place = (..., slice(i, i + rows), slice(j, j + columns), slice(None))
            self._logits[place].addcmul_(values, self._importance)
            self._weight[place] += self._importance

    def finish(self, planes: int) -> Tensor:
        """Take out the first planes, (K, i, j, planes) of mean logits, and make room behind the last."""
        if self._logits is None:
            raise ValueError("tiles are added before planes are finished")
        finished = self._logits[..., :planes] / self._weight[..., :planes]
        self._logits, self._weight = _shifted(self._logits, planes), _shifted(self._weight, planes)
        return finished


def _batched(corners: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(corners), size):
        yield corners[start : start + size]


def _shifted(ring: Tensor, planes: int) -> Tensor:
    """Drop the first planes and put empty ones at the end."""
    rest = ring[..., planes:]
    return torch.cat((rest, ring.new_zeros((*ring.shape[:-1], planes))), dim=-1)


def _cropped(slab: Slab, crop: tuple[slice, slice, slice]) -> Iterator[Slab]:
    """Cut the padding off a slab; nothing is left of a slab that is all padding."""
    i, j, k = crop
    low, high = max(slab.start, k.start), min(slab.start + slab.logits.shape[-1], k.stop)
    if low < high:
        yield Slab(low - k.start, slab.logits[:, i, j, low - slab.start : high - slab.start])
