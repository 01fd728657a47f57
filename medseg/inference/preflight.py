"""Pre-flight: the memory and the time that a study takes, from shapes alone, before anything of it is allocated."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from medseg.data.fingerprint import in_ras
from medseg.data.preprocessing import Preprocessing
from medseg.device import Precision, autocast, free_bytes
from medseg.errors import OutOfMemoryError
from medseg.inference.forward import ForwardCost, forward_cost
from medseg.inference.ladder import Rung
from medseg.inference.ring import SLAB_BYTES
from medseg.inference.tiles import Shape, SlidingWindow, tile_count, tile_starts
from medseg.model import ModelPackage
from medseg.volume import Grid

_LABELLING_BYTES = 128 << 20  # beside a slab, while it is labelled
_BENCH_CHANNELS, _BENCH_SIZE = 32, 48
_BENCH_RUNS = 3


@dataclass(frozen=True)
class Work:
    """The shapes of one study.

    Attributes:
        native: Of the image, and of the label map.
        network: Of the image as the network sees it.
        image_bytes: Of a voxel of the image as it is read.
    """

    native: Shape
    network: Shape
    image_bytes: int = 4


@dataclass(frozen=True)
class Needs:
    """Bytes that a study takes at its peak, beside the process and the model.

    Attributes:
        host: By what they are for.
        device: The same on a GPU; empty where the network is on the CPU.
        preparing: Of the host while the image is prepared.
    """

    host: dict[str, int]
    device: dict[str, int]
    preparing: int

    @property
    def host_bytes(self) -> int:
        """At the peak of the host."""
        return max(sum(self.host.values()), self.preparing)

    @property
    def limited_bytes(self) -> int:
        """At the peak of what ``--memory`` limits: the GPU where there is one, else the host."""
        return sum(self.device.values()) or self.host_bytes


@dataclass(frozen=True)
class Preflight:
    """What is known of a study before it runs.

    Attributes:
        work: Its shapes.
        rung: How it would run.
        tiles: Their number.
        needs: Bytes.
        seconds: Of the network.
        limit_bytes: What it may take: ``--memory``, or what is free; None where nobody says.
    """

    work: Work
    rung: Rung
    tiles: int
    needs: Needs
    seconds: float
    limit_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether it needs no more than it may take."""
        return self.limit_bytes is None or self.needs.limited_bytes <= self.limit_bytes


def network_shape(preprocessing: Preprocessing, native: Grid) -> Shape:
    """Return the shape of an image as the network sees it, were nothing cropped from it.

    Args:
        preprocessing: Complete.
        native: Grid of the image.
    """
    sizes, old = native.shape, native.spacing_mm
    if preprocessing.orientation == "RAS":
        sizes, old = _whole(in_ras(native.orientation, sizes)), in_ras(native.orientation, old)
    sizes, old = _whole([sizes[a] for a in preprocessing.axes]), _triple([old[a] for a in preprocessing.axes])
    new = [o if s == "keep" else float(s) for o, s in zip(old, preprocessing.spacing_mm or old, strict=True)]
    ends = 0 if preprocessing.spline else 1  # a spline keeps the outer faces, else the outer centres stay
    return _whole([round((n - ends) * o / s) + ends for n, o, s in zip(sizes, old, new, strict=True)])


def needs_of(work: Work, package: ModelPackage, rung: Rung, precision: Precision = "auto") -> Needs:
    """Return the bytes that a study takes on a rung.

    Args:
        work: Its shapes.
        package: The model.
        rung: How it runs.
        precision: Of the network.
    """
    channels, outputs = len(package.modalities), package.network.num_classes
    voxels, seen = math.prod(work.native), math.prod(work.network)
    value_bytes = 2 if rung.device.type == "cuda" else 4
    i, j, k = (max(n, t) for n, t in zip(work.network, rung.tile, strict=True))
    step = _longest_step(k, rung.tile[2], package.inference.overlap)
    slab = min(SLAB_BYTES, 4 * outputs * i * j * step)
    labelling = slab + min(slab, _LABELLING_BYTES)
    image = {
        "image": channels * voxels * work.image_bytes,
        "prepared": 4 * seen * (channels + int(package.coarse)),
        "labels": voxels * package.scheme.drawn_values.itemsize,
    }
    sums = {"sums": (value_bytes * outputs + 8) * i * j * min(rung.tile[2], k)}
    network = forward_of(package, rung, precision).peak_bytes
    working = {"network, then slab": max(network, labelling)}
    preparing = image["image"] + 4 * channels * max(2 * voxels, voxels + 2 * seen)
    if rung.device.type == "cpu":
        return Needs(image | sums | working, {}, preparing)
    if rung.accumulate_on.type == "cpu":
        return Needs(image | sums | {"slab": labelling}, {"network": network}, preparing)
    return Needs(image, sums | working, preparing)


