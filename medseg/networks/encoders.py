"""Backbones by name."""

from __future__ import annotations

from medseg.errors import UsageError
from medseg.networks.backbone import Backbone, Encoder
from medseg.networks.blocks import Layers
from medseg.networks.resnet import ResNetEncoder
from medseg.networks.vgg import VGG16Encoder
from medseg.networks.xception import XceptionEncoder


def make_encoder(layers: Layers, spec: Backbone) -> Encoder:
    """Build a backbone.

    Raises:
        UsageError: A number is not one that it can have.
    """
    if not spec.multi_grid or min(spec.multi_grid) < 1:
        raise UsageError(
            "network.multi_grid", expected="positive numbers", found=str(list(spec.multi_grid)), remedy="correct it"
        )
    if spec.name == "vgg16":
        return VGG16Encoder(layers, spec)
    if spec.name == "xception65":
        return XceptionEncoder(layers, spec)
    return ResNetEncoder(layers, spec)
