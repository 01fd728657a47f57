"""DeepLab v1 and v2: dilated backbones, scores at several rates, linear upsampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.networks.aspp import Rates, SummedASPP, resolve_rates
from medseg.networks.attention import Attention, refuse_gate
from medseg.networks.backbone import Backbone, BackboneName, Encoder, FirstBlockDilation, Shortcut
from medseg.networks.blocks import Act, Dims, Layers, Norm, Sizes, check_dropout, init_he, widen
from medseg.networks.encoders import make_encoder

_FC_CHANNELS = 1024
_PAPER_SIZE = 41  # places of the feature map of a 321 pixel crop at stride 8
_LARGEST_SCALE = 4
_V1_RATE = (12,)
_V2_RATES = (6, 12, 18, 24)


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV: VGG16 whose last two poolings keep the size, and one widely dilated convolution.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        rates: Dilation of the one branch: 12 as the paper, numbers, or ``auto``: fitted to the patch.
        patch_size: Voxels that the network is trained on; a config fills it in.
        norm: Normalisation of the backbone.
        act: Activation.
        dropout: Probability of dropping a channel of the two last layers, while training.
        attention: ``se`` or ``cbam`` recalibrates each feature map.
        width_multiplier: Of all channels.
        spacing_mm: Of the input, one number an axis: an axis is thick while its spacing is over twice the smallest.
            A config fills it in from its preprocessing.

    Raises:
        UsageError: A field is out of its range.

    Source: Chen et al. 2015 (arXiv:1412.7062).
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Dims,
        in_channels: int,
        num_classes: int,
        *,
        rates: Rates = "paper",
        patch_size: Sizes | None = None,
        norm: Norm = "none",
        act: Act = "relu",
        dropout: float = 0.5,
        attention: Attention = "none",
        width_multiplier: float = 1.0,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        refuse_gate(attention, "deeplabv1")
        self.layers, self.norm = Layers(spatial_dims, norm, act), norm
        spec = Backbone(
            "vgg16",
            in_channels,
            output_stride=8,
            attention=attention,
            width_multiplier=width_multiplier,
            spacing_mm=spacing_mm,
        )
        self.encoder = make_encoder(self.layers, spec)
        self.multiple = self.encoder.strides[-1]
        found = _rates(rates, _V1_RATE, patch_size, self.encoder)
        if len(found) != 1:
            raise UsageError("network.rates", expected="one rate", found=str(rates), remedy="choose one")
        (hidden,) = widen([_FC_CHANNELS], width_multiplier)
        kernel = self.encoder.kernels[-1]
        self.head = nn.Sequential(
            self.layers.zero_pad(tuple(n // 2 for n in kernel)),
            self.layers.mean_pool(kernel, 1),
            self.layers.conv(self.encoder.channels[-1], hidden, kernel, dilation=found[0]),
            self.layers.make_act(),
            self.layers.make_dropout(dropout),
            self.layers.conv(hidden, hidden, 1),
            self.layers.make_act(),
            self.layers.make_dropout(dropout),
            self.layers.conv(hidden, num_classes, 1),
        )
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        return self.layers.resize(self.head(self.encoder(x)[-1]), x.shape[2:])

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image to the logits; the last one counts the classes."""
        return [*self.encoder.parts(), [self.head[:-1]], [self.head[-1]]]


class DeepLabV2(nn.Module):
    """A dilated ResNet and the sum of scores at four rates, optionally of the image at several scales.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Image channels.
        num_classes: Output channels, background included.
        backbone: ``resnet101`` as the paper, or another.
        rates: Dilation of each branch: 6, 12, 18, 24 as the paper, numbers, or ``auto``: fitted to the patch.
        patch_size: Voxels that the network is trained on; a config fills it in.
        scales: Of the image; the largest score of all scales wins at each place. The paper has 1, 0.75 and 0.5.
        first_block_dilation: Of a ResNet's dilated stages: the dilation before (``prev``) or its own (``full``).
        shortcut: Of a ResNet: B projects, A pads with zeros.
        norm: Normalisation of the backbone; by default batch, none for VGG16.
        act: Activation of the backbone.
        dropout: Probability of dropping a channel before the scores, while training.
        attention: ``se`` or ``cbam`` recalibrates each feature map.
        width_multiplier: Of the backbone's channels.
        spacing_mm: Of the input, one number an axis: an axis is thick while its spacing is over twice the smallest.
            A config fills it in from its preprocessing.

    Raises:
        UsageError: A field is out of its range.

    Source: Chen et al. 2018 (arXiv:1606.00915).
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        spatial_dims: Dims,
        in_channels: int,
        num_classes: int,
        *,
        backbone: BackboneName = "resnet101",
        rates: Rates = "paper",
        patch_size: Sizes | None = None,
        scales: tuple[float, ...] = (1.0,),
        first_block_dilation: FirstBlockDilation = "full",
        shortcut: Shortcut = "B",
        norm: Norm | None = None,
        act: Act = "relu",
        dropout: float = 0.0,
        attention: Attention = "none",
        width_multiplier: float = 1.0,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        refuse_gate(attention, "deeplabv2")
        if not scales or min(scales) <= 0:
            raise UsageError(
                "network.scales", expected="positive numbers", found=str(scales), remedy="correct them"
            )
        self.scales = scales
        self.norm: Norm = norm or ("none" if backbone == "vgg16" else "batch")
        self.layers = Layers(spatial_dims, self.norm, act)
        spec = Backbone(
            backbone,
            in_channels,
            output_stride=8,
            first_block_dilation=first_block_dilation,
            shortcut=shortcut,
            attention=attention,
            width_multiplier=width_multiplier,
            spacing_mm=spacing_mm,
        )
        self.encoder = make_encoder(self.layers, spec)
        self.multiple = tuple(math.ceil(step / min(scales)) for step in self.encoder.strides[-1])
        found = _rates(rates, _V2_RATES, patch_size, self.encoder)
        self.drop = self.layers.make_dropout(dropout)
        self.head = SummedASPP(self.layers, self.encoder.channels[-1], num_classes, found, self.encoder.kernels[-1])
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, *spatial) to logits (B, K, *spatial)."""
        size = x.shape[2:]
        best: Tensor | None = None
        for scale in self.scales:
            image = self.layers.resize(x, [max(1, round(n * scale)) for n in size])
            scores = self.layers.resize(self.head(self.drop(self.encoder(image)[-1])), size)
            best = scores if best is None else torch.maximum(best, scores)
        if best is None:
            raise ValueError("there is always at least one scale")
        return best

    def parts(self) -> list[list[nn.Module]]:
        """Return its modules in parts, from the image to the logits; the last one counts the classes."""
        return [*self.encoder.parts(), [self.head]]


def _rates(rates: Rates, paper: tuple[int, ...], patch_size: Sizes | None, encoder: Encoder) -> tuple[Sizes, ...]:
    return resolve_rates(
        rates,
        paper=paper,
        paper_size=_PAPER_SIZE,
        patch_size=patch_size,
        stride=encoder.strides[-1],
        kernel=encoder.kernels[-1],
    )
