"""How sure a network is at the boundary of each label, measured while its logits stream by.

A boundary voxel of a label is one of it, on the network's grid, that shares a face with a voxel of another index
or of background; the border of the image is none. Its probability is that of the index that won there: softmax of
the logits, or sigmoid where they are of regions. Of each label the mean is kept. Inside a label probabilities are
near 1 whatever the network knows of the label's extent; at the boundary they tell.

Beside the slab in hand there are a few numbers for each voxel of some planes in memory, never one for each class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medseg.inference.blocks import Sink
from medseg.inference.exact import region_index, winner_index
from medseg.inference.tiles import Advance, Slab

_VOXELS_AT_ONCE = 1 << 20
_DECIMALS = 6


class _Engine(Protocol):
    def slabs(self, image: Tensor, advance: Advance | None = None) -> Iterator[Slab]:
        """Yield slabs of logits (K, i, j, planes) of an image (C, i, j, k)."""


class BoundaryMeter:
    """Measures the mean probability at the boundary of each label.

    Args:
        names: {index: name} of what may win; background, 0, is none of them.
        regions: Whether logits are of regions, of which the last one above 0 wins, instead of classes.
    """

    def __init__(self, names: Mapping[int, str], *, regions: bool = False) -> None:
        self._names = dict(names)
        self._regions = regions
        self._start()

    def _start(self) -> None:
        self._sums = np.zeros(max(self._names, default=0) + 1)
        self._counts = np.zeros(len(self._sums), dtype=np.int64)
        self._edge: _Edge | None = None

    @property
    def means(self) -> dict[str, float]:
        """By name, the mean probability of the boundary's voxels; labels without any are not there."""
        return {
            name: round(float(self._sums[index] / self._counts[index]), _DECIMALS)
            for index, name in self._names.items()
            if self._counts[index]
        }

    def watch(self, engine: _Engine) -> WatchedEngine:
        """Return an engine whose logits are measured on their way; each run of it begins anew."""
        return WatchedEngine(engine, self)

    def measure(self, slabs: Iterator[Slab]) -> Iterator[Slab]:
        """Hand on slabs that follow one another and cover an image; when all are taken, `means` are of all."""
        self._start()
        for slab in slabs:
            planes = max(1, _VOXELS_AT_ONCE // slab.logits[0, :, :, 0].numel())
            for low in range(0, slab.logits.shape[-1], planes):
                self._add(slab.logits[..., low : low + planes])
            yield slab
        if self._edge is not None:
            self._settle(self._edge, self._edge.index)

    def _add(self, logits: Tensor) -> None:
        """Measure the last plane so far, now that the next is known, and all of these planes but the last."""
        index = region_index(logits) if self._regions else winner_index(logits)
        before = index[..., :1]
        if self._edge is not None:
            self._settle(self._edge, before)
            before = self._edge.index
        inner, last = index[..., :-1], index[..., -1:]
        if inner.shape[-1]:
            place = _boundary(before, inner, last).nonzero(as_tuple=True)
            self._tally(inner[place], self._chance(logits[..., :-1], inner, place))
            before = inner[..., -1:]
        place = (last > 0).nonzero(as_tuple=True)
        self._edge = _Edge(before.clone(), last.clone(), place, self._chance(logits[..., -1:], last, place))

    def _settle(self, edge: _Edge, behind: Tensor) -> None:
        chosen = _boundary(edge.before, edge.index, behind)[edge.place]
        self._tally(edge.index[edge.place][chosen], edge.chance[chosen])

    def _chance(self, logits: Tensor, index: Tensor, place: tuple[Tensor, ...]) -> Tensor:
        """Return the probability of the index that won at n places, float32 (n,)."""
        won = index[place].long()
        best = logits[(won - 1 if self._regions else won, *place)].float()
        if self._regions:
            return best.sigmoid()
        total = torch.zeros_like(best)
        for channel in logits:  # one at a time: less memory
            total += (channel[place].float() - best).exp_()
        return total.reciprocal_()

    def _tally(self, index: Tensor, chance: Tensor) -> None:
        numbers = index.cpu().numpy()  # added up on the host: in the same order every time
        self._sums += np.bincount(numbers, chance.double().cpu().numpy(), len(self._sums))
        self._counts += np.bincount(numbers, minlength=len(self._sums))


@dataclass(frozen=True, eq=False)
class WatchedEngine:
    """An engine whose logits are measured on their way.

    Args:
        engine: What gives logits.
        meter: What measures them.
    """

    engine: _Engine
    meter: BoundaryMeter

    def slabs(self, image: Tensor, advance: Advance | None = None) -> Iterator[Slab]:
        """Yield the engine's slabs as they are.

        Args:
            image: float32 (C, i, j, k).
            advance: Called with (tiles done, tiles in all).
        """
        return self.meter.measure(self.engine.slabs(image, advance))


@dataclass(frozen=True)
class Watch:
    """What else looks at logits while they become labels.

    Attributes:
        sink: Takes all logits on the native grid, block by block; see `medseg.inference.labelling.label_on_grid`.
        meter: Takes those of the network's grid.
    """

    sink: Sink | None = None
    meter: BoundaryMeter | None = None


UNWATCHED = Watch()


@dataclass(frozen=True, eq=False)
class _Edge:
    """The last plane so far, whose other side is not known yet.

    Attributes:
        before: (i, j, 1), the indices of the plane before it; its own if it is the first.
        index: (i, j, 1), its own.
        place: Its voxels that are not background.
        chance: (n,), the probability of their index.
    """

    before: Tensor
    index: Tensor
    place: tuple[Tensor, ...]
    chance: Tensor


def _boundary(before: Tensor, index: Tensor, behind: Tensor) -> Tensor:
    """Return which voxels of some planes are no background and share a face with another index.

    Args:
        before: (i, j, 1), the plane before.
        index: (i, j, planes).
        behind: (i, j, 1), the plane behind.
    """
    around = torch.cat((before, index, behind), dim=-1)
    found = (around[..., 1:-1] != around[..., :-2]) | (around[..., 1:-1] != around[..., 2:])
    for axis in (0, 1):
        low = index.narrow(axis, 0, index.shape[axis] - 1)
        high = index.narrow(axis, 1, index.shape[axis] - 1)
        changes = low != high
        found.narrow(axis, 0, changes.shape[axis]).logical_or_(changes)
        found.narrow(axis, 1, changes.shape[axis]).logical_or_(changes)
    return found.logical_and_(index > 0)
