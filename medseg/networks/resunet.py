"""The U-Net with a residual encoder, as nnU-Net builds it."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.networks.attention import Attention, recalibrate
from medseg.networks.blocks import (
    Act,
    Dims,
    Layers,
    Norm,
    Sizes,
    check_dropout,
    init_he,
    pad_to_multiple,
)
from medseg.networks.decoder import Decoder, Logits, crop_logits
from medseg.networks.stages import Stages, make_stages

_CHANNELS = (32, 64, 128, 256, 320, 320)
_BLOCKS = (1, 3, 4, 6, 6, 6)


class ResUNet(nn.Module):
    """U-Net whose encoder stages are residual blocks and whose decoder has one convolution a stage.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        channels: Feature channels of each stage, the finest first; its length is the depth.
        blocks: Residual blocks of each encoder stage.
        decoder_units: Convolutions of every decoder stage, or of each one, the finest first.
        norm: Normalisation of every unit.
        act: Activation of every unit.
        kernel_sizes: Kernel of each stage, one number an axis; by default 3, and 1 along thick axes.
        strides: From stage to stage, one number an axis; by default 2, and 1 along thick axes.
        deep_supervision: While training, return logits of every decoder stage, the finest first.
        dropout: Probability of dropping a channel of the two deepest stages, while training.
        attention: Gates on the skips (``gate``), or recalibration after each encoder stage (``se``, ``cbam``).
        width_multiplier: Of all channels.
        spacing_mm: Of the input, one number an axis: an axis is thick while its spacing is over twice the smallest.
            A config fills it in from its preprocessing.

    Raises:
        UsageError: The lists do not have one entry a stage (channels, blocks, kernels) or between two stages
            (strides), a kernel is even, or the dropout is no probability below 1.

    Source: He et al. 2016 (arXiv:1512.03385); Isensee et al. 2024 (arXiv:2404.09556), "ResEnc".
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Dims,
        in_channels: int,
        num_classes: int,
        *,
        channels: Sizes = _CHANNELS,
        blocks: Sizes = _BLOCKS,
        decoder_units: int | Sizes = 1,
        norm: Norm = "instance",
        act: Act = "leaky_relu",
        kernel_sizes: tuple[Sizes, ...] | None = None,
        strides: tuple[Sizes, ...] | None = None,
        deep_supervision: bool = False,
        dropout: float = 0.0,
        attention: Attention = "none",
        width_multiplier: float = 1.0,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if len(blocks) != len(channels) or min(blocks) < 1:
            raise UsageError(
                "network.blocks",
                expected=f"one positive number for each of {len(channels)} stages",
                found=str(list(blocks)),
                remedy="correct it",
            )
        layers = Layers(spatial_dims, norm, act)
        self.stages = make_stages(
            spatial_dims,
            channels,
            width_multiplier=width_multiplier,
            kernel_sizes=kernel_sizes,
            strides=strides,
            spacing_mm=spacing_mm,
        )
        self.multiple, self.norm = self.stages.multiple, norm
        self.encoder = ResidualEncoder(
            layers, self.stages, in_channels, blocks=blocks, dropout=dropout, attention=attention
        )
        self.decoder = Decoder(
            layers,
            self.stages,
            num_classes,
            units=decoder_units,
            attention=attention,
            deep_supervision=deep_supervision,
            bias=True,
        )
        init_he(self)

    def forward(self, x: Tensor) -> Logits:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        logits = self.decoder(self.encoder(pad_to_multiple(x, self.multiple)))
        return crop_logits(logits, x.shape[2:], self.stages)

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image to the logits; the last one counts the classes."""
        return [*self.encoder.parts(), *self.decoder.parts()]


class ResidualEncoder(nn.Module):
    """A convolution, then stages of residual blocks; the first block of a stage has its stride.

    Args:
        layers: The network's.
        stages: Channels, kernels, strides.
        in_channels: Image channels.
        blocks: Of each stage.
        dropout: After the two deepest stages.
        attention: Recalibration after each stage.
    """

    def __init__(
        self,
        layers: Layers,
        stages: Stages,
        in_channels: int,
        *,
        blocks: Sizes,
        dropout: float,
        attention: Attention,
    ) -> None:
        super().__init__()
        channels, kernels = stages.channels, stages.kernels
        self.stem = layers.unit(in_channels, channels[0], kernels[0], bias=True)
        steps = (layers.sizes(1), *stages.strides)

        def stage(level: int, inputs: int) -> nn.Sequential:
            outputs = channels[level]
            first = ResidualBlock(layers, inputs, outputs, kernels[level], steps[level])
            others = [
                ResidualBlock(layers, outputs, outputs, kernels[level], layers.sizes(1))
                for _ in range(blocks[level] - 1)
            ]
            drop = layers.make_dropout(dropout if level >= len(channels) - 2 else 0.0)
            return nn.Sequential(first, *others, drop, recalibrate(attention, layers, outputs, kernels[level]))

        self.stages = nn.ModuleList(
            stage(level, inputs) for level, inputs in enumerate((channels[0], *channels[:-1]))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of each stage, (B, channels, *spatial / stride), the finest first."""
        x = self.stem(x)
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image on."""
        first, *others = self.stages
        return [[self.stem, first], *([stage] for stage in others)]


class ResidualBlock(nn.Module):
    """Two convolutions, and a shortcut past them: averaged where there is a stride, projected to other channels.

    Source: He et al. 2019 (arXiv:1812.01187), "ResNet-D".
    """

    def __init__(self, layers: Layers, inputs: int, outputs: int, kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        self.first = layers.unit(inputs, outputs, kernel, stride=stride, bias=True)
        self.second = nn.Sequential(layers.conv(outputs, outputs, kernel), layers.make_norm(outputs))
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            shortcut.append(layers.mean_pool(stride, stride))
        if inputs != outputs:
            shortcut += [layers.conv(inputs, outputs, 1, bias=False), layers.make_norm(outputs)]
        self.shortcut = nn.Sequential(*shortcut)
        self.act = layers.make_act()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *spatial) to (B, outputs, *spatial / stride)."""
        y: Tensor = self.act(self.second(self.first(x)) + self.shortcut(x))
        return y
