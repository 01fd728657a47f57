"""Streamed sliding window: an image -> slabs of logits, in memory that is that of one tile's depth.

Tiles go along the last axis. Their weighted logits are summed in a ring that is as deep as a tile; planes that no
later tile touches are finished and handed on at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import ceil, prod
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from medseg.inference.ring import Ring
from medseg.networks.slices import stack_slices

Predictor = Callable[[Tensor], Tensor]
Advance = Callable[[int, int], None]
Shape = tuple[int, int, int]

_GAUSSIAN_SIGMA = 0.125  # of the tile's size, as nnU-Net and MONAI
_GAUSSIAN_HEIGHT = 10.0  # as nnU-Net: few weights then round to 0 in 16 bits


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
    """Return the weight of each voxel of a tile: a Gaussian of height 10 around its centre, as nnU-Net's.

    The standard deviation is an eighth of the tile's size along each axis, the centre is the voxel ``size // 2``.
    Weights are rounded to 16 bits, as nnU-Net's are: near a corner that moves them by up to a half, and predictions
    that are to be nnU-Net's must weigh the same. What would round to 0 weighs as much as the lightest other voxel.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; nnU-Net v2's ``compute_gaussian``.

    Returns:
        float32 of the tile's shape; every value is above 0 and exact in 16 bits.
    """
    weight = torch.full((), _GAUSSIAN_HEIGHT, dtype=torch.float64)
    for size in tile:
        x = torch.arange(size, dtype=torch.float64) - size // 2
        weight = weight[..., None] * torch.exp(-0.5 * (x / (_GAUSSIAN_SIGMA * size)) ** 2)
    rounded = weight.half().float()
    return torch.where(rounded > 0, rounded, rounded[rounded > 0].min())


def tile_starts(size: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles start along one axis: as few as the overlap allows, spread evenly from end to end.

    Source: nnU-Net v2's ``compute_steps_for_sliding_window``.
    """
    if size <= tile:
        return [0]
    steps = ceil((size - tile) / max(1.0, tile * (1 - overlap)))
    return [round((size - tile) / steps * step) for step in range(steps + 1)]


def tile_count(shape: Sequence[int], tile: Sequence[int], overlap: float) -> int:
    """Return how many tiles cover an image (i, j, k)."""
    return prod(len(tile_starts(max(n, t), t, overlap)) for n, t in zip(shape, tile, strict=True))


