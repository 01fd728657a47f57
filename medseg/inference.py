"""Streamed sliding window: image -> label map on the image's own grid, in bounded memory.

Tiles go along the last axis. Their weighted logits are summed in a ring that is as deep as a tile; planes that no
later tile touches are finished, and are turned into labels on the native grid at once. So the memory is that of
the ring and not of classes times volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from medseg.data.resample import Coordinates, GridMap, resample_axes, sample_planes
from medseg.data.transforms import Prepared
from medseg.volume import Grid

Predictor = Callable[[Tensor], Tensor]
Advance = Callable[[int, int], None]
Shape = tuple[int, int, int]
LabelArray = NDArray[np.unsignedinteger[Any]]

_GAUSSIAN_SIGMA = 0.125  # of the tile's size, as nnU-Net and MONAI
_SMALLEST_WEIGHT = 1e-3
_CHUNK_BYTES = 256 << 20
_INSIDE_TOLERANCE = 1e-4


class SlidingWindow(BaseModel):
    """How a volume is cut into tiles and the tiles' predictions are put together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile_size: tuple[int, ...] | None = Field(
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
        predict: (B, C, *tile) -> (B, K, *tile), in 2-D tiles when `tile` has size 1 along the last axis.
        tile: Tile size (i, j, k); k is 1 for a 2-D network.
        window: Overlap, batch size and mirroring.
        spatial_dims: Of the network: 2 or 3.
        device: Where network and ring live.
    """

    predict: Predictor
    tile: Shape
    window: SlidingWindow
    spatial_dims: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def slabs(self, image: Tensor, advance: Advance | None = None) -> Iterator[Slab]:
        """Yield the logits of an image, plane after plane.

        Args:
            image: float32 (C, i, j, k).
            advance: Called with (tiles done, tiles in all).

        Yields:
            Slabs that follow one another along the last axis and cover the image.
        """
        padded, crop = self._padded(image)
        size = padded.shape[1:]
        starts = [tile_starts(n, t, self.window.overlap) for n, t in zip(size, self.tile, strict=True)]
        columns = list(product(starts[0], starts[1]))
        importance = gaussian_importance(self.tile).to(self.device)
        total, done, first = len(columns) * len(starts[2]), 0, 0
        ring: Tensor | None = None  # (K, i, j, tile k): weighted sums from plane `first` on
        weight = torch.zeros((*size[:2], self.tile[2]), device=self.device)
        for row, k in enumerate(starts[2]):
            for corners in _batched(columns, self.window.batch_size):
                tiles = torch.stack([self._cut(padded, (i, j, k)) for i, j in corners])
                logits = self._predict(tiles.to(self.device))
                if ring is None:
                    ring = logits.new_zeros((logits.shape[1], *weight.shape))
                for (i, j), values in zip(corners, logits, strict=True):
                    place = (..., slice(i, i + self.tile[0]), slice(j, j + self.tile[1]), slice(None))
                    ring[place].addcmul_(values, importance)
                    weight[place] += importance
                done += len(corners)
                if advance:
                    advance(done, total)
            is_last = row + 1 == len(starts[2])
            finished = (size[2] if is_last else starts[2][row + 1]) - first
            if ring is not None:
                yield from _cropped(Slab(first, ring[..., :finished] / weight[..., :finished]), crop)
                ring, weight = _shifted(ring, finished), _shifted(weight, finished)
            first += finished

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
        i, j, k = (slice(start, start + size) for start, size in zip(corner, self.tile, strict=True))
        return image[:, i, j, k]

    def _predict(self, tiles: Tensor) -> Tensor:
        """Predict tiles (B, C, i, j, k), averaged over the flips asked for, in float32."""
        x = tiles[..., 0] if self.spatial_dims == 2 else tiles
        flips = [
            [axis + 2 for axis, on in zip(self.window.mirror_axes, chosen, strict=True) if on]
            for chosen in product((False, True), repeat=len(self.window.mirror_axes))
        ]
        total: Tensor | None = None
        for axes in flips:
            logits = self.predict(x.flip(axes)).flip(axes).float()
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise ValueError("there is always at least the unflipped prediction")
        total /= len(flips)
        return total[..., None] if self.spatial_dims == 2 else total


def label_on_grid(
    engine: TileEngine,
    prepared: Prepared,
    native: Grid,
    values: LabelArray,
    advance: Advance | None = None,
) -> LabelArray:
    """Segment a prepared image and label every voxel of the native grid.

    Logits are interpolated to the native grid first, then the largest one wins; the lowest index on a tie. Voxels
    outside the prepared image are background.

    Args:
        engine: The network and its window.
        prepared: The image as the network sees it.
        native: The grid of the input.
        values: Label value of each channel.
        advance: Called with (tiles done, tiles in all).

    Returns:
        Label values of the native shape, i fastest in memory.
    """
    grids = GridMap(prepared.grid, native)
    labels = np.zeros(native.shape, dtype=values.dtype, order="F")
    slabs = engine.slabs(prepared.image, advance)
    if grids.target_axes is None:
        _label_sampled(slabs, grids, values, labels)
    else:
        _label_separable(slabs, grids, grids.target_axes, values, labels)
    return labels


def _label_separable(
    slabs: Iterator[Slab],
    grids: GridMap,
    target_axes: Shape,
    values: LabelArray,
    labels: LabelArray,
) -> None:
    coordinates = [grids.coordinates(axis) for axis in range(3)]
    inside = [_inside(c, n) for c, n in zip(coordinates, grids.source.shape, strict=True)]
    by_source = labels.transpose(target_axes)  # a view: axis n runs along the source's axis n
    across = [coordinates[axis][inside[axis]] for axis in (0, 1)]
    depth = grids.source.shape[2]
    for slab in _overlapping(slabs):
        end = slab.start + slab.logits.shape[-1]
        mine = inside[2][_belongs(coordinates[2][inside[2]], slab.start, end, depth)]
        for chosen in _chunks(mine, slab.logits.shape[0], [len(c) for c in across]):
            local = coordinates[2][chosen] - slab.start
            logits = resample_axes(slab.logits, [*across, local])
            by_source[np.ix_(inside[0], inside[1], chosen)] = values[logits.argmax(dim=0).cpu().numpy()]


def _label_sampled(
    slabs: Iterator[Slab],
    grids: GridMap,
    values: LabelArray,
    labels: LabelArray,
) -> None:
    """Label a grid that is rotated or sheared against the network's: all logits are kept at once."""
    logits = torch.cat([slab.logits for slab in slabs], dim=-1)
    shape = grids.target.shape
    for chosen in _chunks(np.arange(shape[2]), logits.shape[0], list(shape[:2])):
        planes = range(int(chosen[0]), int(chosen[-1]) + 1)
        best = sample_planes(logits, grids.matrix, shape, planes).argmax(dim=0).cpu().numpy()
        index = np.stack(np.meshgrid(*map(np.arange, shape[:2]), planes, indexing="ij"), axis=-1)
        source = index @ grids.matrix[:3, :3].T + grids.matrix[:3, 3]
        within = ((source >= -0.5) & (source <= np.array(grids.source.shape) - 0.5)).all(axis=-1)
        labels[:, :, chosen] = np.where(within, values[best], 0)


