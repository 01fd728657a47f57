"""The index that wins at points between voxels, at the cost of the surfaces between the winners.

Between the (two, four or) eight voxels v at the corners of a cell, linear interpolation is F_c(x) = sum of
w_v(x) f_c(v) over v, for the logits f_c of class c, with weights w_v >= 0 that add up to 1.

**Where all corners have the same winner, it wins in the whole cell.** The winner of a voxel is the lowest of the
indices whose logit is largest. Let it be d at every corner. For every c, f_d(v) >= f_c(v) at all corners, hence
F_d(x) >= F_c(x). For c < d, f_d(v) > f_c(v) at all corners, for else c would be a lower index as large; some weight
is above 0, hence F_d(x) > F_c(x). So F_d(x) is largest, and no lower index ties with it: d is the winner at x, ties
included, and needs no interpolation.

**Elsewhere few classes can win.** Let a and b be the winners of two corners. Where f_c(v) < (f_a(v) + f_b(v)) / 2
at all corners, F_c(x) < (F_a(x) + F_b(x)) / 2 <= max(F_a(x), F_b(x)): c does not win and is left out. Winning at no
corner alone does not leave a class out: it can be second at all of them and win between.

**Regions** are decided by their signs: the index is 1 + the last region above 0. Where it is r + 1 at all corners,
region r is above 0 at all of them and so in between, and those after it nowhere; where it is 0, none is. Elsewhere
a region that is above 0 at no corner is left out.

What is guaranteed: in cells of one winner the index is that of real arithmetic. In the others logits are
interpolated in float32, each class by the same operations, so that classes that are equal at all corners stay equal
and the lowest index is taken. There the index can differ from that of real arithmetic only where the two largest
interpolated logits (of regions: a logit and 0) are as near to one another as float32 rounds, 1e-6 of the largest
magnitude at the corners. Logits are finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

Shape = tuple[int, int, int]


def winner_index(logits: Tensor) -> Tensor:
    """Return the channel with the largest logit, the lowest of equal ones.

    Channel after channel is compared with the best so far: on the CPU many times faster than ``argmax`` across the
    slowest axis.

    Args:
        logits: (K, *shape).

    Returns:
        uint8 channels of the shape, or int16 where K is above 256.
    """
    dtype = torch.uint8 if len(logits) <= 256 else torch.int16
    best = logits[0].clone(memory_format=torch.contiguous_format)
    index = torch.zeros(best.shape, dtype=dtype, device=best.device)
    for channel in range(1, len(logits)):
        larger = (logits[channel] > best).view(torch.uint8).to(dtype)
        torch.maximum(index, larger.mul_(channel), out=index)  # channels only grow
        torch.maximum(best, logits[channel], out=best)
    return index


def region_index(logits: Tensor) -> Tensor:
    """Return 1 + the last region whose logit is above 0, 0 where there is none.

    Args:
        logits: (R, *shape).

    Returns:
        uint8 indices of the shape, or int16 where R is above 255.
    """
    dtype = torch.uint8 if len(logits) < 256 else torch.int16
    index = torch.zeros(logits.shape[1:], dtype=dtype, device=logits.device)
    for region in range(len(logits)):
        inside = (logits[region] > 0).view(torch.uint8).to(dtype)
        torch.maximum(index, inside.mul_(region + 1), out=index)
    return index


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells between the voxels of some logits.

    Args:
        logits: (K, i, j, k), of any strides; float16 and bfloat16 are interpolated in float32.
        steps: For each axis 1 where two neighbours are interpolated, 0 where each plane stands for itself.
        regions: Logits are of regions, not of classes.
    """

    logits: Tensor
    steps: Shape
    regions: bool

    @property
    def lowest(self) -> Tensor:
        """The lowest index at the corners of each cell, (i - steps, j - steps, k - steps)."""
        return self._extremes[0]

    @property
    def highest(self) -> Tensor:
        """The highest index at the corners of each cell; where it is the lowest too, it is the index inside."""
        return self._extremes[1]

    @cached_property
    def _extremes(self) -> tuple[Tensor, Tensor]:
        low = high = (region_index if self.regions else winner_index)(self.logits)
        for axis, step in enumerate(self.steps):
            size = low.shape[axis] - step
            if step:
                low = torch.minimum(low.narrow(axis, 0, size), low.narrow(axis, 1, size))
                high = torch.maximum(high.narrow(axis, 0, size), high.narrow(axis, 1, size))
        return low, high

    def contest(self, cells: Tensor) -> Contest:
        """Find the channels that may win in some cells.

        Args:
            cells: (n, 3) int64, cells of more than one winner.
        """
        base = _offsets(cells, self.logits.stride()[1:])
        contends = self._contenders(cells, base)  # (K, n)
        count, order = contends.sum(dim=0).sort(descending=True, stable=True)
        channels = contends.T[order].nonzero()[:, 1]
        return Contest(self, cells[order], order, base[order], count, channels)

    @cached_property
    def _flat(self) -> Tensor:
        """The memory that the logits lie in, from their first element on."""
        span = 1 + sum((n - 1) * s for n, s in zip(self.logits.shape, self.logits.stride(), strict=True))
        return self.logits.as_strided((span,), (1,))

    @cached_property
    def _corners(self) -> list[int]:
        """Where the corners of a cell lie, behind its low corner."""
        strides = self.logits.stride()[1:]
        corners = product(*(range(step + 1) for step in self.steps))
        return [sum(c * s for c, s in zip(corner, strides, strict=True)) for corner in corners]

    def _contenders(self, cells: Tensor, base: Tensor) -> Tensor:
        """Return which channels may win in each cell, bool (K, n)."""
        count, stride = len(self.logits), self.logits.stride(0)
        contends = torch.zeros((count, len(base)), dtype=torch.bool, device=base.device)
        if self.regions:
            bounds: list[Tensor | float] = [0.0] * len(self._corners)
        else:
            winners = [extreme[cells[:, 0], cells[:, 1], cells[:, 2]].long() for extreme in self._extremes]
            contends.scatter_(0, winners[0][None], True)  # also where logits are not numbers
            a, b = (base + winner * stride for winner in winners)
            bounds = [(self._at(corner, a) + self._at(corner, b)) / 2 for corner in self._corners]
        for channel in range(count):
            for corner, bound in zip(self._corners, bounds, strict=True):
                values = self._at(corner + channel * stride, base)
                contends[channel] |= values > bound if self.regions else values >= bound
        return contends

    def shares(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return the weights of each corner, one after the other."""
        shares: list[Tensor] = [torch.ones_like(weights[0])]
        for weight, step in zip(weights, self.steps, strict=True):
            if step:
                shares = [share * side for share in shares for side in (1 - weight, weight)]
        return shares

    def interpolated(self, low: Tensor, shares: Sequence[Tensor]) -> Tensor:
        """Return values whose low corners lie at some places of the memory, from the weights of each corner."""
        total = torch.zeros_like(shares[0])
        for corner, share in zip(self._corners, shares, strict=True):
            total.addcmul_(self._at(corner, low), share)
        return total

    def _at(self, corner: int, low: Tensor) -> Tensor:
        return self._flat[corner:].index_select(0, low).float()


@dataclass(frozen=True, eq=False)
class Contest:
    """Cells of more than one winner, those where the most channels may win first.

    Attributes:
        of: The cells that these are some of.
        cells: (n, 3).
        order: (n,) which of the cells asked for each of them is.
        base: (n,) where the low corner of each lies in the memory of channel 0.
        count: (n,) channels that may win.
        channels: These channels, cell after cell, the lowest of a cell first.
    """

    of: Cells
    cells: Tensor
    order: Tensor
    base: Tensor
    count: Tensor
    channels: Tensor

    def settle(self, owner: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Return the index at points in these cells.

        Args:
            owner: (m,) int64, which cell each point lies in, ascending.
            weights: For each axis float32 (m,), the weight of the cell's far side; not read where its step is 0.

        Returns:
            (m,) int64 indices.
        """
        regions, stride = self.of.regions, self.of.logits.stride(0)
        shares, low = self.of.shares(weights), self.base[owner]
        first = (self.count.cumsum(0) - self.count)[owner]
        index = torch.zeros_like(owner)
        best = torch.full(owner.shape, 0.0 if regions else -torch.inf, device=owner.device)
        for rank, live in enumerate(self._live(owner)):
            channel = self.channels[first[:live] + rank]
            value = self.of.interpolated(low[:live] + channel * stride, [share[:live] for share in shares])
            better = value > best[:live]
            index[:live] = torch.where(better, channel + regions, index[:live])
            if not regions:
                torch.maximum(best[:live], value, out=best[:live])
        return index

    def _live(self, owner: Tensor) -> list[int]:
        """Return how many of the points lie in cells with more than 0, 1, 2 ... channels that may win."""
        if not len(self.count):
            return []
        ranks = torch.arange(int(self.count[0]), device=owner.device)
        cells = len(self.count) - torch.searchsorted(self.count.flip(0), ranks, right=True)
        found: list[int] = torch.searchsorted(owner, cells).tolist()
        return found


def _offsets(cells: Tensor, strides: Sequence[int]) -> Tensor:
    """Return where cells (n, 3) lie in memory."""
    i, j, k = cells.unbind(1)
    return i * strides[0] + j * strides[1] + k * strides[2]