def forward_of(package: ModelPackage, rung: Rung, precision: Precision = "auto") -> ForwardCost:
    """Return what one batch of tiles costs a model's networks."""
    sizes = rung.tile[: package.network.spatial_dims]
    return forward_cost(package.network, (rung.batch_size, *sizes), str(rung.device), precision)


def rungs_that_fit(
    steps: Sequence[Rung], package: ModelPackage, shape: Shape, native: Shape, memory_bytes: int
) -> list[Rung]:
    """Return the rungs from the first that fits an amount of memory on.

    Args:
        steps: From `medseg.inference.ladder.rungs`.
        package: The model.
        shape: Of the image as the network sees it.
        native: Of the grid that labels are wanted on.
        memory_bytes: On the device, beside the process and the model.

    Raises:
        OutOfMemoryError: None fits.
    """
    work = Work(native, shape)
    smallest = None
    for place, rung in enumerate(steps):
        needed = needs_of(work, package, rung).limited_bytes
        if needed <= memory_bytes:
            return list(steps[place:])
        smallest = needed if smallest is None else min(smallest, needed)
    raise OutOfMemoryError(
        "--memory",
        expected=f"a study that fits into {memory_bytes / 1e9:.2f} GB",
        found=f"one that needs about {(smallest or 0) / 1e9:.2f} GB at the least",
        remedy="allow more, or segment a part of it with --roi-from",
    )


def preflight(
    work: Work,
    package: ModelPackage,
    steps: Sequence[Rung],
    window: SlidingWindow,
    *,
    networks: int = 1,
    memory_bytes: int | None = None,
    precision: Precision = "auto",
) -> Preflight:
    """Return what a study takes, on the first rung that fits, or on the last.

    Args:
        work: Its shapes.
        package: The model.
        steps: From `medseg.inference.ladder.rungs`.
        window: How tiles overlap and are mirrored.
        networks: Whose logits are averaged.
        memory_bytes: That it may take; what is free on the device if None.
        precision: Of the network.
    """
    limit = memory_bytes if memory_bytes is not None else free_bytes(steps[0].device)
    for rung in steps:
        needs = needs_of(work, package, rung, precision)
        if limit is None or needs.limited_bytes <= limit:
            break
    tiles = tile_count(work.network, rung.tile, window.overlap)
    runs = math.ceil(tiles / rung.batch_size) * 2 ** len(window.mirror_axes) * networks
    flops = forward_of(package, rung, precision).flops * runs
    rate = flops_per_second(str(rung.device), package.network.spatial_dims, precision)
    return Preflight(work, rung, tiles, needs, flops / rate, limit)


@lru_cache
def flops_per_second(device: str, dims: int, precision: Precision = "auto") -> float:
    """Measure the rate of a convolution from 32 to 32 channels on a device, the best of three.

    Args:
        device: Where.
        dims: 2 or 3.
        precision: Of the network.
    """
    size = (_BENCH_SIZE,) * 3 if dims == 3 else (_BENCH_SIZE * 6,) * 2
    target = torch.device(device)
    x = torch.randn(1, _BENCH_CHANNELS, *size, device=target)
    weight = torch.randn(_BENCH_CHANNELS, _BENCH_CHANNELS, *(3,) * dims, device=target)
    convolve = F.conv3d if dims == 3 else F.conv2d
    fastest = math.inf
    with torch.inference_mode(), autocast(precision, target):
        for _ in range(_BENCH_RUNS + 1):  # the first one warms up, and is never the fastest
            start = time.perf_counter()
            convolve(x, weight, padding=1)
            if target.type == "cuda":
                torch.cuda.synchronize(target)
            fastest = min(fastest, time.perf_counter() - start)
    return float(2 * _BENCH_CHANNELS**2 * 3**dims * math.prod(size)) / fastest


def _longest_step(size: int, tile: int, overlap: float) -> int:
    """Return the planes that are finished at once, at most."""
    starts = [*tile_starts(size, tile, overlap), size]
    return int(np.diff(starts).max())


def _whole(values: Sequence[float]) -> Shape:
    i, j, k = (max(1, int(value)) for value in values)
    return i, j, k


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    i, j, k = values
    return i, j, k
