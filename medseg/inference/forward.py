"""What one pass through a network costs, counted on torch's meta device, which keeps shapes and no numbers."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from medseg.device import Precision, memory_format, pick_precision
from medseg.model import NetworkSpec

_HALF = 0.6  # of float32: under autocast some features stay in 32 bits


@dataclass(frozen=True)
class ForwardCost:
    """What one batch of tiles takes.

    Attributes:
        peak_bytes: Of features and logits that are alive at once, the weights left out.
        flops: Of convolutions and matrix products; a multiplication and an addition count as two.
    """

    peak_bytes: int
    flops: int


def forward_cost(spec: NetworkSpec, batch: Sequence[int], device: str, precision: Precision) -> ForwardCost:
    """Count what a network does to a batch of tiles.

    Args:
        spec: The network.
        batch: (B, *tile).
        device: Where it would run.
        precision: In which it would.
    """
    half = pick_precision(precision, torch.device(device)) != "fp32"
    peak, flops = _counted(spec.model_dump_json(), tuple(batch))
    logits = 4 * batch[0] * spec.num_classes * math.prod(batch[1:])
    return ForwardCost(int(peak * (_HALF if half else 1)) + logits, flops)


@lru_cache(maxsize=64)
def _counted(spec_json: str, batch: tuple[int, ...]) -> tuple[int, int]:
    spec = NetworkSpec.model_validate_json(spec_json)
    network = spec.sketch().eval()
    x = torch.empty(batch[0], spec.in_channels * spec.slices, *batch[1:], device="meta")
    alive = _Alive()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, alive:
        network(x.contiguous(memory_format=memory_format(spec.spatial_dims)))
    return alive.peak, int(counter.get_total_flops())


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._tensors: dict[int, int] = {}  # {storage: tensors that share it}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what it made."""
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor, given)
        return out

    def _note(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._tensors:
            if key in given:  # a view of a weight
                return
            self.now += size
            self.peak = max(self.peak, self.now)
        self._tensors[key] = self._tensors.get(key, 0) + 1
        weakref.finalize(tensor, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self.now -= size