@dataclass(frozen=True)
class TileEngine:
    """Runs a network over all tiles of an image.

    Args:
        predict: (B, C, *tile) -> (B, K, *tile); (B, C x slices, i, j) -> (B, K, i, j) for a 2-D network.
        tile: Tile size (i, j, k); k is 1 for a 2-D network.
        window: Overlap, batch size and mirroring.
        spatial_dims: Of the network: 2 or 3.
        slices: Neighbouring slices that a 2-D network sees as channels; those beyond the image are zero, the mean.
        device: Where the network lives.
        behind: (c, i, j, k), further channels that the network sees behind those of the image.
        accumulate_on: Where logits are summed; as the network by default.
        body: (i, j, k), the voxels that are not air. A tile without any is not predicted; voxels that only such
            tiles cover are background. Every tile that a voxel of the body lies in is predicted: its logits are
            exactly those of a run without `body`.
        regions: Whether logits are of regions: what background looks like.
        sums: Type of the sums of logits; by default float16 for a network on a GPU, else float32.
    """

    predict: Predictor
    tile: Shape
    window: SlidingWindow
    spatial_dims: int
    slices: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    behind: Tensor | None = None
    accumulate_on: torch.device | None = None
    body: Tensor | None = None
    regions: bool = False
    sums: torch.dtype | None = None

    def slabs(self, image: Tensor, advance: Advance | None = None) -> Iterator[Slab]:
        """Yield the logits of an image, plane after plane.

        Logits of a network on a GPU are summed in 16 bits, as nnU-Net does; on the CPU in 32.

        Args:
            image: float32 (C, i, j, k).
            advance: Called with (tiles done, tiles in all).

        Yields:
            Slabs that follow one another along the last axis and cover the image.

        Raises:
            ModelError: Logits are NaN or infinite; a `SumOverflowError` where 32 bits may hold their sums.
        """
        layout = _Layout.of(image.shape[1:], self.tile, self.window.overlap)
        todo = self._predicted(layout)
        ring = self._ring(layout)
        total, done = sum(map(len, todo)), 0
        for start, end, corners in zip(layout.planes, layout.ends, todo, strict=True):
            ring.weigh([(other - start, there) for other, there in zip(layout.planes, todo, strict=True)])
            for batch in _batched(corners, self.window.batch_size):
                tiles = torch.stack([self._cut(image, layout, (i, j, start)) for i, j in batch])
                ring.add(batch, self._predict(tiles.to(self.device)))
                done += len(batch)
                if advance:
                    advance(done, total)
            for plane, logits in ring.finish(end - start):
                yield from _cropped(Slab(start + plane, logits), layout.crop)

    def _ring(self, layout: _Layout) -> Ring:
        plain = layout.is_disjoint and self.body is None
        return Ring(
            (layout.size[0], layout.size[1], self.tile[2]),
            None if plain else gaussian_importance(self.tile),
            self.accumulate_on or self.device,
            self.sums or (torch.float16 if self.device.type == "cuda" else torch.float32),
            regions=self.regions,
        )

    def _predicted(self, layout: _Layout) -> list[list[tuple[int, int]]]:
        """Return the (i, j) corners of the tiles to predict at each start of the last axis."""
        if self.body is None:
            return [layout.corners] * len(layout.planes)
        body = self.body[None]
        todo = [
            [(i, j) for i, j in layout.corners if bool(layout.cut(body, self.tile, (i, j, start)).any())]
            for start in layout.planes
        ]
        todo[0] = todo[0] or layout.corners[:1]  # one tile at least says how many channels there are
        return todo

    def _cut(self, image: Tensor, layout: _Layout, corner: Shape) -> Tensor:
        """Cut out a tile with the slices before and behind it; what lies beyond the image is zero, the mean."""
        tile = layout.cut(image, self.tile, corner, self.slices // 2)
        if self.behind is None:
            return tile
        return torch.cat((tile, layout.cut(self.behind, self.tile, corner, self.slices // 2).to(tile)))

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


@dataclass(frozen=True)
class _Layout:
    """Where tiles lie in an image that zeros on both sides bring up to one tile.

    Attributes:
        size: (i, j, k) with the zeros; they are never laid down but for tiles that reach into them.
        crop: Where the image lies.
        corners: (i, j) of the tiles.
        planes: Where they start along the last axis.
        is_disjoint: No two tiles overlap.
    """

    size: Shape
    crop: tuple[slice, slice, slice]
    corners: list[tuple[int, int]]
    planes: list[int]
    is_disjoint: bool

    @classmethod
    def of(cls, shape: Sequence[int], tile: Shape, overlap: float) -> _Layout:
        """Lay tiles over an image (i, j, k)."""
        before = [max(t - n, 0) // 2 for n, t in zip(shape, tile, strict=True)]
        i, j, k = (slice(b, b + n) for b, n in zip(before, shape, strict=True))
        size = (max(shape[0], tile[0]), max(shape[1], tile[1]), max(shape[2], tile[2]))
        starts = [tile_starts(n, t, overlap) for n, t in zip(size, tile, strict=True)]
        steps = [(b - a, t) for axis, t in zip(starts, tile, strict=True) for a, b in pairwise(axis)]
        disjoint = all(step >= t for step, t in steps)
        return cls(size, (i, j, k), list(product(starts[0], starts[1])), starts[2], disjoint)

    @property
    def ends(self) -> list[int]:
        """For each start along the last axis, the plane before which no later tile begins."""
        return [*self.planes[1:], self.size[2]]

    def cut(self, image: Tensor, tile: Shape, corner: Shape, beyond: int = 0) -> Tensor:
        """Cut a tile out of an image (C, i, j, k), with so many slices more at both ends of the last axis."""
        lows = [c - place.start for c, place in zip(corner, self.crop, strict=True)]
        highs = [low + t for low, t in zip(lows, tile, strict=True)]
        lows[2], highs[2] = lows[2] - beyond, highs[2] + beyond
        sizes = image.shape[1:]
        inside = [slice(max(low, 0), min(high, n)) for low, high, n in zip(lows, highs, sizes, strict=True)]
        pads = [p for a in (2, 1, 0) for p in (inside[a].start - lows[a], highs[a] - inside[a].stop)]
        cut = image[:, inside[0], inside[1], inside[2]]
        return F.pad(cut, pads) if any(pads) else cut


def _batched(corners: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(corners), size):
        yield corners[start : start + size]


def _cropped(slab: Slab, crop: tuple[slice, slice, slice]) -> Iterator[Slab]:
    """Cut the padding off a slab; nothing is left of a slab that is all padding."""
    i, j, k = crop
    low, high = max(slab.start, k.start), min(slab.start + slab.logits.shape[-1], k.stop)
    if low < high:
        yield Slab(low - k.start, slab.logits[:, i, j, low - slab.start : high - slab.start])
