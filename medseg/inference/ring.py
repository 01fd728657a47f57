"""`Ring`: the weighted sums of logits of a sliding window, as deep as one tile along the last axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from medseg.errors import ModelError

Corner = tuple[int, int]

SLAB_BYTES = 256 << 20
"""Float32 logits that are handed on at once, if they are more than one plane."""

_BACKGROUND_LOGIT = 20.0  # a probability of all but 1


class SumOverflowError(ModelError):
    """Sums in 16 bits are not finite; those in 32 bits may be."""


class Ring:
    """Mean logits.

    Weights are divided by their sum before logits are multiplied: sums need no division, and none is so small that
    16 bits would lose its digits.

    Channels lie in memory as in the tiles that are added, innermost or outermost: adding reads and writes both in
    one order, which is most of the work. What is handed on has the channels outermost.

    Args:
        shape: (i, j) of the image and the depth of a tile.
        importance: Weight of each voxel of a tile; None where no two tiles overlap, and each is put down as it is.
        device: Where the sums live; a tile's logits are brought there.
        dtype: Of the sums: float32 or float16.
        regions: Whether logits are of regions; background has none of them, and is the first of classes.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        importance: Tensor | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        regions: bool = False,
    ) -> None:
        self._importance = None if importance is None else importance.to(device)
        self._weight = torch.zeros(shape, device=device)
        self._device, self._dtype, self._regions = device, dtype, regions
        self._sums: Tensor | None = None  # (K, *shape); K is known with the first tiles
        self._column: tuple[Sequence[Corner], Tensor] | None = None

    def weigh(self, tiles: Sequence[tuple[int, Sequence[Corner]]]) -> None:
        """Sum the weights of all tiles that reach into the ring as it lies now; before the first is added to it.

        Args:
            tiles: For each start along the last axis, its distance to the ring's and the (i, j) corners there.
        """
        if self._importance is None:
            return
        depth = self._weight.shape[-1]
        self._weight.zero_()
        for offset, corners in tiles:
            low, high = max(offset, 0), min(offset + depth, depth)
            if low < high:
                column = self._summed(self._importance, corners)
                self._weight[..., low:high] += column[..., low - offset : high - offset]

    def add(self, corners: Sequence[Corner], logits: Tensor) -> None:
        """Add tiles (B, K, *tile) at their (i, j) corners."""
        logits = logits.to(self._device, self._dtype)
        if self._sums is None:
            self._sums = _zeros_like_tiles(logits, self._weight.shape)
        rows, columns = logits.shape[2:4]
        for (i, j), values in zip(corners, logits, strict=True):
            place = (..., slice(i, i + rows), slice(j, j + columns), slice(None))
            if self._importance is None:
                self._sums[place].copy_(values)
            else:
                share = self._importance / self._weight[place]
                self._sums[place].addcmul_(values, share.to(self._dtype))

    def finish(self, planes: int) -> Iterator[tuple[int, Tensor]]:
        """Take out the first planes, and make room behind the last.

        Yields:
            The first of some planes, and their mean logits float32 (K, i, j, planes) of 256 MiB at most, or of one
            plane; background where no tile was added.

        Raises:
            SumOverflowError: Sums in 16 bits are NaN or infinite.
            ModelError: Sums in 32 bits are: the network gave such logits.
        """
        if self._sums is None:
            raise ValueError("tiles are added before planes are finished")
        at_once = max(1, SLAB_BYTES // (4 * self._sums[..., 0].numel()))
        for low in range(0, planes, at_once):
            some = slice(low, min(low + at_once, planes))
            yield low, self._mean(self._sums[..., some], self._weight[..., some])
        if self._importance is not None:
            _roll(self._sums, planes)

    def _mean(self, sums: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty(sums.shape, device=sums.device)
        if sums.device.type == "cpu" and sums.stride(0) == 1 and len(sums) > 1:
            _copy_rows(sums, out)
        else:
            out.copy_(sums)
        empty = weight == 0
        if self._importance is not None and bool(empty.any()):
            out.masked_fill_(empty, -_BACKGROUND_LOGIT)
            if not self._regions:
                out[0].masked_fill_(empty, _BACKGROUND_LOGIT)
        # a sum is finite only where every value is: a tenth of the time of looking at each
        if not bool(out.sum().isfinite()) and not bool(out.isfinite().all()):
            raise _not_finite(out, self._dtype)
        return out

    def _summed(self, importance: Tensor, corners: Sequence[Corner]) -> Tensor:
        """Return the weights of all tiles of one start: the same for every start that has the same corners."""
        if self._column is None or self._column[0] != corners:
            weight = torch.zeros_like(self._weight)
            rows, columns = importance.shape[:2]
            for i, j in corners:
                weight[i : i + rows, j : j + columns] += importance
            self._column = (corners, weight)
        return self._column[1]


def _not_finite(logits: Tensor, dtype: torch.dtype) -> ModelError:
    """Return what to say of logits that are not numbers: no label can be chosen by them."""
    if dtype == torch.float16:
        return SumOverflowError(
            "the network's logits",
            expected="finite values that 16 bits hold",
            found="others",
            remedy="sum them in 32 bits",
        )
    return ModelError(
        "the network's logits",
        expected="finite values",
        found="NaN" if bool(logits.isnan().any()) else "infinite ones",
        remedy="look for absurd values in the image; where every image ends so, the model is damaged or diverged",
    )


def _zeros_like_tiles(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Return zeros (K, *shape) with the channels innermost where those of tiles (B, K, *tile) are."""
    channels = logits.shape[1]
    if logits.stride(1) == 1 and channels > 1:
        return logits.new_zeros((*shape, channels)).permute(3, 0, 1, 2)
    return logits.new_zeros((channels, *shape))


def _copy_rows(sums: Tensor, out: Tensor) -> None:
    """Copy, row by row: channels that are innermost become the outermost within the processor's cache."""
    channels, _, columns, planes = sums.shape
    for row in range(sums.shape[1]):
        mean = sums[:, row].permute(1, 2, 0).float().reshape(-1, channels)  # (j x planes, K)
        out[:, row] = mean.t().reshape(channels, columns, planes)


def _roll(ring: Tensor, planes: int) -> None:
    """Move the planes behind the first ones to the front, in place, and zero the rest."""
    depth = ring.shape[-1]
    for low in range(planes, depth, planes):
        high = min(low + planes, depth)
        ring[..., low - planes : high - planes].copy_(ring[..., low:high])
    ring[..., max(depth - planes, 0) :].zero_()
