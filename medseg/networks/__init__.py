"""Networks by name. Input (B, C, *spatial), output logits (B, K, *spatial) of the same size for any size.

With deep supervision, while training, a network returns a list of logits, the finest first.

Each has ``multiple``: the number of voxels along each axis that become one where it is coarsest; ``norm``: its
normalisation; ``encoder``: what pretrained weights are for; and ``parts()``: its modules from the image to the
logits, the head last.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medseg.errors import UsageError
from medseg.networks.deeplab import DeepLabV1, DeepLabV2
from medseg.networks.deeplabv3 import DeepLabV3, DeepLabV3Plus
from medseg.networks.fcn import FCN
from medseg.networks.resunet import ResUNet
from medseg.networks.unet import UNet
from medseg.networks.weights import Pretrained, load_pretrained
from medseg.registry import Registry


def build_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    num_classes: int,
    slices: int = 1,
    weights: Pretrained = None,
    **fields: Any,
) -> nn.Module:
    """Build a network by its name.

    Args:
        name: A name of `NETWORKS`.
        spatial_dims: 2 or 3.
        in_channels: Image channels C.
        num_classes: Output channels K, background included.
        slices: Of a 2-D network: how many neighbouring slices it sees, as channels (2.5-D); odd. Its input has
            C x slices channels.
        weights: Of the encoder: ``imagenet``, ``medicalnet``, or {file, sha256}; see `medseg.networks.weights`.
        fields: The network's own arguments; see ``medseg list networks``.

    Raises:
        UsageError: There is no such network, or its fields do not fit together.
        ModelError: The weights are not there, are damaged or do not fit.
    """
    if spatial_dims not in (2, 3) or min(in_channels, num_classes) < 1:
        raise UsageError(
            "network",
            expected="spatial_dims of 2 or 3, and at least one channel and one class",
            found=f"{spatial_dims}, {in_channels} and {num_classes}",
            remedy="correct it",
        )
    if slices < 1 or slices % 2 == 0 or (slices > 1 and spatial_dims != 2):
        raise UsageError(
            "network.slices",
            expected="an odd number for a 2-D network, 1 for a 3-D one",
            found=f"{slices} for a {spatial_dims}-D one",
            remedy="correct it",
        )
    network = NETWORKS.build(
        name, spatial_dims=spatial_dims, in_channels=in_channels * slices, num_classes=num_classes, **fields
    )
    if weights is not None:
        load_pretrained(network, weights)
    return network


_FCN = "Long et al. 2015, arXiv:1411.4038"

NETWORKS: Registry[nn.Module] = Registry(
    "network",
    {
        "fcn32s": (FCN, _FCN, {"finest": 32}),
        "fcn16s": (FCN, _FCN, {"finest": 16}),
        "fcn8s": (FCN, _FCN, {"finest": 8}),
        "unet": (UNet, "Ronneberger et al. 2015, arXiv:1505.04597; Çiçek et al. 2016, arXiv:1606.06650"),
        "attention_unet": (UNet, "Oktay et al. 2018, arXiv:1804.03999", {"attention": "gate"}),
        "resunet": (ResUNet, "Isensee et al. 2024, arXiv:2404.09556"),
        "deeplabv1": (DeepLabV1, "Chen et al. 2015, arXiv:1412.7062"),
        "deeplabv2": (DeepLabV2, "Chen et al. 2018, arXiv:1606.00915"),
        "deeplabv3": (DeepLabV3, "Chen et al. 2017, arXiv:1706.05587"),
        "deeplabv3plus": (DeepLabV3Plus, "Chen et al. 2018, arXiv:1802.02611"),
    },
    shared=build_network,
)