def _overlapping(slabs: Iterator[Slab]) -> Iterator[Slab]:
    """Put the last plane of each slab before the next one, so that planes between them can be interpolated."""
    last: Tensor | None = None
    for slab in slabs:
        if last is None:
            yield slab
        else:
            yield Slab(slab.start - 1, torch.cat((last, slab.logits), dim=-1))
        last = slab.logits[..., -1:]


def _belongs(coordinates: Coordinates, start: int, end: int, depth: int) -> NDArray[np.bool_]:
    """Which coordinates are interpolated from planes start to end - 1 and were not from planes before."""
    lower = -np.inf if start == 0 else start
    upper = np.inf if end == depth else end - 1
    after_lower = coordinates > lower if start else coordinates >= lower
    return after_lower & (coordinates <= upper)


def _inside(coordinates: Coordinates, size: int) -> NDArray[np.int64]:
    """Return the target indices that lie within the source's voxels, their outer faces included."""
    within = (coordinates >= -0.5 - _INSIDE_TOLERANCE) & (coordinates <= size - 0.5 + _INSIDE_TOLERANCE)
    return np.flatnonzero(within)


def _chunks(indices: NDArray[np.int64], channels: int, across: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Split plane indices so that float32 logits of a chunk stay under 256 MiB."""
    plane_bytes = 4 * channels * int(np.prod(across, dtype=np.int64))
    planes = max(1, _CHUNK_BYTES // max(plane_bytes, 1))
    for start in range(0, len(indices), planes):
        yield indices[start : start + planes]


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
