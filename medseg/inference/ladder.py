"""The ladder of memory: what is given up, step by step, where a study does not fit.

::

    as planned
    one tile at a time             the same labels
    logits summed on the host      the same labels
    tiles of I x J x K             labels may differ: the network sees less around a voxel
    on the CPU                     the same labels as planned, but for rounding
    tiles of I x J x K on the CPU

A study begins at the top, or at the first rung that fits ``--memory``; running out of memory steps it down.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from medseg.errors import is_out_of_memory
from medseg.findings import Finding, FindingCode
from medseg.inference.tiles import Shape, TileEngine
from medseg.labels import AS_PLANNED

Result = TypeVar("Result")

ONE_TILE, ON_HOST, ON_CPU = "one tile at a time", "logits summed on the host", "on the CPU"
_CPU = torch.device("cpu")
_SMALLEST = 2  # voxels along an axis where the network is coarsest
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rung:
    """One way to run a network over an image.

    Attributes:
        name: For people and records.
        tile: (i, j, k).
        batch_size: Tiles at once.
        device: Of the network.
        accumulate_on: Where logits are summed.
        is_smaller: Whether tiles are smaller than planned.
    """

    name: str
    tile: Shape
    batch_size: int
    device: torch.device
    accumulate_on: torch.device
    is_smaller: bool = False

    def applied(self, engine: TileEngine) -> TileEngine:
        """Return a sliding window that runs in this way."""
        window = engine.window.model_copy(update={"batch_size": self.batch_size})
        return replace(engine, tile=self.tile, window=window, device=self.device, accumulate_on=self.accumulate_on)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a user must know of it: that labels may differ."""
        if not self.is_smaller:
            return ()
        message = f"not enough memory: {self.name} in place of the model's own; labels may differ"
        return (Finding(FindingCode.SMALLER_TILES, message),)


def rungs(engine: TileEngine, multiple: Sequence[int]) -> list[Rung]:
    """Return the ways to run a sliding window, from the one planned to the one that needs the least memory.

    Args:
        engine: As planned.
        multiple: Voxels along each axis that become one where the network is coarsest; see `multiple_of`.
    """
    device = engine.device
    first = Rung(AS_PLANNED, engine.tile, engine.window.batch_size, device, engine.accumulate_on or device)
    steps = [first]
    if first.batch_size > 1:
        steps.append(replace(first, name=ONE_TILE, batch_size=1))
    if first.accumulate_on.type != "cpu":
        steps.append(replace(first, name=ON_HOST, batch_size=1, accumulate_on=_CPU))
    tiles = smaller_tiles(engine.tile, multiple)
    smaller = [replace(steps[-1], name=_named(tile), tile=tile, is_smaller=True) for tile in tiles]
    steps += smaller
    if device.type != "cpu":
        on_cpu = replace(steps[0], name=ON_CPU, batch_size=1, device=_CPU, accumulate_on=_CPU)
        steps.append(on_cpu)
        steps += [replace(on_cpu, name=f"{s.name} {ON_CPU}", tile=s.tile, is_smaller=True) for s in smaller]
    return steps


def smaller_tiles(tile: Shape, multiple: Sequence[int]) -> list[Shape]:
    """Return tiles of about half the voxels each time, down to two voxels an axis where the network is coarsest.

    The longest axis is halved, to a multiple of what the network needs; axes that are no longer than their least
    stay as they are.
    """
    least = [_SMALLEST * step for step in (*multiple, 1)[:3]]
    sizes = list(tile)
    found: list[Shape] = []
    while True:
        axes = [axis for axis in range(3) if sizes[axis] > max(least[axis], 1)]
        if not axes:
            return found
        axis = max(axes, key=lambda a: sizes[a])
        step = least[axis] // _SMALLEST
        sizes[axis] = max(least[axis], math.ceil(sizes[axis] / 2 / step) * step)
        found.append((sizes[0], sizes[1], sizes[2]))


def multiple_of(networks: Sequence[nn.Module], dims: int) -> tuple[int, ...]:
    """Return the voxels along each axis that become one where the coarsest of networks is coarsest."""
    each = [getattr(network, "multiple", (1,) * dims) for network in networks]
    return tuple(math.lcm(*(int(step) for step in axis)) for axis in zip(*each, strict=True))


def segment_on_ladder(attempt: Callable[[Rung], Result], steps: Sequence[Rung]) -> tuple[Result, Rung]:
    """Run on the first rung; step down each time memory runs out.

    Args:
        attempt: Segments on a rung, from the beginning.
        steps: From `rungs`; one at least.

    Returns:
        What the first rung that fits gives, and that rung.

    Raises:
        Exception: Whatever `attempt` raises but for being out of memory; that too on the last rung.
    """
    for rung in steps[:-1]:
        result = _tried(attempt, rung)
        if result is not None:
            return result[0], rung
        _log.warning("out of memory at %s: the next rung", rung)
        _free()
    return attempt(steps[-1]), steps[-1]


def _tried(attempt: Callable[[Rung], Result], rung: Rung) -> tuple[Result] | None:
    """Return the result; None where memory ran out: with the exception its frames and their tensors are gone."""
    try:
        return (attempt(rung),)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _named(tile: Shape) -> str:
    return f"tiles of {tile[0]} x {tile[1]} x {tile[2]}"
