"""ResNet backbones: MONAI's, with dilation, any normalisation and thick axes."""

from __future__ import annotations

from typing import Any

from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.networks.attention import recalibrate
from medseg.networks.backbone import Backbone, Descent, refit
from medseg.networks.blocks import Layers, Sizes, widen

_STRUCTURE = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
_PLANES = (64, 128, 256, 512)


class ResNetEncoder(nn.Module):
    """Feature maps of a ResNet: stem and layer 1 at stride 4, layers 2, 3, 4 at 8, 16, 32 or the output stride.

    The names of its weights are torchvision's.

    Args:
        layers: The network's.
        spec: Which ResNet, and how.

    Source: He et al. 2016 (arXiv:1512.03385); stride in the 3x3 convolution of a bottleneck.
    """

    def __init__(self, layers: Layers, spec: Backbone) -> None:
        super().__init__()
        self.name = spec.name
        block, counts = _STRUCTURE[spec.name]
        planes = widen(_PLANES, spec.width_multiplier)
        way = Descent(layers.dims, spec)
        self.body: Any = ResNet(
            block=block,
            layers=list(counts),
            block_inplanes=list(planes),
            spatial_dims=layers.dims,
            n_input_channels=spec.in_channels,
            conv1_t_size=way.kernel(7),
            conv1_t_stride=way.halve(),
            bias_downsample=False,
            feed_forward=False,
        )
        self.body.maxpool = layers.max_pool(way.kernel(), way.halve(), padded=True)
        kernels, strides = [way.kernel()], [way.stride]
        for number in (1, 2, 3, 4):
            _fit_layer(self.body.get_submodule(f"layer{number}"), number, layers, spec, way)
            kernels.append(way.kernel())
            strides.append(way.stride)
        refit(self.body, layers)
        expansion = 4 if block == "bottleneck" else 1
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        self.channels: Sizes = (planes[0], *(expansion * n for n in planes))
        self.attention = nn.ModuleList(
            recalibrate(spec.attention, layers, n, kernel)
            for n, kernel in zip(self.channels, self.kernels, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the five feature maps of images (B, C, *spatial)."""
        body = self.body
        stem = nn.Sequential(body.conv1, body.bn1, body.act, body.maxpool)
        features: list[Tensor] = []
        for stage, attend in zip(
            (stem, body.layer1, body.layer2, body.layer3, body.layer4), self.attention, strict=True
        ):
            x = attend(stage(x))
            features.append(x)
        return features

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image on."""
        body = self.body
        stages = [body.conv1, body.bn1, body.act], [body.layer1], [body.layer2], [body.layer3], [body.layer4]
        return [[*stage, attend] for stage, attend in zip(stages, self.attention, strict=True)]


class PaddedShortcut(nn.Module):
    """Shortcut A: every stride-th voxel, further channels at zero."""

    def __init__(self, stride: Sizes, channels: int) -> None:
        super().__init__()
        self.stride, self.channels = stride, channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *spatial) to (B, channels, *spatial / stride)."""
        x = x[(slice(None), slice(None), *(slice(None, None, step) for step in self.stride))]
        return F.pad(x, (0, 0) * len(self.stride) + (0, self.channels - x.shape[1]))


def _fit_layer(layer: nn.Module, number: int, layers: Layers, spec: Backbone, way: Descent) -> None:
    """Give the convolutions of one of the four layers their strides, dilations and kernels."""
    entry, before = way.kernel(), way.dilation
    step = way.halve() if number > 1 else layers.sizes(1)
    for index, block in enumerate(layer.children()):
        grid = spec.grid(index) if number == 4 else 1
        first = index == 0
        strided = "conv2" if hasattr(block, "conv3") else "conv1"
        for name in ("conv1", "conv2"):
            conv: Any = block.get_submodule(name)
            if max(conv.kernel_size) == 1:
                continue
            here = first and name == strided  # the convolution that has, or would have, the stride
            dilation = before if here and spec.first_block_dilation == "prev" else way.dilation
            fitted = layers.conv(
                conv.in_channels,
                conv.out_channels,
                entry if here else way.kernel(),
                stride=step if here else layers.sizes(1),
                dilation=grid * dilation,
                bias=False,
            )
            setattr(block, name, fitted)
        if first:
            _fit_shortcut(block, layers, spec, step)


def _fit_shortcut(block: Any, layers: Layers, spec: Backbone, step: Sizes) -> None:
    if block.downsample is None:
        return
    conv = block.downsample[0]
    if spec.shortcut == "A":
        block.downsample = PaddedShortcut(step, conv.out_channels)
    else:
        block.downsample[0] = layers.conv(conv.in_channels, conv.out_channels, 1, stride=step, bias=False)
