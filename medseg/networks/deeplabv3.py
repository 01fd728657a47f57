"""DeepLab v3 and v3+: atrous spatial pyramid pooling with image features; v3+ has a decoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medseg.networks.aspp import ASPP, Rates, resolve_rates
from medseg.networks.attention import Attention, make_gate, refuse_gate
from medseg.networks.backbone import LOW, Backbone, BackboneName, Encoder, FirstBlockDilation, Shortcut
from medseg.networks.blocks import Act, Dims, Layers, Norm, Sizes, check_dropout, init_he, widen
from medseg.networks.encoders import make_encoder

_CHANNELS = 256
_LOW_CHANNELS = 48
_PAPER_SIZE = 33  # places of the feature map of a 513 pixel crop at stride 16
_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
_MULTI_GRID = (1, 2, 4)

OutputStride = Literal[8, 16]


class DeepLabV3(nn.Module):
    """A dilated backbone, ASPP with normalisation and image pooling, one more convolution, scores.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        backbone: ``resnet50`` or another.
        output_stride: Voxels along each axis that become one place of the feature map.
        multi_grid: Dilation of the last stage's blocks, times that of the stage; by default 1, 2, 4 for ResNets, as
            published, and 1 for others.
        first_block_dilation: Of a ResNet's dilated stages: the dilation before (``prev``) or its own (``full``).
        shortcut: Of a ResNet: B projects, A pads with zeros.
        rates: Dilation of each branch: 6, 12, 18 as the paper (doubled at output stride 8), numbers, or ``auto``:
            fitted to the patch.
        patch_size: Voxels that the network is trained on; a config fills it in.
        norm: Normalisation of every layer.
        act: Activation.
        dropout: Probability of dropping a channel after the ASPP, while training.
        attention: ``se`` or ``cbam`` recalibrates each feature map.
        width_multiplier: Of all channels.
        spacing_mm: Of the input, one number an axis: an axis is thick while its spacing is over twice the smallest.
            A config fills it in from its preprocessing.

    Raises:
        UsageError: A field is out of its range.

    Source: Chen et al. 2017 (arXiv:1706.05587).
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Dims,
        in_channels: int,
        num_classes: int,
        *,
        backbone: BackboneName = "resnet50",
        output_stride: OutputStride = 16,
        multi_grid: tuple[int, ...] | None = None,
        first_block_dilation: FirstBlockDilation = "full",
        shortcut: Shortcut = "B",
        rates: Rates = "paper",
        patch_size: Sizes | None = None,
        norm: Norm = "batch",
        act: Act = "relu",
        dropout: float = 0.5,
        attention: Attention = "none",
        width_multiplier: float = 1.0,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        refuse_gate(attention, "deeplabv3")
        self.layers, self.norm = Layers(spatial_dims, norm, act), norm
        spec = Backbone(
            backbone,
            in_channels,
            output_stride=output_stride,
            multi_grid=_grid(multi_grid, backbone),
            first_block_dilation=first_block_dilation,
            shortcut=shortcut,
            attention=attention,
            width_multiplier=width_multiplier,
            spacing_mm=spacing_mm,
        )
        self.encoder = make_encoder(self.layers, spec)
        self.multiple = self.encoder.strides[-1]
        (channels,) = widen([_CHANNELS], width_multiplier)
        found = _rates(rates, output_stride, patch_size, self.encoder)
        self.aspp = ASPP(
            self.layers,
            self.encoder.channels[-1],
            channels,
            found,
            kernel=self.encoder.kernels[-1],
            separable=False,
            dropout=dropout,
        )
        self.head = nn.Sequential(
            self.layers.unit(channels, channels, self.encoder.kernels[-1]),
            self.layers.conv(channels, num_classes, 1),
        )
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        return self.layers.resize(self.head(self.aspp(self.encoder(x)[-1])), x.shape[2:])

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image to the logits; the last one counts the classes."""
        return [*self.encoder.parts(), [self.aspp], [self.head[:-1]], [self.head[-1]]]


class DeepLabV3Plus(nn.Module):
    """DeepLab v3 as an encoder, and a decoder that adds the features at stride 4.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        backbone: ``resnet50``, ``xception65`` or another.
        output_stride: Voxels along each axis that become one place of the feature map.
        multi_grid: Dilation of the last stage's blocks, times that of the stage; by default 1, 2, 4 for ResNets, as
            published, and 1 for others.
        first_block_dilation: Of a ResNet's dilated stages: the dilation before (``prev``) or its own (``full``).
        shortcut: Of a ResNet: B projects, A pads with zeros.
        separable: Whether the atrous branches and the decoder's convolutions are depthwise separable.
        rates: Dilation of each branch: 6, 12, 18 as the paper (doubled at output stride 8), numbers, or ``auto``:
            fitted to the patch.
        patch_size: Voxels that the network is trained on; a config fills it in.
        norm: Normalisation of every layer.
        act: Activation.
        dropout: Probability of dropping a channel after the ASPP, while training.
        attention: A gate on the features at stride 4 (``gate``), or recalibration of each feature map (``se``,
            ``cbam``).
        width_multiplier: Of all channels.
        spacing_mm: Of the input, one number an axis: an axis is thick while its spacing is over twice the smallest.
            A config fills it in from its preprocessing.

    Raises:
        UsageError: A field is out of its range.

    Source: Chen et al. 2018 (arXiv:1802.02611).
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Dims,
        in_channels: int,
        num_classes: int,
        *,
        backbone: BackboneName = "resnet50",
        output_stride: OutputStride = 16,
        multi_grid: tuple[int, ...] | None = None,
        first_block_dilation: FirstBlockDilation = "full",
        shortcut: Shortcut = "B",
        separable: bool = True,
        rates: Rates = "paper",
        patch_size: Sizes | None = None,
        norm: Norm = "batch",
        act: Act = "relu",
        dropout: float = 0.5,
        attention: Attention = "none",
        width_multiplier: float = 1.0,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        layers = self.layers = Layers(spatial_dims, norm, act)
        self.norm = norm
        spec = Backbone(
            backbone,
            in_channels,
            output_stride=output_stride,
            multi_grid=_grid(multi_grid, backbone),
            first_block_dilation=first_block_dilation,
            shortcut=shortcut,
            attention=attention,
            width_multiplier=width_multiplier,
            spacing_mm=spacing_mm,
        )
        self.encoder = make_encoder(layers, spec)
        self.multiple = self.encoder.strides[-1]
        channels, low = widen([_CHANNELS, _LOW_CHANNELS], width_multiplier)
        found = _rates(rates, output_stride, patch_size, self.encoder)
        self.aspp = ASPP(
            layers,
            self.encoder.channels[-1],
            channels,
            found,
            kernel=self.encoder.kernels[-1],
            separable=separable,
            dropout=dropout,
        )
        self.gate = make_gate(attention, layers, self.encoder.channels[LOW], channels)
        self.low = layers.unit(self.encoder.channels[LOW], low, 1)
        unit = layers.separable if separable else layers.unit
        self.decoder = nn.Sequential(
            unit(channels + low, channels, self.encoder.kernels[LOW]),
            unit(channels, channels, self.encoder.kernels[LOW]),
            layers.conv(channels, num_classes, 1),
        )
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        features = self.encoder(x)
        low = features[LOW]
        deep = self.layers.resize(self.aspp(features[-1]), low.shape[2:])
        both = torch.cat((deep, self.low(self.gate(low, deep))), dim=1)
        return self.layers.resize(self.decoder(both), x.shape[2:])

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image to the logits; the last one counts the classes."""
        joined: list[nn.Module] = [self.gate, self.low, self.decoder[:-1]]
        return [*self.encoder.parts(), [self.aspp], joined, [self.decoder[-1]]]


def _grid(multi_grid: tuple[int, ...] | None, backbone: BackboneName) -> tuple[int, ...] | None:
    return _MULTI_GRID if multi_grid is None and backbone.startswith("resnet") else multi_grid


def _rates(
    rates: Rates, output_stride: OutputStride, patch_size: Sizes | None, encoder: Encoder
) -> tuple[Sizes, ...]:
    return resolve_rates(
        rates,
        paper=_RATES[output_stride],
        paper_size=_PAPER_SIZE if output_stride == 16 else 2 * _PAPER_SIZE,
        patch_size=patch_size,
        stride=encoder.strides[-1],
        kernel=encoder.kernels[-1],
    )
