"""The memory of a training step, estimated: what the network keeps for its backward pass, without computing it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.config import ExperimentConfig

_COPIES = 5  # of the weights in float32: themselves, gradients, two moments, running mean
_HALF = 0.55  # of float32, under autocast
_LOGITS_BYTES = 16  # of a logit: float32, its gradient and what the loss keeps
_LARGEST_TWICE = 2


def estimate_bytes(config: ExperimentConfig, channels: int, classes: int, *, half: bool) -> int:
    """Return the bytes that one training step takes beside its process, to within a factor of about 1.5.

    The network runs on torch's meta device, which keeps shapes and no numbers; the tensors that autograd would keep
    are counted.

    Args:
        config: Complete.
        channels: Image channels, without flags.
        classes: Output channels.
        half: Under autocast to 16 bits.
    """
    network = config.network_spec(channels, classes, spacing_mm=config.spacing_mm).sketch()
    at_once = config.training.batch_size // config.training.accumulate
    slices = int(getattr(config.network, "slices", 1))
    seen = config.preprocessing.network_channels(channels) * slices
    x = torch.empty(at_once, seen, *config.training.patch_size, device="meta")
    kept, largest = _kept_bytes(network, x)
    weights = 4 * sum(p.numel() for p in network.parameters())
    logits = _LOGITS_BYTES * classes * x[:, 0].numel()
    features = (kept + _LARGEST_TWICE * largest) * (_HALF if half else 1)
    return int(_COPIES * weights + features + logits)


def _kept_bytes(network: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return the bytes of all tensors kept for the backward pass, and those of the largest one."""
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # or another tensor might take its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()
        network(x)
    return sum(sizes.values()), max(sizes.values(), default=0)
