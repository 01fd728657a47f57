"""The modified aligned Xception of DeepLab as a backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.networks.attention import recalibrate
from medseg.networks.backbone import Backbone, Descent
from medseg.networks.blocks import Layers, Sizes, widen

_ENTRY = (32, 64, 128, 256, 728)
_EXIT = (728, 1024, 1536, 2048)
_MIDDLE_BLOCKS = 16
_BATCH_NORM_EPS = 1e-3


class XceptionEncoder(nn.Module):
    """Feature maps of Xception-65: stem, inside block 2, after blocks 2, 20 and 21.

    Args:
        layers: The network's.
        spec: Its output stride and the like.

    Source: Chollet 2017 (arXiv:1610.02357); modified by Chen et al. 2018 (arXiv:1802.02611), figure 4.
    """

    def __init__(self, layers: Layers, spec: Backbone) -> None:
        super().__init__()
        self.name = spec.name
        stem, entry, one, two, three = widen(_ENTRY, spec.width_multiplier)
        exits = widen(_EXIT, spec.width_multiplier)
        way = Descent(layers.dims, spec)
        bias = layers.norm == "none"
        self.stem = nn.Sequential(
            layers.unit(spec.in_channels, stem, way.kernel(), stride=way.halve(), bias=bias),
            layers.unit(stem, entry, way.kernel(), bias=bias),
        )
        kernels, strides = [way.kernel()], [way.stride]

        def block(inputs: int, outputs: Sequence[int], *, halve: bool = True) -> XceptionBlock:
            kernel, dilation = way.kernel(), (way.dilation,) * 3
            return XceptionBlock(
                layers, inputs, outputs, kernel, dilations=dilation, stride=way.halve() if halve else None
            )

        self.block1 = block(entry, (one,) * 3)
        kernels.append(way.kernel())
        strides.append(way.stride)
        self.block2 = block(one, (two,) * 3)
        kernels.append(way.kernel())
        strides.append(way.stride)
        self.block3 = block(two, (three,) * 3)
        self.middle = nn.Sequential(*(block(three, (three,) * 3, halve=False) for _ in range(_MIDDLE_BLOCKS)))
        kernels.append(way.kernel())
        strides.append(way.stride)
        self.block20 = block(three, (exits[0], exits[1], exits[1]))
        self.block21 = nn.Sequential(
            *(
                layers.separable(i, o, way.kernel(), dilation=way.dilation * spec.grid(n))
                for n, (i, o) in enumerate(((exits[1], exits[2]), (exits[2], exits[2]), (exits[2], exits[3])))
            )
        )
        self.kernels, self.strides = (*kernels, way.kernel()), (*strides, way.stride)
        self.channels: Sizes = (entry, two, two, three, exits[3])
        self.attention = nn.ModuleList(
            recalibrate(spec.attention, layers, self.channels[n], self.kernels[n])
            for n in (0, 2, 3, 4)  # the second map leaves the main path before its block ends
        )
        _use_eps(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the five feature maps of images (B, C, *spatial)."""
        stem = self.attention[0](self.stem(x))
        low, x = self.block2.low_and_output(self.block1(stem))
        second = self.attention[1](x)
        middle = self.attention[2](self.middle(self.block3(second)))
        last = self.attention[3](self.block21(self.block20(middle)))
        return [stem, low, second, middle, last]

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image on."""
        first, second, third, last = self.attention
        return [
            [self.stem, first],
            [self.block1, self.block2, second],
            [self.block3, self.middle, third],
            [self.block20, self.block21, last],
        ]


class XceptionBlock(nn.Module):
    """Three activations each followed by a separable convolution, and a shortcut past them.

    Args:
        layers: The network's.
        inputs: Channels in.
        outputs: Channels after each convolution.
        kernel: Of the depthwise convolutions.
        dilations: Of the depthwise convolutions.
        stride: Of the third one and of the shortcut, which is projected; None where the shortcut is the identity.
    """

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: Sequence[int],
        kernel: Sizes,
        *,
        dilations: Sequence[int],
        stride: Sizes | None,
    ) -> None:
        super().__init__()
        bias = layers.norm == "none"
        steps = (1, 1, 1 if stride is None else stride)

        def separable(number: int, i: int, o: int) -> nn.Sequential:
            return nn.Sequential(
                layers.conv(i, i, kernel, stride=steps[number], dilation=dilations[number], groups=i, bias=bias),
                layers.make_norm(i),
                layers.conv(i, o, 1, bias=bias),
                layers.make_norm(o),
            )

        widths = (inputs, *outputs)
        self.convs = nn.ModuleList(separable(n, widths[n], widths[n + 1]) for n in range(3))
        self.acts = nn.ModuleList(layers.make_act(inplace=False) for _ in range(3))
        self.shortcut = (
            nn.Identity()
            if stride is None
            else nn.Sequential(
                layers.conv(inputs, outputs[-1], 1, stride=stride, bias=bias), layers.make_norm(outputs[-1])
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *spatial) to (B, outputs, *spatial / stride)."""
        return self.low_and_output(x)[1]

    def low_and_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what leaves the second convolution, before the stride, and the output."""
        y = self.convs[0](self.acts[0](x))  # not in place: the shortcut needs x as it is
        low: Tensor = self.convs[1](self.acts[1](y))
        return low, self.convs[2](self.acts[2](low)) + self.shortcut(x)


def _use_eps(module: nn.Module) -> None:
    """Give batch normalisations the epsilon that DeepLab's weights were trained with."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            layer.eps = _BATCH_NORM_EPS
