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
    resnet = spec.name.startswith("resnet")
    for field, right, expected in (
        ("multi_grid", spec.multi_grid is None or min(spec.multi_grid, default=0) > 0, "positive numbers"),
        (
            "multi_grid",
            spec.multi_grid is None or spec.name != "vgg16",
            "none for VGG16, whose last stage is plain",
        ),
        ("shortcut", resnet or spec.shortcut == "B", f"B: {spec.name} has no shortcuts of kind A"),
    ):
        if not right:
            found = str(getattr(spec, field))
            raise UsageError(
                f"network.{field}", expected=expected, found=found, remedy="correct it, or leave it out"
            )
    if spec.name == "vgg16":
        return VGG16Encoder(layers, spec)
    if spec.name == "xception65":
        return XceptionEncoder(layers, spec)
    return ResNetEncoder(layers, spec)
