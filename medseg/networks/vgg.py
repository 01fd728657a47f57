"""The convolutions of VGG16 as a backbone."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.networks.attention import recalibrate
from medseg.networks.backbone import Backbone, Descent
from medseg.networks.blocks import Layers, widen

_CHANNELS = (64, 128, 256, 512, 512)
_UNDILATED = 32
_CONVOLUTIONS = (2, 2, 3, 3, 3)


class VGG16Encoder(nn.Module):
    """Feature maps of VGG16 after each of its five poolings.

    Where dilation takes over from the last strides, pooling is over 3 voxels an axis, as in DeepLab, so that it can
    keep the size. The names of its weights are those of torchvision's ``vgg16``, with batch normalisation those of
    ``vgg16_bn``.

    Args:
        layers: The network's.
        spec: Its output stride and the like.

    Source: Simonyan & Zisserman 2015 (arXiv:1409.1556), configuration D; Chen et al. 2015 (arXiv:1412.7062).
    """

    def __init__(self, layers: Layers, spec: Backbone) -> None:
        super().__init__()
        self.name = spec.name
        self.channels = widen(_CHANNELS, spec.width_multiplier)
        way = Descent(layers.dims, spec)
        padded = spec.output_stride != _UNDILATED
        modules: list[nn.Module] = []
        ends, kernels, strides = [], [], []
        inputs = spec.in_channels
        for outputs, count in zip(self.channels, _CONVOLUTIONS, strict=True):
            for _ in range(count):
                modules.append(layers.conv(inputs, outputs, way.kernel(), dilation=way.dilation))
                modules += [] if layers.norm == "none" else [layers.make_norm(outputs)]
                modules.append(layers.make_act())
                inputs = outputs
            pooled = way.kernel(3 if padded else 2)
            modules.append(layers.max_pool(pooled, way.halve(), padded=padded))
            ends.append(len(modules))
            kernels.append(way.kernel())
            strides.append(way.stride)
        self.features = nn.Sequential(*modules)
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        self.attention = nn.ModuleList(
            recalibrate(spec.attention, layers, n, kernel)
            for n, kernel in zip(self.channels, self.kernels, strict=True)
        )
        self._stages = [slice(start, end) for start, end in zip((0, *ends[:-1]), ends, strict=True)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the five feature maps of images (B, C, *spatial)."""
        features: list[Tensor] = []
        for stage, attend in zip(self._stages, self.attention, strict=True):
            x = attend(self.features[stage](x))
            features.append(x)
        return features

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image on."""
        return [[self.features[stage], attend] for stage, attend in zip(self._stages, self.attention, strict=True)]
