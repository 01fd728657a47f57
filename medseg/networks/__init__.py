"""Networks by name. Input (B, C, *spatial), output logits (B, K, *spatial) of the same size for any size.

Each has ``multiple``: the number of voxels along each axis that become one where it is coarsest.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medseg.networks.unet import UNet
from medseg.registry import Registry

NETWORKS: Registry[nn.Module] = Registry(
    "network",
    {
        "unet": (UNet, "Ronneberger et al. 2015, arXiv:1505.04597; Çiçek et al. 2016, arXiv:1606.06650"),
    },
)


def build_network(name: str, *, spatial_dims: int, in_channels: int, num_classes: int, **fields: Any) -> nn.Module:
    """Build a network by its name.

    Args:
        name: A name of `NETWORKS`.
        spatial_dims: 2 or 3.
        in_channels: Image channels C.
        num_classes: Output channels K, background included.
        fields: The network's own arguments; see ``medseg list``.

    Raises:
        UsageError: There is no such network, or its fields do not fit together.
    """
    return NETWORKS.build(
        name, spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes, **fields
    )
