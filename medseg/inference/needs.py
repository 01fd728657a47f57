"""The bytes that a study takes, from shapes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from medseg.data.resample import GridMap
from medseg.device import Precision
from medseg.inference.blocks import block_bytes, window_planes
from medseg.inference.forward import ForwardCost, forward_cost
from medseg.inference.ladder import Rung
from medseg.inference.probabilities import cache_bytes
from medseg.inference.ring import SLAB_BYTES
from medseg.inference.tiles import SlidingWindow, tile_starts
from medseg.model import ModelPackage
from medseg.volume import Grid

_LABELLING_BYTES = 128 << 20  # beside a slab, while it is labelled
_BLOCK_COPIES = 3  # of a block of all classes: on its way there, its logits, its probabilities


@dataclass(frozen=True)
class Work:
    """What is asked for one study.

    Attributes:
        native: Grid of the image, and of the label map.
        network: Grid of the image as the network sees it.
        image_bytes: Of a voxel of the image as it is read.
        probabilities: Whether they are saved.
    """

    native: Grid
    network: Grid
    image_bytes: int = 4
    probabilities: bool = False


@dataclass(frozen=True)
class Method:
    """What runs over a study.

    Attributes:
        package: The model.
        window: How tiles overlap and are mirrored.
        precision: Of the network.
        networks: Whose logits are averaged.
    """

    package: ModelPackage
    window: SlidingWindow
    precision: Precision = "auto"
    networks: int = 1


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

    def or_more(self, other: Needs) -> Needs:
        """Return what two take one after the other: of each place the larger."""
        host, device = (
            max(pair, key=lambda parts: sum(parts.values()))
            for pair in ((self.host, other.host), (self.device, other.device))
        )
        return Needs(host, device, max(self.preparing, other.preparing))


def needs_of(work: Work, method: Method, rung: Rung) -> Needs:
    """Return the bytes that a study takes on a rung.

    Args:
        work: The study.
        method: What runs over it.
        rung: How it runs.
    """
    package = method.package
    channels = len(package.modalities)
    voxels, seen = math.prod(work.native.shape), math.prod(work.network.shape)
    image = {
        "image": channels * voxels * work.image_bytes,
        "prepared": 4 * seen * (channels + int(package.coarse)),
        "labels": voxels * package.scheme.drawn_values.itemsize,
    }
    if work.probabilities:
        image["file of probabilities"] = cache_bytes(package, work.native)
    network = forward_of(method, rung).peak_bytes
    preparing = image["image"] + 4 * channels * max(2 * voxels, voxels + 2 * seen)
    summing = _summing(work, method, rung)
    if rung.device.type != "cpu" and rung.accumulate_on.type == "cpu":
        parts = _with_refinement(work, package, summing, 0)
        return Needs(image | parts, {"network": network}, preparing)
    parts = _with_refinement(work, package, summing, network)
    if rung.device.type == "cpu":
        return Needs(image | parts, {}, preparing)
    return Needs(image, parts, preparing)


def forward_of(method: Method, rung: Rung) -> ForwardCost:
    """Return what one batch of tiles costs a model's networks."""
    network = method.package.network
    sizes = rung.tile[: network.spatial_dims]
    return forward_cost(network, (rung.batch_size, *sizes), str(rung.device), method.precision)


def _summing(work: Work, method: Method, rung: Rung) -> tuple[int, int]:
    """Return the bytes of the sums of logits, and of what becomes of finished planes."""
    outputs = method.package.network.num_classes
    value_bytes = 2 if rung.device.type == "cuda" else 4
    i, j, k = (max(n, t) for n, t in zip(work.network.shape, rung.tile, strict=True))
    sums = (value_bytes * outputs + 8) * i * j * min(rung.tile[2], k)
    starts = [*tile_starts(k, rung.tile[2], method.window.overlap), k]
    step = max(b - a for a, b in pairwise(starts))  # planes that are finished at once
    plane = 4 * outputs * i * j
    slab = min(SLAB_BYTES, plane * step)
    if not work.probabilities:
        return sums, slab + min(slab, _LABELLING_BYTES)
    grids = GridMap(work.network, work.native)
    kept = 2 * plane * min(window_planes(grids) + step, k) if grids.target_axes is None else 0
    return sums, slab + kept + _BLOCK_COPIES * block_bytes(grids, outputs, max(1, slab // plane))


def _with_refinement(work: Work, package: ModelPackage, summing: tuple[int, int], network: int) -> dict[str, int]:
    """Return the bytes of sums, network and finished planes; with a CRF also of the logits of the whole image."""
    sums, finished = summing
    if package.postprocessing.crf is None:
        return {"sums": sums, "network, then slab": max(network, finished)}
    whole = 4 * package.network.num_classes * math.prod(work.network.shape)
    plane = whole // package.network.num_classes  # bytes of one channel
    beside = 8 * plane if package.regions else 3 * whole  # of regions: two channels, four times over
    beside = max(whole, beside + (len(package.modalities) + 3) * plane)
    return {"logits of the whole image": whole, "sums, then CRF": max(beside, finished, sums + network)}
