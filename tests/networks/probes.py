"""What several tests of networks do: build a small one, give it weights that hide nothing, measure what it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks import NETWORKS, build_network

NAMES = tuple(entry.name for entry in NETWORKS)
EIGHTH = 0.125  # of the channels: fast
_MEAN_POOL = {nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}


def small(name: str, dims: int, *, classes: int = 3, channels_in: int = 1, **fields: Any) -> nn.Module:
    """Build a network with an eighth of its channels, the same at every call."""
    torch.manual_seed(0)
    arguments = {"spatial_dims": dims, "in_channels": channels_in, "num_classes": classes}
    return build_network(name, **arguments, **{"width_multiplier": EIGHTH} | fields)


def scrambled(network: nn.Module) -> nn.Module:
    """Draw biases, scales and running statistics, which begin as zeros and ones, and change every kernel in place.

    Returns:
        The network, in eval.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            low, high = (-0.3, 0.3) if name.endswith(("bias", "mean")) else (0.7, 1.4)
            drawn = torch.rand(tensor.shape, generator=generator) * (high - low) + low
            if tensor.ndim > 0:
                tensor.copy_(drawn * tensor if tensor.ndim > 1 else drawn)
    return network.eval()


def transparent(network: nn.Module) -> nn.Module:
    """Replace max pooling by mean pooling, weights by positive ones, biases by zero: no gradient is lost."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) in _MEAN_POOL:
                pool = _MEAN_POOL[type(child)](child.kernel_size, child.stride, child.padding)
                setattr(module, name, pool)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1 / parameter[0].numel() if parameter.ndim > 1 else 0.0)
    return network.double().eval()


def receptive_field(
    features: Callable[[Tensor], Tensor], size: tuple[int, ...], place: tuple[int, ...]
) -> list[int]:
    """Return how many voxels along each axis one place of the features sees, of an image of ones."""
    image = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    features(image)[(0, slice(None), *place)].sum().backward()
    seen = image.grad[0, 0].nonzero()
    return (seen.amax(0) - seen.amin(0) + 1).tolist()
