"""Fully convolutional networks: scores at strides 32, 16 and 8, upsampled by transposed convolutions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.networks.attention import Attention, make_gate, refuse_gate
from medseg.networks.backbone import Backbone, BackboneName, Shortcut
from medseg.networks.blocks import (
    Act,
    Dims,
    Layers,
    Norm,
    Sizes,
    check_dropout,
    crop_to,
    init_he,
    pad_to_multiple,
    widen,
)
from medseg.networks.encoders import make_encoder

_FC_CHANNELS = 4096
_TRANSPOSE = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


class FCN(nn.Module):
    """Scores of an encoder's coarsest features, refined by those of finer ones.

    Input of any size: it is padded inside to a multiple of the coarsest stride, and the output is cropped back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        finest: 32, 16 or 8: the stride of the finest features that are scored.
        backbone: By default VGG16, with its first two fully connected layers as convolutions, in 2-D, and ResNet-18
            in 3-D, where these layers would have 700 million weights.
        upsampling: Transposed convolutions that start as linear interpolation and are learned, or stay ``fixed``.
        shortcut: Of a ResNet: B projects, A pads with zeros.
        norm: Normalisation of the backbone; by default none for VGG16 and batch for the others, as published.
        act: Activation of the backbone.
        dropout: Probability of dropping a channel before the scores, while training.
        attention: Gates on the finer features (``gate``), or recalibration of the feature maps (``se``, ``cbam``).
        width_multiplier: Of all channels.
        spacing_mm: Of the input, one number an axis: an axis is thick while its spacing is over twice the smallest.
            A config fills it in from its preprocessing.

    Raises:
        UsageError: A field is out of its range, or gates are asked for where there is one score.

    Source: Long, Shelhamer, Darrell 2015 (arXiv:1411.4038); Shelhamer et al. 2017 (arXiv:1605.06211). The borders
    are those of padded convolutions, where the original pads the image by 100 pixels.
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Dims,
        in_channels: int,
        num_classes: int,
        finest: Literal[32, 16, 8],
        *,
        backbone: BackboneName | None = None,
        upsampling: Literal["learned", "fixed"] = "learned",
        shortcut: Shortcut = "B",
        norm: Norm | None = None,
        act: Act = "relu",
        dropout: float = 0.5,
        attention: Attention = "none",
        width_multiplier: float = 1.0,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if finest == 32:
            refuse_gate(attention, "fcn32s")
        name = backbone or ("vgg16" if spatial_dims == 2 else "resnet18")
        self.norm: Norm = norm or ("none" if name == "vgg16" else "batch")
        layers = Layers(spatial_dims, self.norm, act)
        spec = Backbone(
            name,
            in_channels,
            shortcut=shortcut,
            attention=attention,
            width_multiplier=width_multiplier,
            spacing_mm=spacing_mm,
        )
        self.encoder = make_encoder(layers, spec)
        self.multiple = self.encoder.strides[-1]
        scored = {32: 1, 16: 2, 8: 3}[finest]
        channels = list(self.encoder.channels[: -scored - 1 : -1])  # the coarsest first
        strides = list(self.encoder.strides[: -scored - 1 : -1])
        self.head: nn.Module = nn.Identity()
        if name == "vgg16":
            (hidden,) = widen([_FC_CHANNELS], width_multiplier)
            self.head = _fully_connected(layers, channels[0], hidden, dropout, self.encoder.kernels[-1])
            channels[0] = hidden
            self.published_heads = {"head.0": "classifier.0", "head.3": "classifier.3"}
        elif dropout:
            self.head = layers.make_dropout(dropout)
        self.scores = nn.ModuleList(layers.conv(n, num_classes, 1) for n in channels)
        self.gates = nn.ModuleList(make_gate(attention, layers, n, num_classes) for n in channels[1:])
        init_he(self)
        steps = [tuple(a // b for a, b in zip(*pair, strict=True)) for pair in pairwise(strides)] + strides[-1:]
        self.ups = nn.ModuleList(Upsampling(num_classes, step, learned=upsampling == "learned") for step in steps)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        size = x.shape[2:]
        features = self.encoder(pad_to_multiple(x, self.multiple))[::-1]  # the coarsest first
        logits: Tensor = self.scores[0](self.head(features[0]))
        for n, gate in enumerate(self.gates):
            logits = self.ups[n](logits)
            logits = logits + self.scores[n + 1](gate(features[n + 1], logits))
        return crop_to(self.ups[-1](logits), size)

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image to the logits; the last one counts the classes."""
        return [*self.encoder.parts(), [self.head], [self.scores, self.gates, self.ups]]


class Upsampling(nn.Module):
    """Transposed convolution with kernel 2s and stride s, at first linear interpolation.

    Args:
        channels: In and out.
        stride: Factor s along each axis; an axis of 1 is left alone.
        learned: Whether it is trained, across channels too; otherwise it interpolates each channel for good.
    """

    weight: Tensor

    def __init__(self, channels: int, stride: Sizes, *, learned: bool) -> None:
        super().__init__()
        self.stride, self.groups = stride, 1 if learned else channels
        self.padding = tuple(math.ceil((k - s) / 2) for k, s in zip(_kernels(stride), stride, strict=True))
        kernel = linear_kernel(stride)
        if learned:
            weight = torch.zeros(channels, channels, *kernel.shape)
            weight[range(channels), range(channels)] = kernel
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", kernel.expand(channels, 1, *kernel.shape).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *spatial) to (B, C, *spatial x stride)."""
        return _TRANSPOSE[len(self.stride)](
            x, self.weight, stride=self.stride, padding=self.padding, groups=self.groups
        )


def linear_kernel(stride: Sizes) -> Tensor:
    """Return the kernel (2s along each axis, 1 where s is 1) with which a transposed convolution interpolates."""
    kernel = torch.ones(())
    for size, step in zip(_kernels(stride), stride, strict=True):
        line = 1 - (torch.arange(size) - (size - 1) / 2).abs() / step
        kernel = kernel[..., None] * line
    return kernel


def _kernels(stride: Sizes) -> Sizes:
    return tuple(2 * step if step > 1 else 1 for step in stride)


def _fully_connected(layers: Layers, inputs: int, hidden: int, dropout: float, kernel: Sizes) -> nn.Sequential:
    """VGG16's first two fully connected layers, fc6 and fc7, as convolutions."""
    return nn.Sequential(
        layers.conv(inputs, hidden, tuple(7 if n > 1 else 1 for n in kernel)),
        layers.make_act(),
        layers.make_dropout(dropout),
        layers.conv(hidden, hidden, 1),
        layers.make_act(),
        layers.make_dropout(dropout),
    )
